"""``fsm replay``: decide again what was decided, with the observations that were recorded then."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click
from attrs import define, field

from fsm.cli.exit_codes import ExitCode
from fsm.cli.machine import described
from fsm.cli.replay_page import Step, page
from fsm.cli.sources import WHOLE_JOURNAL, Source, open_source
from fsm.errors import BadInput, JournalCorrupt, ReplayDivergence
from fsm.hypervisor.uris import safe_text
from fsm.journal.events import Decided
from fsm.machine.replay import Replay, Verdict
from fsm.machine.spec import Spec

# So many kinds of divergence are told apart; a machine has fewer, a damaged log may have any number.
MAX_KINDS = 100


@click.command()
@click.argument("what", nargs=-1)
@click.option("--migration", metavar="ID", help="Only this migration of a log.")
@click.option("--until", type=click.IntRange(1), metavar="N", help="Stop behind each migration's record N.")
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Show the records as they came, X times as fast as then.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write one migration as a page that steps through it.",
)
@click.option(
    "--against",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="STATES.YAML",
    help="Count what this machine would have decided otherwise.",
)
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object.")
@click.pass_context
def replay(
    context: click.Context,
    what: tuple[str, ...],
    migration: str | None,
    until: int | None,
    speed: float | None,
    html: Path | None,
    against: Path | None,
    as_json: bool,
) -> None:
    """Replay WHAT: a migration's ID, `journal` for all of them (also when left out), or log files.

    Log files hold JSON lines, may be compressed, and bring the files along that they were rotated into. The
    first record that this machine would have decided otherwise ends the replay with exit code 1.
    """
    spec = described(context, against)
    tally = Tally(spec, stops=against is None and html is None)
    source = open_source(context, what or (WHOLE_JOURNAL,), tally.damage)
    tally.source = source
    events = _wanted(source.events, migration, until)
    if html is not None:
        _write_page(html, spec, tally, events)
    elif not as_json and (speed is not None or migration is not None or _is_one(what, source)):
        _show(tally, events, speed)
    else:
        for event in events:
            tally.take(event)
    _finish(context, tally, as_json=as_json)


def _is_one(what: tuple[str, ...], source: Source) -> bool:
    return source.where() == "" and len(what) == 1 and what[0] != WHOLE_JOURNAL and not Path(what[0]).exists()


def _wanted(events: Iterator[Decided], migration: str | None, until: int | None) -> Iterator[Decided]:
    for event in events:
        if migration is not None and event.migration != migration:
            continue
        if until is None or event.sequence <= until:
            yield event


@define
class _Kind:
    """Divergences of one kind: how many, and the first."""

    first: str
    count: int = 0


@define
class Tally:
    """Counts, and stops at the first trouble unless it shall count that as well."""

    spec: Spec
    stops: bool
    source: Source | None = None
    records: int = 0
    decisions: int = 0
    divergences: int = 0
    damaged: int = 0
    kinds: dict[tuple[str, ...], _Kind] = field(factory=dict)
    first_damage: str = ""
    replay: Replay = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.replay = Replay(self.spec)

    @property
    def where(self) -> str:
        """Where the present record stands."""
        return self.source.where() if self.source else ""

    def take(self, event: Decided) -> Verdict | ReplayDivergence | JournalCorrupt | None:
        """Replay one record; what is wrong with it is raised, or counted and returned."""
        self.records += 1
        try:
            verdict = self.replay.take(event)
        except ReplayDivergence as error:
            self.decisions += 1
            return self._diverges(error)
        except JournalCorrupt as error:
            self.damage(error)
            return error
        self.decisions += verdict is not None
        return verdict

    def _diverges(self, error: ReplayDivergence) -> ReplayDivergence:
        if self.stops:
            if self.where:
                click.echo(f"fsm: {self.where}this record diverges", err=True)
            raise error
        self.divergences += 1
        key = (error.state, error.recorded, error.decided, error.why)
        if key in self.kinds or len(self.kinds) < MAX_KINDS:
            first = f"{self.where}record {error.sequence} of migration {error.migration}"
            self.kinds.setdefault(key, _Kind(first)).count += 1
        return error

    def damage(self, error: JournalCorrupt) -> None:
        """A record can't be read, or does not follow from those before it."""
        if self.stops:
            raise error
        self.damaged += 1
        self.first_damage = self.first_damage or str(error)


