"""Header and snapshot table of a qcow2 image, read from its bytes.

Pure: bytes come through a callable, so only the header and the table are read of an image of any size. The
layout is that of QEMU's ``docs/interop/qcow2``; the limits are those within which QEMU itself uses an image
(``block/qcow2.h``): whatever QEMU can use passes, and no content makes this read or keep more than that.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from attrs import frozen

from fsm.errors import ImageCorrupt

Read = Callable[[int, int], bytes]
"""``read(offset, length)`` gives the bytes there, fewer where the file ends."""

MAGIC = b"QFI\xfb"
KIB, MIB = 1024, 1024 * 1024

MIN_CLUSTER_BITS, MAX_CLUSTER_BITS = 9, 21
MAX_CRYPT_METHOD = 2
MAX_REFCOUNT_ORDER = 6
MAX_BACKING_NAME_BYTES = 1023
MAX_L1_BYTES = 32 * MIB
MAX_REFCOUNT_TABLE_BYTES = 8 * MIB
MAX_SNAPSHOTS = 65536
MAX_SNAPSHOT_TABLE_BYTES = 64 * MIB
MAX_SNAPSHOT_EXTRA_BYTES = 1024
MAX_OFFSET = 2**63 - 1

DIRTY, CORRUPT, EXTERNAL_DATA, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))
# An autoclear feature.
BITMAPS = 1
KNOWN_INCOMPATIBLE = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2

NO_ICOUNT = 2**64 - 1

_HEADER = Struct(">4sIQIIQIIQQIIQ")
_HEADER_V3 = Struct(">QQQII")
_ENTRY = Struct(">QIHHIIQII")
_U64 = Struct(">Q")
_L1_ENTRY_BYTES = 8
_WINDOW_BYTES = 64 * KIB


@frozen
class Header:
    """The header's fields. ``size_bytes`` is the virtual disk's. Version 2 has no feature bits.

    ``backing_file`` is None for an image without one. Names are decoded as UTF-8; other bytes in them survive
    as lone surrogates, so that equal names are equal bytes.
    """

    version: int
    size_bytes: int
    cluster_bits: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    refcount_order: int
    snapshot_count: int
    snapshots_offset: int
    backing_file: str | None
    incompatible_features: int
    compatible_features: int
    autoclear_features: int
    header_bytes: int

    @property
    def cluster_bytes(self) -> int:
        """Size of a cluster; the header and all its extensions lie in the first one."""
        return 1 << self.cluster_bits

    @property
    def dirty(self) -> bool:
        """Whether refcounts may be inconsistent (lazy refcounts, image in use or not closed)."""
        return bool(self.incompatible_features & DIRTY)

    @property
    def has_bitmaps(self) -> bool:
        """Whether persistent bitmaps are stored in the image."""
        return bool(self.autoclear_features & BITMAPS)

    @property
    def marked_corrupt(self) -> bool:
        """Whether QEMU has found damage in the image and refuses to write to it."""
        return bool(self.incompatible_features & CORRUPT)


@frozen
class Snapshot:
    """One internal snapshot. ``vm_state_bytes`` is 0 for a snapshot of the disk alone.

    ``icount`` is the instruction count of a recorded run, None for any other. ``unknown_extra`` are fields of
    a later version of the format.
    """

    id: str
    name: str
    date_s: int
    date_ns: int
    vm_clock_ns: int
    vm_state_bytes: int
    disk_size_bytes: int
    l1_offset: int
    l1_entries: int
    icount: int | None = None
    unknown_extra: bytes = b""


@frozen
class Image:
    """What was read of an image: its header, and its snapshots in the table's order."""

    header: Header
    snapshots: tuple[Snapshot, ...]


def read_image(read: Read) -> Image:
    """Header and snapshot table. Raises ``ImageCorrupt``, and what ``read`` raises."""
    header = read_header(read)
    return Image(header, read_snapshots(read, header))


