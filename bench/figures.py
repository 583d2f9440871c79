"""Orders and middles; nothing here measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import TypeVar

from attrs import frozen

from bench.results import Run

T = TypeVar("T")


def order(contenders: Sequence[T], round_number: int) -> list[T]:
    """The order of one round, counted from 0.

    Each contender has each place once in as many rounds as there are contenders; the next as many rounds go
    backwards, so that nobody always follows the same one.
    """
    if not contenders:
        return []
    lap, first = divmod(round_number, len(contenders))
    turned = [*contenders[first:], *contenders[:first]]
    return turned[::-1] if lap % 2 else turned


@frozen
class Spread:
    """What was measured in all rounds, in short. ``ratio`` is the median by the reference's median."""

    median: float
    lowest: float
    highest: float
    ratio: float | None = None


def spread(values: Iterable[float], reference: Iterable[float] = ()) -> Spread | None:
    """The spread of ``values``; None when there are none. No ratio without a reference above zero."""
    measured, others = list(values), list(reference)
    if not measured:
        return None
    middle = median(measured)
    base = median(others) if others else 0.0
    return Spread(middle, min(measured), max(measured), middle / base if base > 0 else None)


Metric = Callable[[Run], float | None]


def values_of(runs: Iterable[Run], contender: str, metric: Metric) -> list[float]:
    """One number of every run of a contender, as far as the run has it."""
    found = (metric(run) for run in runs if run.contender == contender)
    return [value for value in found if value is not None]


def compared(runs: Sequence[Run], contender: str, reference: str, metric: Metric) -> Spread | None:
    """The spread of one number of a contender, with its ratio to the reference's."""
    return spread(values_of(runs, contender, metric), values_of(runs, reference, metric))
