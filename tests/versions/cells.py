"""The matrix: pairs of Debian suites, ways to merge, and where the images are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

from attrs import frozen

from fsm.lab import suite
from fsm.lab.errors import LabError
from fsm.machine.observation import Merge

MERGES = (Merge.COMMIT, Merge.MIRROR)
COPY, SHARED = "copy", "shared"
STORAGES = (COPY, SHARED)
"""How the destination gets the images: as copies, or from a file system that both hosts have mounted."""


@frozen
class Pair:
    """The suites of two hosts, the source first."""

    source: str
    destination: str

    def __str__(self) -> str:
        return f"{self.source}:{self.destination}"

    @property
    def suites(self) -> tuple[str, str]:
        """Both, in the order of a lab's hosts."""
        return self.source, self.destination

    @property
    def roots(self) -> tuple[str, str]:
        """The roots of a lab's hosts."""
        return suite.root(self.source), suite.root(self.destination)


@frozen
class Cell:
    """One migration of the matrix."""

    pair: Pair
    merge: Merge
    storage: str = COPY

    def __str__(self) -> str:
        return f"{self.pair} {self.merge} {self.storage}"


PAIRS = tuple(Pair(*both) for both in combinations_with_replacement(suite.SUITES, 2))
"""From every suite to itself and to the newer ones: QEMU promises no way back."""


def parse(text: str) -> Pair:
    """A pair as the command line has it. Raises ``LabError`` for anything but two suites that are known."""
    source, colon, destination = text.partition(":")
    if not colon:
        raise LabError(
            f"{text!r} is no pair of suites", remedy=f"write SOURCE:DESTINATION, such as {PAIRS[1]}"
        )
    for name in (source, destination):
        suite.root(name)
    return Pair(source, destination)


def cells(
    pairs: Sequence[Pair] = PAIRS, merges: Sequence[Merge] = MERGES, storages: Sequence[str] = STORAGES
) -> list[Cell]:
    """The matrix, or the part of it with these pairs, merges and storages.

    A mirror would write into a base that the source has open, so nothing is shared by it.
    """
    return [
        Cell(pair, merge, storage)
        for pair in pairs
        for merge in merges
        for storage in storages
        if (merge, storage) != (Merge.MIRROR, SHARED)
    ]
