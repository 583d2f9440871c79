"""The layout of a qcow2 image that holds one internal snapshot, is at it, and has no backing file.

Pure: from the clusters that are in use it says where everything goes, and makes the image's own tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import pack

from attrs import frozen

from fsm.images.qcow2 import MAGIC, Snapshot

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
PER_L2 = CLUSTER // 8
L2_REACH = PER_L2 * CLUSTER
"""What one L2 table describes of the disk."""

_PER_REFCOUNT_BLOCK = CLUSTER // 2
_HEADER_BYTES = 104
_NO_ICOUNT = 2**64 - 1
_MAX_U32 = 2**32 - 1

Run = tuple[int, int]
"""Neighbouring clusters of the disk: the first one's number, and how many."""


def runs_of(ranges: Iterable[tuple[int, int]]) -> tuple[Run, ...]:
    """The clusters that ascending byte ranges (at, length) touch."""
    runs: list[list[int]] = []
    for at, length in ranges:
        first, last = at // CLUSTER, (at + length - 1) // CLUSTER
        if runs and first <= runs[-1][1] + 1:
            runs[-1][1] = max(runs[-1][1], last)
        else:
            runs.append([first, last])
    return tuple((first, last - first + 1) for first, last in runs)


def vm_state_at(disk_size_bytes: int, reach: int = L2_REACH) -> int:
    """Where an image keeps the saved memory: behind the last L2 table of the disk."""
    return -(-disk_size_bytes // reach) * reach


@frozen
class Layout:
    """Where everything is. ``runs`` are the clusters in use, disk first, then the saved memory."""

    snapshot: Snapshot
    runs: tuple[Run, ...]

    @property
    def disk_tables(self) -> int:
        """How many entries the L1 table has for the disk."""
        return vm_state_at(self.snapshot.disk_size_bytes) // L2_REACH

    @property
    def l1_entries(self) -> int:
        """How many with the saved memory."""
        return self.disk_tables + -(-self.snapshot.vm_state_bytes // L2_REACH)

    @property
    def l1_clusters(self) -> int:
        """What one L1 table takes; there are two."""
        return max(1, -(-8 * self.l1_entries // CLUSTER))

    @property
    def tables(self) -> tuple[int, ...]:
        """The L1 indexes that have an L2 table."""
        found: dict[int, None] = {}
        for first, count in self.runs:
            found.update(dict.fromkeys(range(first // PER_L2, (first + count - 1) // PER_L2 + 1)))
        return tuple(found)

    @property
    def used_clusters(self) -> int:
        """The clusters of content."""
        return sum(count for _, count in self.runs)

    @property
    def refcount_blocks(self) -> int:
        """Enough for all clusters, their own included."""
        other = 2 + 2 * self.l1_clusters + 1 + len(self.tables) + self.used_clusters
        blocks = 1
        while blocks * _PER_REFCOUNT_BLOCK < other + blocks:  # bounded: a block holds more than itself
            blocks += 1
        return blocks

    @property
    def l1_cluster(self) -> int:
        """Header and refcounts are before it."""
        return 2 + self.refcount_blocks

    @property
    def snapshot_cluster(self) -> int:
        """The snapshot table, behind both L1 tables."""
        return self.l1_cluster + 2 * self.l1_clusters

    @property
    def l2_cluster(self) -> int:
        """The first L2 table."""
        return self.snapshot_cluster + 1

    @property
    def data_cluster(self) -> int:
        """The first cluster of content."""
        return self.l2_cluster + len(self.tables)

    @property
    def size_bytes(self) -> int:
        """The file's length."""
        return (self.data_cluster + self.used_clusters) * CLUSTER

    def places(self) -> Iterator[tuple[Run, int]]:
        """Each run, and the cluster of the file where it begins."""
        place = self.data_cluster
        for run in self.runs:
            yield run, place
            place += run[1]

    def metadata(self) -> Iterator[tuple[int, bytes]]:
        """Everything but the content, ascending: offset and bytes."""
        yield 0, self._header()
        yield (
            CLUSTER,
            pack(f">{self.refcount_blocks}Q", *((2 + n) * CLUSTER for n in range(self.refcount_blocks))),
        )
        yield 2 * CLUSTER, self._refcounts()
        l2 = {index: (self.l2_cluster + n) * CLUSTER for n, index in enumerate(self.tables)}
        entries = [l2.get(index, 0) for index in range(self.l1_entries)]
        yield self.l1_cluster * CLUSTER, pack(f">{self.disk_tables}Q", *entries[: self.disk_tables])
        yield (self.l1_cluster + self.l1_clusters) * CLUSTER, pack(f">{self.l1_entries}Q", *entries)
        yield self.snapshot_cluster * CLUSTER, self._entry()
        yield from self._l2_tables(l2)

    def _l2_tables(self, l2: dict[int, int]) -> Iterator[tuple[int, bytes]]:
        tables = {index: [0] * PER_L2 for index in l2}
        for (first, count), place in self.places():
            for n in range(count):
                index, entry = divmod(first + n, PER_L2)
                tables[index][entry] = (place + n) * CLUSTER
        for index, offset in l2.items():
            yield offset, pack(f">{PER_L2}Q", *tables[index])

    def _refcounts(self) -> bytes:
        """2 for what both the snapshot and the active state refer to, 1 for the rest."""
        shared = [1] * self.l2_cluster
        shared += [2 if index < self.disk_tables else 1 for index in self.tables]
        for first, count in self.runs:
            shared += [2 if first // PER_L2 < self.disk_tables else 1] * count
        return pack(f">{len(shared)}H", *shared)

    def _header(self) -> bytes:
        return pack(
            ">4sIQIIQIIQQIIQQQQII",
            MAGIC, 3, 0, 0, CLUSTER_BITS, self.snapshot.disk_size_bytes, 0, self.disk_tables,
            self.l1_cluster * CLUSTER, CLUSTER, 1, 1, self.snapshot_cluster * CLUSTER,
            0, 0, 0, 4, _HEADER_BYTES,
        )  # fmt: skip

    def _entry(self) -> bytes:
        one = self.snapshot
        identity, name = b"1", one.name.encode("utf-8", "surrogateescape")
        l1_offset = (self.l1_cluster + self.l1_clusters) * CLUSTER
        fixed = pack(
            ">QIHHIIQII",
            l1_offset, self.l1_entries, len(identity), len(name), one.date_s, one.date_ns, one.vm_clock_ns,
            min(one.vm_state_bytes, _MAX_U32), 24,
        )  # fmt: skip
        icount = _NO_ICOUNT if one.icount is None else one.icount
        return fixed + pack(">QQQ", one.vm_state_bytes, one.disk_size_bytes, icount) + identity + name


def split(at: int, length: int, runs: Sequence[tuple[Run, int]]) -> Iterator[tuple[int, int, int]]:
    """Where a byte range of the disk goes: (at, length, offset in the file). The runs cover it."""
    for (first, count), place in runs:
        begin, end = max(at, first * CLUSTER), min(at + length, (first + count) * CLUSTER)
        if begin < end:
            yield begin, end - begin, place * CLUSTER + begin - first * CLUSTER
