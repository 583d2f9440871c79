"""A file in blocks of ``CHUNK_BYTES``, each with a digest: the units in which a copy is remembered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen

from fsm.images.digests import QUICK, Digester, digest_of_zeros
from fsm.images.transfer import CHUNK_BYTES, Range


@frozen
class Block:
    """A block's content. Only a file's last block is shorter than the others.

    ``digest`` is hexadecimal, and empty for a block of zeros, be they a hole or data. ``data_bytes`` of it
    were not told as holes.
    """

    offset: int
    length: int
    digest: str
    data_bytes: int = 0

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length


class Finished:
    """The blocks that workers have finished, until somebody takes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[Block] = []

    def put(self, block: Block) -> None:
        """Add one; from any thread."""
        with self._lock:
            self._blocks.append(block)

    def take(self) -> list[Block]:
        """Those that came since the last call."""
        with self._lock:
            taken, self._blocks = self._blocks, []
        return taken


class BlockSink(Protocol):
    """Takes the content of one block."""

    def data(self, offset: int, chunk: bytes) -> None:
        """See ``fsm.hypervisor.port.DataSink``."""

    def hole(self, offset: int, length: int) -> None:
        """See ``fsm.hypervisor.port.DataSink``."""

    def end(self) -> None:
        """The block is complete."""


@define
class Blocks:
    """A sink for a range that cuts it into blocks, and gives each to a sink made by ``begin``.

    ``begin`` is given the block's offset and length. ``present`` is the sink of a block that is not complete.
    """

    range: Range
    begin: Callable[[int, int], BlockSink]
    present: BlockSink | None = field(default=None, init=False)
    _end: int = field(default=0, init=False)

    def data(self, offset: int, chunk: bytes) -> None:
        """See ``fsm.hypervisor.port.DataSink``."""
        done = 0
        while done < len(chunk):
            sink = self._sink_at(offset + done)
            room = self._end - offset - done
            # Slicing copies, and nearly every packet lies within one block.
            part = chunk if not done and len(chunk) <= room else chunk[done : done + room]
            sink.data(offset + done, part)
            done += len(part)
            self._passed(offset + done)

    def hole(self, offset: int, length: int) -> None:
        """See ``fsm.hypervisor.port.DataSink``."""
        end = offset + length
        while offset < end:
            sink = self._sink_at(offset)
            part = min(end, self._end) - offset
            sink.hole(offset, part)
            offset += part
            self._passed(offset)

    def _sink_at(self, offset: int) -> BlockSink:
        if self.present is None:
            self._end = min(offset // CHUNK_BYTES * CHUNK_BYTES + CHUNK_BYTES, self.range.end)
            self.present = self.begin(offset, self._end - offset)
        return self.present

    def _passed(self, position: int) -> None:
        if position == self._end and self.present is not None:
            self.present.end()
            self.present = None


@define
class BlockDigest:
    """A sink that makes a ``Block`` of one block's content."""

    offset: int
    length: int
    _digester: Digester = field(factory=lambda: Digester(QUICK))
    _data_bytes: int = 0

    def data(self, offset: int, chunk: bytes) -> None:
        """See ``fsm.hypervisor.port.DataSink``."""
        self._digester.data(offset, chunk)
        self._data_bytes += len(chunk)

    def hole(self, offset: int, length: int) -> None:
        """See ``fsm.hypervisor.port.DataSink``."""
        self._digester.hole(offset, length)

    def block(self) -> Block:
        """The block, once it is complete."""
        if not self._data_bytes:
            return Block(self.offset, self.length, "")
        digest = self._digester.digest()
        zeros = digest == digest_of_zeros(QUICK, self.length)
        return Block(self.offset, self.length, "" if zeros else digest.hex(), self._data_bytes)
