"""What the numbers are asked to be, as ratios within one bench, and whether they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from bench import copies, migrations
from bench.migrations import FSM, FSM_NBD, MIRROR, MIRROR_NBD, PAUSE, VIRSH

MISSED = " (!)"


@frozen
class Goal:
    """A contender's number by the reference's, or the number itself without one, is ``at_most`` so much."""

    contender: str
    number: str
    reference: str
    at_most: float
    images: tuple[str, ...] = ()
    """Asked for with these alone; empty: with all."""

    @property
    def what(self) -> str:
        """In words."""
        return f"{self.contender}: {self.number}{f' of {self.reference}' if self.reference else ''}"

    def seen(self, numbers: Mapping[str, Any]) -> float | None:
        """What it is, out of one contender's summary; None where it was not measured."""
        found = numbers.get(self.number)
        if found is None:
            return None
        value: float | None = found["ratios"].get(self.reference) if self.reference else found["median"]
        return value


_OURS = (FSM, FSM_NBD, MIRROR, MIRROR_NBD)
GOALS = (
    *(Goal(name, "seconds", VIRSH, 0.8) for name in (MIRROR, MIRROR_NBD)),
    *(Goal(name, "seconds", VIRSH, 1.1) for name in (FSM, FSM_NBD)),
    *(Goal(name, "silence_ms", VIRSH, 1.1) for name in _OURS),
    *(Goal(name, "silence_ms", PAUSE, 0.1, ("4 GiB sparse", "4 GiB full")) for name in _OURS),
    Goal(copies.STREAMS, "seconds", copies.NBDCOPY, 1.3),
    Goal(copies.NBD, "seconds", copies.NBDCOPY, 1.1),
    # Like with like: this transport's bytes are on the disk, while nbdcopy leaves them in the page cache.
    Goal(copies.NBD, "seconds", copies.NBDCOPY_FLUSHED, 1.1),
    *(Goal(name, "own_s", "", 0.3) for name in migrations.ENGINES),
)


def titles(images: Sequence[str]) -> list[str]:
    """The headings."""
    return ["what", "at most", *images]


def rows(summary: Sequence[Mapping[str, Any]], images: Sequence[str]) -> list[list[str]]:
    """A row for each goal that something was measured for, with a cell for each image."""
    found = []
    for goal in GOALS:
        seen = [_seen(goal, summary, image) for image in images]
        if any(one is not None for one in seen):
            found.append([goal.what, f"{goal.at_most:g}", *(_cell(goal, one) for one in seen)])
    return found


def _seen(goal: Goal, summary: Sequence[Mapping[str, Any]], image: str) -> float | None:
    if goal.images and image not in goal.images:
        return None
    of = (one for one in summary if one["image"] == image and one["contender"] == goal.contender)
    return next((goal.seen(numbers) for numbers in of), None)


def _cell(goal: Goal, seen: float | None) -> str:
    return "-" if seen is None else f"{seen:.2f}{'' if seen <= goal.at_most else MISSED}"
