"""Orders and middles; nothing here measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import TypeVar

from attrs import field, frozen

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
    """What was measured in all rounds, in short.

    ``ratios`` has the name of a reference -> the median by the reference's median.
    """

    median: float
    lowest: float
    highest: float
    ratios: Mapping[str, float] = field(factory=dict)


def spread(values: Iterable[float], references: Mapping[str, Iterable[float]] | None = None) -> Spread | None:
    """The spread of ``values``; None when there are none. No ratio to a reference that is not above zero."""
    measured = list(values)
    if not measured:
        return None
    middle = median(measured)
    others = {name: list(found) for name, found in (references or {}).items()}
    ratios = {name: middle / median(found) for name, found in others.items() if found and median(found) > 0}
    return Spread(middle, min(measured), max(measured), ratios)


Metric = Callable[[Run], float | None]


def values_of(runs: Iterable[Run], contender: str, metric: Metric) -> list[float]:
    """One number of every run of a contender, as far as the run has it."""
    found = (metric(run) for run in runs if run.contender == contender)
    return [value for value in found if value is not None]


def compared(runs: Sequence[Run], contender: str, references: Iterable[str], metric: Metric) -> Spread | None:
    """The spread of one number of a contender, with its ratios to the references'."""
    others = {name: values_of(runs, name, metric) for name in references}
    return spread(values_of(runs, contender, metric), others)
