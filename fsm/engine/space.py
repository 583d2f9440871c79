"""When a file system is about to be full: the one rule, and the reserve that preflight demands because of it.

A file system is short when it has less free than what the overlays on it still make their bases grow, and a
margin. Committing an overlay may grow its base by all that the overlay holds: where a cluster of the base
belongs to an internal snapshot too, or was a hole, a new one is taken. Only when all is committed is the
overlay's file removed. Who waits until the file system is nearly full can't go back any more. The margin is
for what the guest writes until the overlay is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from attrs import evolve, frozen

from fsm.hypervisor.values import FileFacts, Overlay, Space

MIB = 1 << 20
MARGIN_LEAST_BYTES = 64 * MIB
# How long it may take until the guest's writes go into the base again: an abort, and the commit.
REACTION_S = 30.0
# What an overlay may come to hold: a share of the disk's virtual size, and at least so much that a small
# disk's guest may write a while.
OVERLAY_SHARE = 40
OVERLAY_LEAST_BYTES = 32 * MIB


@frozen
class Demand:
    """What is still to be written to the file system of a directory, and what it has."""

    directory: str
    free_bytes: int
    capacity_bytes: int
    need_bytes: int


@frozen
class Shortage:
    """A file system that would be full before the end."""

    uri: str
    directory: str
    free_bytes: int
    need_bytes: int
    margin_bytes: int

    @property
    def what(self) -> str:
        """The cause, with its numbers."""
        return (
            f"{self.uri}: {self.directory} would be full before the end: {_mib(self.free_bytes)} free, "
            f"{_mib(self.need_bytes)} still to be written by the commit, and {_mib(self.margin_bytes)} as a "
            "margin for what the guest writes meanwhile"
        )

    @property
    def remedy(self) -> str:
        """What to do before the next try."""
        return (
            f"free space in {self.directory} on {self.uri}, or migrate when the guest writes less or "
            "faster (--bandwidth, --connections); then migrate again"
        )


def margin_bytes(growth_bytes_per_s: float) -> int:
    """What must stay free beside what the commit needs, with overlays that grow so fast."""
    return max(MARGIN_LEAST_BYTES, int(growth_bytes_per_s * REACTION_S))


def held_bytes(base: FileFacts) -> int:
    """What an overlay on this base may come to hold, and what its commit then makes the base grow by."""
    return max(OVERLAY_LEAST_BYTES, base.capacity_bytes // OVERLAY_SHARE)


def reserves(overlays: Iterable[Overlay], bases: Iterable[FileFacts]) -> dict[str, int]:
    """What each directory must have free at the beginning, so that the rule lets these overlays grow."""
    held = {base.path: held_bytes(base) for base in bases}
    need: dict[str, int] = {}
    for overlay in (one for one in overlays if one.base in held):
        # What a block device has left is its own; see ``fsm.engine.device_room``.
        paths = (overlay.path,) if overlay.on_device else (overlay.path, overlay.base)
        for directory in map(directory_of, paths):
            need[directory] = need.get(directory, MARGIN_LEAST_BYTES) + held[overlay.base]
    return need


def need_there(
    overlays: Sequence[Overlay], files: Sequence[FileFacts], below: Sequence[FileFacts], *, live: bool
) -> dict[str, int]:
    """What each directory of the destination must have free, for overlays only where there are any."""
    there = {overlay.base: overlay.arrived.base for overlay in overlays}
    arrived = [evolve(file, path=there[file.path]) for file in files]
    need = reserves((overlay.arrived for overlay in overlays), arrived) if live else {}
    shared_ones = {overlay.base for overlay in overlays if overlay.shared}
    devices = {overlay.arrived.base for overlay in overlays if overlay.arrives_on_device}
    for file in (one for one in (*arrived, *below) if one.path not in devices):
        directory = directory_of(file.path)
        copy_bytes = 0 if file.path in shared_ones else file.allocated_bytes
        need[directory] = need.get(directory, 0) + copy_bytes
    return need


def by_directory(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by the directories that hold them."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(directory_of(path), []).append(path)
    return found


def directory_of(path: str) -> str:
    """The directory of an absolute path on a host."""
    return str(PurePosixPath(path).parent)


def demand(directory: str, seen: Space, need_bytes: int) -> Demand:
    """What a directory needs, as it was seen."""
    return Demand(directory, seen.free_bytes, seen.capacity_bytes, need_bytes)


def by_file_system(demands: Iterable[Demand]) -> list[Demand]:
    """The same with the directories of one file system taken together.

    libvirt does not tell which file system a directory is on: one of the same size with as much free is taken
    for the same. If it is another one, too much is demanded, never too little.
    """
    found: list[Demand] = []
    for one in demands:
        for index, other in enumerate(found):
            if _looks_the_same(one, other):
                free_bytes = min(one.free_bytes, other.free_bytes)
                need_bytes = one.need_bytes + other.need_bytes
                found[index] = evolve(other, free_bytes=free_bytes, need_bytes=need_bytes)
                break
        else:
            found.append(one)
    return found


def _looks_the_same(one: Demand, other: Demand) -> bool:
    # The two were read one after the other, and guests write meanwhile.
    near = abs(one.free_bytes - other.free_bytes) < MARGIN_LEAST_BYTES
    return one.capacity_bytes == other.capacity_bytes and near


def shortage(uri: str, demands: Sequence[Demand], margin: int) -> Shortage | None:
    """The file system that has least, if one is short."""
    short = [one for one in by_file_system(demands) if one.free_bytes < one.need_bytes + margin]
    if not short:
        return None
    worst = min(short, key=lambda one: one.free_bytes - one.need_bytes)
    return Shortage(uri, worst.directory, worst.free_bytes, worst.need_bytes, margin)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes // MIB} MiB"
