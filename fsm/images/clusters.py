"""Where a qcow2 image keeps the content of a disk: its two levels of tables, read from its bytes.

Pure, like ``fsm.images.qcow2``. What a snapshot refers to does not change while the snapshot exists, also in
an image that QEMU has open: QEMU copies a cluster before it changes one that a snapshot holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct, unpack

from attrs import frozen

from fsm.errors import ImageCorrupt
from fsm.images.qcow2 import COMPRESSION_TYPE, EXTENDED_L2, EXTERNAL_DATA, Header, Read

_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ZERO = 1
_SECTOR = 512
_U64 = Struct(">Q")


@frozen
class Piece:
    """``length`` bytes of the disk from ``at`` on, which stand at ``host_at`` in the file ``path``.

    ``compressed_bytes`` not 0: so many bytes there hold one compressed cluster, the piece being part of it.
    """

    at: int
    length: int
    path: str
    host_at: int
    compressed_bytes: int = 0
    skip: int = 0


@frozen
class Layer:
    """One image: the tables to go by, and how to read the file. ``header`` None means a raw file."""

    path: str
    read: Read
    size_bytes: int
    header: Header | None = None
    l1: tuple[int, ...] = ()

    @classmethod
    def of(cls, path: str, read: Read, header: Header, l1_offset: int, l1_entries: int) -> Layer:
        """The layer that an L1 table of a qcow2 image describes."""
        if header.incompatible_features & (EXTENDED_L2 | EXTERNAL_DATA):
            raise ImageCorrupt(f"{path}: subclusters and external data files can't be taken apart")
        raw = read(l1_offset, 8 * l1_entries)
        if len(raw) < 8 * l1_entries:
            raise ImageCorrupt(f"{path}: the file ends within an L1 table")
        return cls(path, read, header.size_bytes, header, unpack(f">{l1_entries}Q", raw))

    def pieces(self, start: int, end: int) -> Iterator[Piece | tuple[int, int]]:
        """The content from ``start`` to ``end``: pieces of data, and (at, length) where it has nothing.

        What the layer holds as zeros is in neither.
        """
        if self.header is None:
            if start < min(end, self.size_bytes):
                yield Piece(start, min(end, self.size_bytes) - start, self.path, start)
            return
        cluster = self.header.cluster_bytes
        per_table = cluster // 8
        table_at, table = -1, b""
        while start < end:  # bounded: it goes up
            number = start // cluster
            index, entry_at = divmod(number, per_table)
            length = min(end, (number + 1) * cluster) - start
            l2_offset = self.l1[index] & _OFFSET_MASK if index < len(self.l1) else 0
            if not l2_offset:
                length = min(end, (index + 1) * per_table * cluster) - start
                yield start, length
            else:
                if table_at != l2_offset:
                    table_at, table = l2_offset, self.read(l2_offset, cluster)
                    if len(table) < cluster:
                        raise ImageCorrupt(f"{self.path}: the file ends within an L2 table")
                yield from self._entry(_U64.unpack_from(table, 8 * entry_at)[0], start, length)
            start += length

    def _entry(self, entry: int, start: int, length: int) -> Iterator[Piece | tuple[int, int]]:
        header = self.header
        if header is None:
            return
        within = start % header.cluster_bytes
        if entry & _COMPRESSED:
            shift = 62 - (header.cluster_bits - 8)
            offset = entry & ((1 << shift) - 1)
            sectors = ((entry & (_COMPRESSED - 1)) >> shift) + 1
            yield Piece(start, length, self.path, offset, sectors * _SECTOR - offset % _SECTOR, within)
        elif header.version >= 3 and entry & _ZERO:
            return
        elif offset := entry & _OFFSET_MASK:
            yield Piece(start, length, self.path, offset + within)
        else:
            yield start, length

    def inflated(self, piece: Piece, read: Read) -> bytes:
        """The content of a piece that is compressed."""
        header = self.header
        if header is None:
            return b""
        if header.incompatible_features & COMPRESSION_TYPE:
            raise ImageCorrupt(f"{self.path}: clusters not compressed by zlib can't be taken out")
        raw = read(piece.host_at, piece.compressed_bytes)
        try:
            whole = zlib.decompressobj(-15).decompress(raw, header.cluster_bytes)
        except zlib.error as error:
            raise ImageCorrupt(f"{self.path}: the compressed cluster at {piece.host_at}: {error}") from error
        return whole[piece.skip : piece.skip + piece.length]


def through(layers: tuple[Layer, ...], start: int, end: int) -> Iterator[Piece]:
    """What a reader sees of a disk through its layers, the topmost first; zeros are left out."""
    for found in layers[0].pieces(start, end):
        if isinstance(found, Piece):
            yield found
        elif len(layers) > 1:
            at, length = found
            yield from through(layers[1:], at, min(at + length, layers[1].size_bytes))


def joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Neighbouring pieces that stand side by side in their file as one."""
    last: Piece | None = None
    for piece in pieces:
        if (
            last is not None
            and not (last.compressed_bytes or piece.compressed_bytes)
            and last.path == piece.path
            and (last.at + last.length, last.host_at + last.length) == (piece.at, piece.host_at)
        ):
            last = Piece(last.at, last.length + piece.length, last.path, last.host_at)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last
