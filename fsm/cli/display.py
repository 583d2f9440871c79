"""What the user sees while a migration runs: bars on a terminal, lines in a pipe, or JSON."""

from __future__ import annotations

import json
import os
import sys
from types import TracebackType
from typing import Protocol, Self

import click

from fsm.engine import events
from fsm.engine.context import Progress
from fsm.engine.plan import Rescued
from fsm.engine.result import Result
from fsm.hypervisor.uris import safe_text, safe_uri
from fsm.journal.records import Header, Phase, Record, Step, converter


class Display(Protocol):
    """Shows one migration."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing, before the result."""

    def progress(self, progress: Progress) -> None:
        """A phase has come further."""

    def record(self, record: Record) -> None:
        """A record was written."""

    def say(self, text: str) -> None:
        """Tell the user something now."""

    def result(self, result: Result) -> None:
        """The end."""


class Lines:
    """Plain lines: one for each state and each failure."""

    def __enter__(self) -> Self:
        """See ``Display``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See ``Display``."""

    def progress(self, progress: Progress) -> None:
        """Lines show states, not bytes."""

    def record(self, record: Record) -> None:
        """See ``Display``."""
        if text := line_of(record):
            self.say(text)

    def say(self, text: str) -> None:
        """See ``Display``."""
        _echo(text)

    def result(self, result: Result) -> None:
        """See ``Display``."""
        show_result(result)


class JsonLines:
    """One JSON object a line: records, progress, and last the result."""

    def __enter__(self) -> Self:
        """See ``Display``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See ``Display``."""

    def progress(self, progress: Progress) -> None:
        """See ``Display``."""
        self._write("progress", converter.unstructure(progress))

    def record(self, record: Record) -> None:
        """See ``Display``."""
        self._write("record", public(record))

    def say(self, text: str) -> None:
        """See ``Display``."""
        self._write("message", {"text": text})

    def result(self, result: Result) -> None:
        """See ``Display``."""
        self._write("result", converter.unstructure(result))

    def _write(self, event: str, values: dict[str, object]) -> None:
        _echo(json.dumps({"event": event, **values}, default=str))


def public(record: Record) -> dict[str, object]:
    """A record for other eyes than the journal's: without the XML that plan and snapshots hold."""
    values: dict[str, object] = converter.unstructure(record)
    return {**values, "error": safe_text(record.error), "data": events.public(record.data)}


def public_header(header: Header) -> dict[str, object]:
    """A header for other eyes than the journal's: without passwords in URIs."""
    values: dict[str, object] = converter.unstructure(header)
    values["request"] = {
        key: safe_uri(value) if key.endswith("_uri") and value else value
        for key, value in header.request.items()
    }
    return values


def line_of(record: Record) -> str:
    """What a record tells a reader in one line, empty when it is of no interest."""
    if record.error:
        return f"{record.state}: {record.name} failed: {record.error}"
    if "warning" in record.data:
        return f"{record.state}: {record.data['warning']}"
    if notes := record.data.get("notes"):
        return "; ".join(f"note: {note['host']}: {note['message']}; {note['remedy']}" for note in notes)
    if kept_bytes := record.data.get("kept_bytes"):
        return f"{record.state}: {record.name} kept {kept_bytes >> 20} MiB of an interrupted copy"
    if compression := record.data.get("compression"):
        return f"{record.state}: {record.name}: {compression}"
    if rescued := record.data.get("rescued"):
        return "; ".join(one.what for one in converter.structure(rescued, list[Rescued]))
    if record.step is Step.TRANSITION and record.phase is Phase.OUTCOME:
        return f"{record.state} -> {record.dest} ({record.name})"
    if record.step is Step.ACTIVITY and record.phase is Phase.INTENT:
        return f"{record.state}: {record.name}"
    return ""


def show_result(result: Result) -> None:
    """The end, for a reader."""
    _echo(f"{result.migration}: domain {result.domain} is {result.state} after {result.duration_s:.1f} s")
    if result.findings:
        for finding in result.findings:
            _echo(f"fsm: {finding.host}: {finding.message} [{finding.check}]", err=True)
            if finding.remedy:
                _echo(f"  what to do: {finding.remedy}", err=True)
    elif result.cause:
        _echo(f"fsm: {result.cause}", err=True)
        if result.remedy:
            _echo(f"  what to do: {result.remedy}", err=True)
    if result.left_behind:
        _echo(f"fsm: left behind: {', '.join(result.left_behind)}", err=True)
    for pull in result.pulling:
        _echo(f"fsm: a block pull has begun, and goes on by itself; {pull}")
    for why in result.not_flattened:
        _echo(f"fsm: not flattened: {why}", err=True)


def _echo(text: str, *, err: bool = False) -> None:
    """Print a line. A reader that has gone, or a full disk, changes nothing about how a migration ends."""
    try:
        click.echo(text, err=err)
    except OSError:
        # What is still in the stream's buffer would fail again when Python ends, and be the exit code.
        stream = sys.stderr if err else sys.stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
