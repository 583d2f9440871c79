"""Copying a base byte for byte from one host to another, so that its internal snapshots come along."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

from attrs import define, field, frozen

from fsm.hypervisor.port import Connector, DataChannel, RangeWriter
from fsm.hypervisor.uris import safe_uri
from fsm.images.blocks import Block, BlockDigest, Blocks, Finished
from fsm.images.digests import zeros_of
from fsm.images.transfer import CHUNK_BYTES, Chunks, Progress, Range, Reading, Tally, Throttle
from fsm.images.workers import Worker, run_workers

__all__ = ["CopyResult", "Throttle", "copy_file"]

CONNECTIONS = 4
"""One libvirt stream is bound by its round trips; on two cores four of them moved twice as much as one."""

LARGEST_CHUNK_BYTES = 8 * CHUNK_BYTES
"""Long runs make few extents and few round trips, above all in a huge file that is mostly hole."""

OnBlocks = Callable[[Sequence[Block]], Awaitable[None]]
"""Awaited, on the event loop, with blocks that are finished: the destination's host has confirmed them."""


@frozen
class CopyResult:
    """What was copied. ``data_bytes`` went over the wire, ``hole_bytes`` did not."""

    data_bytes: int
    hole_bytes: int
    connections: int


async def copy_file(
    connector: Connector,
    source_uri: str,
    destination_uri: str,
    path: str,
    ranges: Sequence[Range],
    *,
    destination_path: str = "",
    connections: int = CONNECTIONS,
    throttle: Throttle | None = None,
    progress: Progress | None = None,
    on_blocks: OnBlocks | None = None,
) -> CopyResult:
    """Copy these ranges of ``path`` at the source into the file of that path at the destination.

    ``destination_path`` is that file's path where it is another one. It exists, as long as the original, and
    is all hole (``Storage.create_sparse``) but for the stretches that a range names as filled: other holes
    are neither read nor sent nor written, those get zeros. Nothing is synced here; see
    ``Storage.make_durable``.

    ``connections`` workers, fewer for a small file, each with its own thread and pair of channels, share the
    ranges. Several files are copied one after another, by a call for each: every file has all workers
    for itself, so that no host serves more than ``connections`` streams of a migration at once and storage
    sees few places at once, while the sum takes no longer. Give all calls of one migration the same
    ``throttle``.

    ``progress`` is called on the event loop with the bytes of data and of holes done so far in these ranges.
    ``on_blocks`` is told of every block that is finished, however the copy ends.

    Raises the first ``HostError`` (or ``BadInput`` of a malformed URI) of any worker, and what the callbacks
    raise. When the awaiting task is cancelled the workers stop at their next packet. Either way no thread and
    no channel is left, and the destination file stays, partly written.
    """
    size_bytes = sum(one.length for one in ranges)
    count = max(1, min(connections, -(-size_bytes // CHUNK_BYTES))) if size_bytes else 0
    chunks = Chunks(ranges, sharers=count, largest_bytes=LARGEST_CHUNK_BYTES)
    tally = Tally(f"{safe_uri(source_uri)} or {safe_uri(destination_uri)}", progress)
    finished = Finished()
    there = destination_path or path

    def work(worker: Worker) -> None:
        reading = Reading(worker, worker.open(connector, source_uri), source_uri, path, tally, throttle)
        destination = worker.open(connector, destination_uri)
        while (chunk := chunks.take()) is not None:  # bounded by the file's size
            worker.check()
            _copy_range(reading, destination, there, chunk, finished)

    async def tell() -> None:
        await tally.tell()
        if on_blocks is not None and (blocks := finished.take()):
            await on_blocks(blocks)

    if count:
        name = f"copy {path.rpartition('/')[2]} to {safe_uri(destination_uri)}"
        try:
            await run_workers(count, work, name=name, tick=tell)
        finally:
            await tell()
    return CopyResult(tally.data_bytes, tally.hole_bytes, count)


def _copy_range(
    reading: Reading, destination: DataChannel, path: str, chunk: Range, finished: Finished
) -> None:
    def begin(offset: int, length: int) -> _BlockCopy:
        digest = BlockDigest(offset, length)
        return _BlockCopy(destination, path, chunk.filled, digest, finished)

    blocks = Blocks(chunk, begin)
    try:
        reading.into(blocks, chunk.offset, chunk.length)
    except BaseException:
        if isinstance(blocks.present, _BlockCopy):
            blocks.present.abandon()
        raise


@define
class _BlockCopy:
    """A sink that writes one block to the destination.

    It has a writer of its own, made when there is something to write: the writer's close is where the host
    confirms what it was sent.
    """

    _destination: DataChannel
    _path: str
    _filled: tuple[tuple[int, int], ...]
    _digest: BlockDigest
    _finished: Finished
    _writer: RangeWriter | None = field(default=None, init=False)

    def data(self, offset: int, chunk: bytes) -> None:
        self._write(offset, chunk)
        self._digest.data(offset, chunk)

    def hole(self, offset: int, length: int) -> None:
        filled = list(_overlaps(self._filled, offset, length))
        for at, size in filled:
            done = 0
            for zeros in zeros_of(size):
                self._write(at + done, bytes(zeros))
                done += len(zeros)
        if self._writer is not None and not filled:
            self._writer.hole(offset, length)
        self._digest.hole(offset, length)

    def end(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._finished.put(self._digest.block())

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()

    def _write(self, offset: int, chunk: bytes) -> None:
        if self._writer is None:
            self._writer = self._destination.writer(self._path)
        self._writer.data(offset, chunk)


def _overlaps(stretches: Sequence[tuple[int, int]], offset: int, length: int) -> Iterator[tuple[int, int]]:
    for at, size in stretches:
        begin, end = max(at, offset), min(at + size, offset + length)
        if begin < end:
            yield begin, end - begin