def read_header(read: Read) -> Header:
    """The header alone. Raises ``ImageCorrupt``, and what ``read`` raises."""
    head = read(0, _HEADER.size + _HEADER_V3.size)
    if len(head) < _HEADER.size or not head.startswith(MAGIC):
        raise ImageCorrupt("this is no qcow2 image: it does not begin with a qcow2 header")
    (_, version, backing_offset, backing_bytes, cluster_bits, size_bytes, crypt_method, l1_entries,
     l1_offset, refcount_offset, refcount_clusters, snapshot_count, snapshots_offset,
    ) = _HEADER.unpack_from(head)  # fmt: skip
    _demand(version in (2, 3), f"version {version} of the format is unknown")
    _demand(
        MIN_CLUSTER_BITS <= cluster_bits <= MAX_CLUSTER_BITS,
        f"clusters of 2^{cluster_bits} bytes do not exist",
    )
    incompatible, compatible, autoclear, refcount_order, header_bytes = 0, 0, 0, 4, _HEADER.size
    if version >= 3:
        _demand(len(head) >= _HEADER.size + _HEADER_V3.size, "the header is cut off")
        incompatible, compatible, autoclear, refcount_order, header_bytes = _HEADER_V3.unpack_from(
            head, _HEADER.size
        )
        least_bytes = _HEADER.size + _HEADER_V3.size
        _demand(
            least_bytes <= header_bytes <= 1 << cluster_bits,
            f"a header of {header_bytes} bytes is impossible",
        )
    header = Header(
        version=version,
        size_bytes=size_bytes,
        cluster_bits=cluster_bits,
        crypt_method=crypt_method,
        l1_entries=l1_entries,
        l1_offset=l1_offset,
        refcount_table_offset=refcount_offset,
        refcount_table_clusters=refcount_clusters,
        refcount_order=refcount_order,
        snapshot_count=snapshot_count,
        snapshots_offset=snapshots_offset,
        backing_file=_backing_file(read, backing_offset, backing_bytes, 1 << cluster_bits),
        incompatible_features=incompatible,
        compatible_features=compatible,
        autoclear_features=autoclear,
        header_bytes=header_bytes,
    )
    _check_header(header)
    return header


def _check_header(header: Header) -> None:
    unknown = header.incompatible_features & ~KNOWN_INCOMPATIBLE
    _demand(not unknown, f"it uses incompatible features that are unknown here (bits {unknown:#x})")
    _demand(header.size_bytes <= MAX_OFFSET, f"a disk of {header.size_bytes} bytes is impossible")
    _demand(header.crypt_method <= MAX_CRYPT_METHOD, f"encryption method {header.crypt_method} is unknown")
    _demand(
        header.refcount_order <= MAX_REFCOUNT_ORDER,
        f"refcounts of 2^{header.refcount_order} bits do not exist",
    )
    _check_table(
        header,
        "refcount",
        header.refcount_table_offset,
        header.refcount_table_clusters * header.cluster_bytes,
        MAX_REFCOUNT_TABLE_BYTES,
    )
    _demand(header.refcount_table_clusters > 0, "it has no refcount table")
    _check_table(header, "active L1", header.l1_offset, header.l1_entries * _L1_ENTRY_BYTES, MAX_L1_BYTES)
    _demand(
        header.snapshot_count <= MAX_SNAPSHOTS,
        f"{header.snapshot_count} snapshots are more than the {MAX_SNAPSHOTS} that QEMU takes",
    )
    if header.snapshot_count:
        least_bytes = header.snapshot_count * _ENTRY.size
        _check_table(header, "snapshot", header.snapshots_offset, least_bytes, MAX_SNAPSHOT_TABLE_BYTES)


def _backing_file(read: Read, offset: int, length: int, cluster_bytes: int) -> str | None:
    if not offset:
        return None
    most_bytes = min(MAX_BACKING_NAME_BYTES, cluster_bytes - offset)
    _demand(length <= most_bytes, f"a backing file name of {length} bytes at {offset} is impossible")
    return _text(_exactly(read, offset, length, "the backing file's name"))


