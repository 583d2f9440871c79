"""What a guest, and the engine's clock, went through in each state of a migration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from attrs import frozen

from bench.results import InState, Phase
from fsm.lab.serial import Arrival, longest_gap

SHORTEST_S = 0.1
"""A guest writes some 150 times a second, so that less than this tells no rate."""

Interval = tuple[float, float]
"""Begin and end, by CLOCK_MONOTONIC."""


@frozen(kw_only=True)
class Seen:
    """What was recorded besides the phases. ``busy_s``: when calls to hosts were under way; None: unknown."""

    began_s: float
    arrivals: Sequence[Arrival]
    disks: Sequence[str]
    undisturbed_per_s: float
    busy_s: Sequence[Interval] | None = None


def in_states(phases: Sequence[Phase], seen: Seen) -> tuple[InState, ...]:
    """The states in the order of time; ``seen.began_s`` is when the first phase began.

    The engine's own time is told from the migration's creation to its last record: the first phase is the
    interpreter's, the last one the command's exit.
    """
    engine_begin_s = seen.began_s + phases[0].seconds
    engine = engine_begin_s, engine_begin_s + sum(phase.seconds for phase in phases[1:-1])
    found = []
    begin_s = seen.began_s
    for state, group in groupby(phases, lambda phase: phase.state):
        end_s = begin_s + sum(phase.seconds for phase in group)
        found.append(_in_state(state, (begin_s, end_s), engine, seen))
        begin_s = end_s
    return tuple(found)


def _in_state(state: str, stretch: Interval, engine: Interval, seen: Seen) -> InState:
    begin_ms, end_ms = (moment * 1000 for moment in stretch)
    seconds = stretch[1] - stretch[0]
    writes = sum(begin_ms <= one.at_ms < end_ms and one.ack.disk in seen.disks for one in seen.arrivals)
    rate = writes / seconds if seconds >= SHORTEST_S else None
    return InState(
        state,
        seconds,
        writes_per_s=rate,
        of_undisturbed=rate / seen.undisturbed_per_s if rate is not None and seen.undisturbed_per_s else None,
        stall_ms=longest_gap(seen.arrivals, seen.disks, begin_ms, end_ms).ms,
        own_s=None if seen.busy_s is None else _own_s(_common(stretch, engine), seen.busy_s),
    )


def _common(one: Interval, other: Interval) -> Interval:
    """What two intervals share; of no length where that is nothing."""
    begin_s, end_s = max(one[0], other[0]), min(one[1], other[1])
    return begin_s, max(begin_s, end_s)


def _own_s(stretch: Interval, busy_s: Iterable[Interval]) -> float:
    """How much of a stretch is in none of the intervals, which don't overlap."""
    shared = (_common(stretch, one) for one in busy_s)
    return stretch[1] - stretch[0] - sum(end_s - begin_s for begin_s, end_s in shared)


def own_s(states: Iterable[InState]) -> float | None:
    """The engine's own time in all states; None where it is not known."""
    known = [one.own_s for one in states if one.own_s is not None]
    return sum(known) if known else None


def most_stalled(states: Sequence[InState]) -> str:
    """The state with the longest stall; empty without any."""
    return max(states, key=lambda one: one.stall_ms).state if states else ""
