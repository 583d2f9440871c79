"""What ``fsm check --explore`` prints: the proof in numbers, or the shortest trace to a violation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec
from attrs import evolve

from fsm.errors import BadInput
from fsm.journal import events
from fsm.journal.records import Data, Phase, Record, Step
from fsm.machine.exploration.activities import COMMITS
from fsm.machine.exploration.environment import ADOPTION
from fsm.machine.exploration.explore import explore
from fsm.machine.exploration.node import Kind, Node, Taken
from fsm.machine.exploration.node import Step as ExploredStep
from fsm.machine.exploration.search import OutOfBounds, Violation
from fsm.machine.exploration.trace import MEANINGS, lines, mermaid
from fsm.machine.spec import Spec

MIGRATION = "explored"
# A trace has no times of its own; its records are a second apart.
_BEGAN = datetime(2000, 1, 1, tzinfo=UTC)


def records(spec: Spec, violation: Violation) -> Iterator[Record]:
    """The records that an engine would have written along the trace, in their order.

    Where the journal gets lost on the way: those of the one that begins with the adoption.
    """
    state, taken = spec.initial, None
    number = 0
    lost = [at for at, (step, _) in enumerate(violation.trace) if step == ADOPTION]
    for step, after in violation.trace[lost[0] if lost else 0 :]:
        if step == ADOPTION:
            state = spec.initial
        for record in _records(step, state, taken, after):
            number += 1
            yield evolve(
                record, sequence=number, at=_BEGAN + timedelta(seconds=number), spec_digest=spec.digest
            )
        state, taken = after.facts.state, after.taken or (taken if step.kind == Kind.HOSTS else None)


def _records(step: ExploredStep, state: str, taken: Taken | None, after: Node) -> Iterator[Record]:
    match step.kind:
        case Kind.INTENT:
            dest = after.taken.dest if after.taken else ""
            yield Record(Step.TRANSITION, Phase.INTENT, step.name, state, dest, step.seen)
        case Kind.ACTION:
            yield Record(Step.ACTION, Phase.OUTCOME, step.name, state, error=step.error)
            if step.error and taken is not None:
                yield Record(
                    Step.TRANSITION, Phase.OUTCOME, taken.trigger, state, taken.dest, error=step.error
                )
        case Kind.OUTCOME:
            yield Record(Step.TRANSITION, Phase.OUTCOME, step.name, state, after.facts.state)
        case Kind.BEGIN:
            yield Record(Step.ACTIVITY, Phase.INTENT, step.name, state, observation=step.seen)
        case Kind.END:
            data = _outcome(step.name, after) if not step.error else {}
            if step.name in COMMITS:
                data = {"started_paused": after.facts.started_paused}
            yield Record(Step.ACTIVITY, Phase.OUTCOME, step.name, state, error=step.error, data=data)
        case Kind.NOTE:
            yield Record(Step.ACTION, Phase.OUTCOME, step.name, state, data=_noted(step.name, after))
        case Kind.REQUEST:
            name, _, asked = step.name.partition(" --")
            option, _, side = asked.partition(" ")
            told: dict[str, Data] = {"fenced": {"fenced": [side]}, "accept-loss": {"accept_loss": ["theirs"]}}
            data = told.get(option, {})
            if name == "adopt":
                data = {"started_paused": after.facts.started_paused}
            yield Record(Step.REQUEST, Phase.OUTCOME, name, state, data=data)


def _outcome(activity: str, after: Node) -> Data:
    if activity == "preflight":
        return {"preflight": after.facts.preflight}
    return {"copies_verified": True} if activity == "copy-bases" else {}


def _noted(name: str, after: Node) -> Data:
    if name == "start-paused":
        return {"started_paused": after.facts.started_paused}
    if name == "rescue-snapshot":
        return {"rescued": [{"name": "theirs", "images": [], "xml": ""}]}
    fenced = {"source": after.facts.fenced_source, "destination": after.facts.fenced_destination}
    return {"unfenced": [side for side, holds in fenced.items() if not holds]}


def log(spec: Spec, violation: Violation) -> bytes:
    """The trace as the log of an engine that went that way: ``fsm replay`` reads it."""
    told = (events.of_record(MIGRATION, record) for record in records(spec, violation))
    return b"".join(msgspec.json.encode(event) + b"\n" for event in told)


def proven(spec: Spec, bound: int, trace: Path | None) -> bool:
    """Explore, and print what comes of it; a violation's log goes to ``trace``, else to stdout.

    Raises ``BadInput`` where nothing is proven.
    """
    try:
        report = explore(spec, bound)
    except OutOfBounds as error:
        raise BadInput(
            f"{spec.file}: {error}; nothing is proven", remedy="raise --bound, or make the machine smaller"
        ) from error
    if report.violation is None:
        click.echo(f"explored: {report.points} points, {report.steps} steps; {len(MEANINGS)} invariants hold")
        return True
    for line in lines(report.violation):
        click.echo(f"fsm: {line}", err=True)
    click.echo(mermaid(report.violation))
    written = log(spec, report.violation)
    if trace is None:
        click.echo(written, nl=False)
        return False
    try:
        trace.write_bytes(written)
    except OSError as error:
        raise BadInput(f"{trace} can't be written: {error.strerror}") from error
    click.echo(f"fsm: its log is in {trace}", err=True)
    return False