def read_snapshots(read: Read, header: Header) -> tuple[Snapshot, ...]:
    """The snapshot table that ``header`` points to. Raises ``ImageCorrupt``, and what ``read`` raises."""
    window = _Window(read)
    snapshots = []
    offset = header.snapshots_offset
    for index in range(header.snapshot_count):
        offset = -(-offset // 8) * 8
        snapshot, offset = _read_entry(window, header, offset, f"snapshot {index + 1}")
        _demand(
            offset - header.snapshots_offset <= MAX_SNAPSHOT_TABLE_BYTES,
            f"the snapshot table is longer than the {MAX_SNAPSHOT_TABLE_BYTES // MIB} MiB that QEMU takes",
        )
        snapshots.append(snapshot)
    return tuple(snapshots)


def _read_entry(window: _Window, header: Header, offset: int, what: str) -> tuple[Snapshot, int]:
    """One entry of the table, and the offset of its end."""
    (l1_offset, l1_entries, id_bytes, name_bytes, date_s, date_ns, vm_clock_ns, vm_state_bytes,
     extra_bytes) = _ENTRY.unpack(window.take(offset, _ENTRY.size, what))  # fmt: skip
    _demand(extra_bytes <= MAX_SNAPSHOT_EXTRA_BYTES, f"{what} has {extra_bytes} bytes of extra data")
    _check_table(header, f"{what}'s L1", l1_offset, l1_entries * _L1_ENTRY_BYTES, MAX_L1_BYTES)
    rest = window.take(offset + _ENTRY.size, extra_bytes + id_bytes + name_bytes, what)
    extra, texts = rest[:extra_bytes], rest[extra_bytes:]
    # Each field of the extra data is there or not, by its length; version 2 images may have none.
    known = [_U64.unpack_from(extra, at)[0] for at in range(0, min(extra_bytes, 24) // 8 * 8, 8)]
    icount = known[2] if len(known) > 2 else NO_ICOUNT
    snapshot = Snapshot(
        id=_text(texts[:id_bytes]),
        name=_text(texts[id_bytes:]),
        date_s=date_s,
        date_ns=date_ns,
        vm_clock_ns=vm_clock_ns,
        vm_state_bytes=known[0] if known else vm_state_bytes,
        disk_size_bytes=known[1] if len(known) > 1 else header.size_bytes,
        l1_offset=l1_offset,
        l1_entries=l1_entries,
        icount=None if icount == NO_ICOUNT else icount,
        unknown_extra=extra[8 * len(known) :],
    )
    return snapshot, offset + _ENTRY.size + len(rest)


class _Window:
    """Reads the table in pieces of some size, so that many short entries do not become many short reads."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._start = 0
        self._bytes = b""

    def take(self, offset: int, length: int, what: str) -> bytes:
        start = offset - self._start
        if start < 0 or start + length > len(self._bytes):
            self._start, start = offset, 0
            self._bytes = self._read(offset, max(length, _WINDOW_BYTES))
        taken = self._bytes[start : start + length]
        _demand(len(taken) == length, f"the file ends within {what} of the snapshot table")
        return taken


def _check_table(header: Header, what: str, offset: int, length: int, most_bytes: int) -> None:
    _demand(
        length <= most_bytes, f"its {what} table of {length} bytes is longer than QEMU takes ({most_bytes})"
    )
    _demand(
        offset % header.cluster_bytes == 0 and offset + length <= MAX_OFFSET,
        f"its {what} table lies at {offset}, where no table can be",
    )


def _exactly(read: Read, offset: int, length: int, what: str) -> bytes:
    content = read(offset, length)
    _demand(len(content) == length, f"the file ends within {what}")
    return content


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _demand(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as the condition that must hold
    if not holds:
        raise ImageCorrupt(f"damaged or unknown qcow2 image: {otherwise}")