def _show(tally: Tally, events: Iterator[Decided], speed: float | None) -> None:
    """Each decision in a line; in its own time, if that is asked for."""
    last: datetime | None = None
    pause = threading.Event()  # never set: nobody but the user ends the show
    state = ""
    for event in events:
        if speed is not None and last is not None:
            pause.wait(max((event.at - last).total_seconds(), 0) / speed)
        last = event.at
        verdict = tally.take(event)
        if line := _line(event, verdict):
            click.echo(line)
        done = event.event == "transition-outcome" and not event.error
        state = event.dest if done else event.state
    if state:
        click.echo(f"in the end in state {state}")


def _line(event: Decided, verdict: object) -> str:
    head = f"{event.sequence:5} {event.at:%H:%M:%S.%f}"[:-3] + f" {event.state}: "
    if isinstance(verdict, Verdict):
        observed = ", ".join(verdict.row.when) if verdict.row and verdict.row.when else "anything else"
        return f"{head}{verdict}, on {observed}"
    if event.error:
        return f"{head}{event.name} failed: {safe_text(event.error)}"
    return f"{head}{event.name} asked for" if event.event == "request-outcome" else ""


def _write_page(path: Path, spec: Spec, tally: Tally, events: Iterator[Decided]) -> None:
    steps: list[Step] = []
    for event in events:
        if steps and steps[0].event.migration != event.migration:
            raise BadInput("the log has several migrations", remedy="name one of them with --migration")
        steps.append(Step(event, tally.take(event)))
    if not steps:
        return
    written = page(spec, steps)
    try:
        path.write_text(written, "utf-8")
    except OSError as error:
        raise BadInput(f"{path} can't be written: {error.strerror}") from error


def _finish(context: click.Context, tally: Tally, *, as_json: bool) -> None:
    replayed = tally.replay
    if not tally.records and not tally.damaged:
        raise BadInput(
            "there is nothing to replay: no transition event was found",
            remedy="a log must have them as JSON lines, as `fsm -v` writes them",
        )
    for path in tally.source.torn if tally.source else ():
        click.echo(f"fsm: {path}: the last line is cut off and left out", err=True)
    if replayed.missing:
        click.echo(
            f"fsm: {replayed.missing} records are not in the log: it begins behind them, or an engine died "
            "before it logged them",
            err=True,
        )
    if as_json:
        click.echo(json.dumps(_summary(tally)))
    else:
        _tell(tally)
    if tally.divergences or tally.damaged:
        context.exit(ExitCode.UNEXPECTED)


def _summary(tally: Tally) -> dict[str, object]:
    names = ("state", "recorded", "decided", "why")
    kinds = sorted(tally.kinds.items(), key=lambda item: -item[1].count)
    return {
        "machine": tally.spec.digest,
        "migrations": tally.replay.migrations,
        "records": tally.records,
        "decisions": tally.decisions,
        "divergences": tally.divergences,
        "diverging_migrations": tally.replay.diverging,
        "missing": tally.replay.missing,
        "damaged": tally.damaged,
        "kinds": [
            {**dict(zip(names, key, strict=True)), "count": kind.count, "first": kind.first}
            for key, kind in kinds
        ],
    }


def _tell(tally: Tally) -> None:
    seen = f"{tally.replay.migrations} migrations, {tally.records} records, {tally.decisions} decisions"
    if not tally.divergences:
        click.echo(f"{seen}: {tally.spec.file} ({tally.spec.digest}) decides as recorded")
    else:
        click.echo(
            f"{seen}: {tally.spec.file} ({tally.spec.digest}) decides otherwise {tally.divergences} times, "
            f"in {tally.replay.diverging} migrations"
        )
    for (state, was, now, why), kind in sorted(tally.kinds.items(), key=lambda item: -item[1].count):
        click.echo(f"{kind.count:8} times in state {state!r} it was decided to {was}; it would {now}: {why}")
        click.echo(f"{'':8} first: {kind.first}")
    if tally.damaged:
        click.echo(f"{tally.damaged} records are damaged or missing; first: {tally.first_damage}")
