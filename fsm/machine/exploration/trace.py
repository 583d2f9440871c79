"""A violation as its reader wants it: the steps in order, as lines and as a sequence diagram in Mermaid."""

from __future__ import annotations

from collections.abc import Iterator

from fsm.machine.exploration.calm import FUTURES
from fsm.machine.exploration.decision_invariants import ANSWERS, DECISIONS
from fsm.machine.exploration.effects import EFFECTS
from fsm.machine.exploration.hosts import DESTINATION, SOURCE, World
from fsm.machine.exploration.invariants import POINTS, STEPS
from fsm.machine.exploration.node import Kind, Node, Step
from fsm.machine.exploration.search import Violation

MEANINGS = {
    one.__name__: (one.__doc__ or "").strip() for one in (*POINTS, *ANSWERS, *DECISIONS, *STEPS, *FUTURES)
}


def lines(violation: Violation) -> Iterator[str]:
    """One line a step."""
    yield f"{violation.invariant} does not hold: {MEANINGS.get(violation.invariant, '')}"
    for number, (step, after) in enumerate(violation.trace):
        if number == violation.calm_from:
            yield "  from here on there are no more accidents:"
        yield f"  {number + 1:3} {_told(step)}"
        if number + 1 == len(violation.trace):
            yield f"      then: {after.facts.state}; {_hosts(after.world)}"


def _told(step: Step) -> str:
    failed = f": {step.error}" if step.error else ""
    return f"{step.kind} {step.name}{failed}"


def _hosts(world: World) -> str:
    told = []
    for side in (SOURCE, DESTINATION):
        place = world.at(side)
        commit = f", commit {place.commit}" if place.commit else ""
        told.append(f"{side} {place.life} on {place.layer}{commit}{'' if place.up else ', off'}")
    return "; ".join(told) + f"; newest writes: {world.newest}"


def mermaid(violation: Violation) -> str:
    """The same as a sequence diagram: journal, engine and the two hosts."""
    told = [
        "sequenceDiagram",
        *(f"  participant {name}" for name in ("people", "journal", "engine", SOURCE, DESTINATION)),
    ]
    before: Node | None = None
    for number, (step, after) in enumerate(violation.trace):
        if number == violation.calm_from:
            told.append("  Note over journal,destination: no more accidents from here on")
        told += _arrows(step, before, after)
        before = after
    told.append(f"  Note over journal,{DESTINATION}: {violation.invariant} does not hold")
    return "\n".join(told) + "\n"


def _arrows(step: Step, before: Node | None, after: Node) -> Iterator[str]:
    text = _told(step).replace(";", ",").replace("#", "")
    lost = "-x" if step.error else "->>"
    match step.kind:
        case Kind.ACTION:
            side = EFFECTS[step.name].side or SOURCE
            yield f"  engine{lost}{side}: {text}"
            yield f"  engine->>journal: outcome of {step.name}"
        case Kind.CALL:
            yield f"  engine{lost}{_side(before)}: {text}"
        case Kind.INTENT | Kind.BEGIN | Kind.OUTCOME | Kind.END | Kind.NOTE:
            yield f"  engine->>journal: {text}"
        case Kind.REQUEST:
            yield f"  people->>journal: {text}"
        case Kind.CRASH:
            yield f"  Note over engine: {text}"
        case _:
            yield f"  Note over {SOURCE},{DESTINATION}: {text}"
    if step.kind == Kind.OUTCOME:
        yield f"  Note over journal: {after.facts.state}"


def _side(before: Node | None) -> str:
    return DESTINATION if before is not None and before.activity == "commit-at-destination" else SOURCE
