"""Tables of what a migration's states do to the time, the guest and the engine's clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from bench.results import InState, Phase, Run

LARGEST_STEPS = 4
"""For each contender."""


def state_titles(runs: Sequence[Run]) -> list[str]:
    """The headings of the states' table; the engine's own time has a column where somebody measured it."""
    found = ["contender", "state", "seconds", "writes/s", "of undisturbed", "longest stall, ms"]
    return [*found, "own s"] if _has_own(runs) else found


def state_rows(runs: Sequence[Run]) -> list[list[str]]:
    """A row for each contender and state. The state that the guest stood still in longest is marked."""
    found = []
    for name in dict.fromkeys(run.contender for run in runs if run.states):
        of_name = [run for run in runs if run.contender == name]
        states = [one for run in of_name for one in run.states]
        worst = max(dict.fromkeys(one.state for one in states), key=lambda state: _stall_ms(states, state))
        for state in dict.fromkeys(one.state for one in states):
            row = _row([one for one in states if one.state == state], marked=state == worst)
            found.append([name, state, *(row if _has_own(runs) else row[:-1])])
    return found


def _has_own(runs: Sequence[Run]) -> bool:
    return any(run.own_s is not None for run in runs)


def _stall_ms(states: Iterable[InState], state: str) -> float:
    return median(one.stall_ms for one in states if one.state == state)


def _row(seen: Sequence[InState], *, marked: bool) -> list[str]:
    stall = f"{median(one.stall_ms for one in seen):.0f}{' <' if marked else ''}"
    return [
        f"{median(one.seconds for one in seen):.3f}",
        _middle((one.writes_per_s for one in seen), 0),
        _middle((one.of_undisturbed for one in seen), 2),
        stall,
        _middle((one.own_s for one in seen), 3),
    ]


def _middle(values: Iterable[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.{digits}f}" if known else "-"


def step_titles() -> list[str]:
    """The headings of the steps' table."""
    return ["contender", "state", "step", "seconds"]


def step_rows(runs: Sequence[Run]) -> list[list[str]]:
    """The longest steps of each contender that has a journal."""
    found = []
    for name in dict.fromkeys(run.contender for run in runs if run.phases):
        steps: dict[tuple[str, str], list[float]] = {}
        for run in runs:
            for step, seconds in _by_step(run.phases if run.contender == name else ()).items():
                steps.setdefault(step, []).append(seconds)
        longest = sorted(steps.items(), key=lambda item: -median(item[1]))[:LARGEST_STEPS]
        found += [[name, state, step, f"{median(seconds):.3f}"] for (state, step), seconds in longest]
    return found


def _by_step(phases: Iterable[Phase]) -> dict[tuple[str, str], float]:
    """Seconds of each step; a copy tells again and again how far it is."""
    sums: dict[tuple[str, str], float] = {}
    for phase in phases:
        step = (phase.state, phase.step)
        sums[step] = sums.get(step, 0.0) + phase.seconds
    return sums
