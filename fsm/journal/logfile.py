"""Reads transition events back from log files, compressed or rotated, with other lines in between."""

from __future__ import annotations

import re
import sys
import zlib
from bz2 import BZ2File
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from gzip import GzipFile
from lzma import LZMAError, LZMAFile
from pathlib import Path
from typing import BinaryIO, get_args

import msgspec
from attrs import define, field

from fsm.errors import BadInput, JournalCorrupt
from fsm.journal import events
from fsm.journal.events import Decided

STDIN = Path("-")
_MAGIC: dict[bytes, type[GzipFile] | type[BZ2File] | type[LZMAFile]] = {
    b"\x1f\x8b": GzipFile,
    b"BZh": BZ2File,
    b"\xfd7zXZ\x00": LZMAFile,
}
_ROTATED = re.compile(r"[.-]\d+(\.(gz|bz2|xz))?")
# What a piece of a line is known by: structlog writes the event's name last.
_OURS = (b'"migration"', b'"sequence"')
_BUFFER_BYTES = 1 << 18
# The second for what is nested too deeply; it can't be one of ours.
_DECODING = (msgspec.DecodeError, RecursionError)
_READING = (OSError, EOFError, zlib.error, LZMAError)
_FIRST = (datetime.min.replace(tzinfo=UTC), 0)


def with_rotated(path: Path) -> list[Path]:
    """The log and the files beside it that it was rotated into, such as ``log.1`` or ``log-20240229.xz``."""
    name = path.name
    beside = (other for other in path.parent.iterdir() if other.name.startswith(name))
    return [*sorted(other for other in beside if _ROTATED.fullmatch(other.name[len(name) :])), path]


def _raise(error: JournalCorrupt) -> None:
    raise error


@define
class LogReader:
    """The events of log files, oldest file first.

    ``on_damage`` is given each line that is an event and can't be read; the reader goes on behind it unless
    that raises. ``where`` says which line was read last. ``torn`` names the files whose last line was cut off
    in the middle: an engine or a machine died while it was written.
    """

    paths: Sequence[Path]
    on_damage: Callable[[JournalCorrupt], None] = _raise
    torn: list[Path] = field(factory=list)
    _path: Path = Path()
    _line: int = 0

    @property
    def where(self) -> str:
        """File and line of the last event."""
        return f"{self._path}:{self._line}"

    def __iter__(self) -> Iterator[Decided]:
        """Every event. Raises ``JournalCorrupt`` for a damaged file, ``BadInput`` for a missing one."""
        paths = list(self.paths)
        if len(paths) > 1:
            paths.sort(key=_begins)
        for path in paths:
            self._path = path
            yield from self._events(path)

    def _events(self, path: Path) -> Iterator[Decided]:
        decode, number = events.decode, 0
        try:
            with _open(path) as file:
                for number, line in enumerate(file, start=1):
                    # Most lines of a busy log are no events; this looks at a line without parsing it.
                    if b'"sequence"' not in line:
                        continue
                    self._line = number
                    try:
                        event = decode(line)
                    except _DECODING as error:
                        found = self._second_look(line, error)
                        if found is None:
                            continue
                        event = found
                    yield event
        except _READING as error:
            message = f"{path}: can't be read on behind line {number}: {error}"
            raise JournalCorrupt(message, remedy="restore the file, or leave it away") from error

    def _second_look(self, line: bytes, error: Exception) -> Decided | None:
        """An event behind a prefix, or None for a line that is none of ours."""
        start = line.find(b"{")
        if start > 0:  # a prefix may itself begin like JSON, as a date does
            try:
                return events.decode(line[start:])
            except _DECODING:
                start = -1
        try:
            what = msgspec.json.decode(line)
        except _DECODING:
            if not all(key in line for key in _OURS):
                return None
            if not line.endswith(b"\n"):
                self.torn.append(self._path)
            else:
                self._damaged("is damaged", error)
            return None
        kind = what.get("event") if isinstance(what, dict) else None
        if kind not in get_args(events.Kind):
            return None
        if what.get("schema") != events.VERSION:
            self._damaged(f"has schema {what.get('schema')!r}, not {events.VERSION}", error)
        else:
            self._damaged("is no event as the schema describes it", error)
        return None

    def _damaged(self, what: str, error: Exception) -> None:
        remedy = "replay the journal itself, which has every record"
        self.on_damage(JournalCorrupt(f"{self.where}: the line {what}: {error}", remedy=remedy))


def _open(path: Path) -> BinaryIO | GzipFile | BZ2File | LZMAFile:
    if path == STDIN:
        return sys.stdin.buffer
    try:
        with path.open("rb") as file:
            head = file.read(6)
        for magic, opened in _MAGIC.items():
            if head.startswith(magic):
                return opened(path)
        return path.open("rb", buffering=_BUFFER_BYTES)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error


def _begins(path: Path) -> tuple[datetime, int]:
    """When the first event of a file was written, and its number; a file without any may stand anywhere."""
    quiet = LogReader([path], on_damage=lambda _error: None)
    return next(((event.at, event.sequence) for event in quiet), _FIRST)
