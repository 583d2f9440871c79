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


def in_states(phases: Iterable[Phase], seen: Seen) -> tuple[InState, ...]:
    """The states in the order of time; ``seen.began_s`` is when the first phase began."""
    found = []
    begin_s = seen.began_s
    for state, group in groupby(phases, lambda phase: phase.state):
        end_s = begin_s + sum(phase.seconds for phase in group)
        found.append(_in_state(state, begin_s, end_s, seen))
        begin_s = end_s
    return tuple(found)


def _in_state(state: str, begin_s: float, end_s: float, seen: Seen) -> InState:
    seconds, begin_ms, end_ms = end_s - begin_s, begin_s * 1000, end_s * 1000
    writes = sum(begin_ms <= one.at_ms < end_ms and one.ack.disk in seen.disks for one in seen.arrivals)
    rate = writes / seconds if seconds >= SHORTEST_S else None
    return InState(
        state,
        seconds,
        writes_per_s=rate,
        of_undisturbed=rate / seen.undisturbed_per_s if rate is not None and seen.undisturbed_per_s else None,
        stall_ms=longest_gap(seen.arrivals, seen.disks, begin_ms, end_ms).ms,
        own_s=None if seen.busy_s is None else seconds - _shared_s(seen.busy_s, begin_s, end_s),
    )


def _shared_s(intervals: Iterable[Interval], begin_s: float, end_s: float) -> float:
    """How much of a stretch the intervals, which don't overlap, cover."""
    return sum(max(0.0, min(end, end_s) - max(begin, begin_s)) for begin, end in intervals)


def own_s(phases: Sequence[Phase], seen: Seen) -> float | None:
    """How long the engine had no call under way, from the migration's creation to its last record.

    None where it is not known. The first phase is the interpreter's, the last one the command's exit.
    """
    if seen.busy_s is None:
        return None
    begin_s = seen.began_s + phases[0].seconds
    seconds = sum(phase.seconds for phase in phases[1:-1])
    return seconds - _shared_s(seen.busy_s, begin_s, begin_s + seconds)


def most_stalled(states: Sequence[InState]) -> str:
    """The state with the longest stall; empty without any."""
    return max(states, key=lambda one: one.stall_ms).state if states else ""
