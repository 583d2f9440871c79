"""Going on with a copy that was interrupted: what of it can be kept, and what has to be copied again.

A finished block is remembered by a digest of what was sent. That it was sent does not say that it is there:
streams are not synced, so a host that crashed may have lost it, and a file may have been replaced. So every
block is read back at the destination before it is relied on. The original is not read for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from fsm.hypervisor.port import Connector
from fsm.hypervisor.uris import safe_uri
from fsm.images.base_copy import CONNECTIONS, LARGEST_CHUNK_BYTES, CopyResult
from fsm.images.blocks import Block, BlockDigest, Blocks
from fsm.images.digests import QUICK
from fsm.images.transfer import CHUNK_BYTES, Chunks, Progress, Range, Reading, Tally, Throttle
from fsm.images.workers import Worker, run_workers

MOST_FILLED = 64
"""Stretches of data told apart in one block; further ones count as one with the holes between them."""

_DIGEST_CHARACTERS = 2 * len(QUICK().digest())


@frozen
class Stretch:
    """Blocks that lie side by side, as the journal has them.

    ``digests`` holds one after the other the digests of its blocks, 32 characters each; it is empty where all
    of them are zeros. So a file of 100 GiB takes 100 KiB, and one without data next to nothing.
    """

    offset: int
    length: int
    digests: str = ""

    @property
    def blocks(self) -> tuple[tuple[Range, str], ...]:
        """Where its blocks are, and their digests; nothing where the two do not fit together."""
        places = [
            Range(at, min(CHUNK_BYTES, self.offset + self.length - at))
            for at in range(self.offset, self.offset + self.length, CHUNK_BYTES)
        ]
        if self.offset % CHUNK_BYTES:
            return ()
        if not self.digests:
            return tuple((place, "") for place in places)
        step = _DIGEST_CHARACTERS
        digests = [self.digests[at : at + step] for at in range(0, len(self.digests), step)]
        if len(self.digests) != step * len(places):
            return ()
        return tuple(zip(places, digests, strict=True))


def stretches_of(blocks: Iterable[Block]) -> list[Stretch]:
    """The same blocks in as few stretches as possible."""
    found: list[Stretch] = []
    for block in sorted(blocks, key=lambda block: block.offset):
        last = found[-1] if found else None
        joins = last is not None and last.offset + last.length == block.offset
        if last is not None and joins and bool(last.digests) == bool(block.digest):
            found[-1] = Stretch(last.offset, last.length + block.length, last.digests + block.digest)
        else:
            found.append(Stretch(block.offset, block.length, block.digest))
    return found


def covered_bytes(stretches: Iterable[Stretch]) -> int:
    """How many bytes of a file they cover, each counted once."""
    covered = end = 0
    for stretch in sorted(stretches, key=lambda stretch: stretch.offset):
        stop = stretch.offset + stretch.length
        covered += max(0, stop - max(end, stretch.offset))
        end = max(end, stop)
    return covered


Copy = Callable[[Sequence[Range], Progress], Coroutine[Any, Any, CopyResult]]
"""Copies ranges of the file, however it is done; see ``copy_file`` for what it is held to."""


@frozen
class Continued:
    """What a continued copy came to. ``data_bytes`` were sent, ``kept_bytes`` were there; holes count in
    neither.
    """

    data_bytes: int
    kept_bytes: int


@frozen
class Copied:
    """A copy at the destination, partly done, as it can be read back there.

    ``throttle`` is for this direction alone: the link carries both at once.
    """

    connector: Connector
    uri: str
    path: str
    size_bytes: int
    connections: int = CONNECTIONS
    throttle: Throttle | None = None


async def go_on(copied: Copied, known: Iterable[Stretch], copy: Copy, progress: Progress) -> Continued:
    """Copy what ``known`` does not name, and those blocks that do not hold any more what it says.

    The blocks are read back while the rest is copied. Where the destination holds data, right or wrong, in
    what is copied, holes of the original become zeros there. ``progress`` counts what was kept as done.

    Raises what ``copy`` raises, and the destination's errors. Cancelling works as with ``copy_file``.
    """
    digests = _digests(known, copied.size_bytes)
    sums = _Sums(progress)
    unknown = set(range(0, copied.size_bytes, CHUNK_BYTES)) - digests.keys()
    gaps = _joined(seen.range for seen in await _look(copied, _ranges(unknown, copied.size_bytes), {}))
    try:
        async with asyncio.TaskGroup() as group:
            rest = group.create_task(copy(gaps, sums.part()))
            look = group.create_task(_look(copied, _ranges(digests, copied.size_bytes), digests, sums.part()))
    except ExceptionGroup as errors:  # the first one ended the other
        raise errors.exceptions[0] from None
    wrong = [seen.range for seen in look.result() if not seen.is_right]
    again = await copy(_joined(wrong), sums.part())
    data_bytes = rest.result().data_bytes + again.data_bytes
    return Continued(data_bytes, sum(seen.block.data_bytes for seen in look.result() if seen.is_right))


def _digests(known: Iterable[Stretch], size_bytes: int) -> dict[int, str]:
    """The digest of each block by its offset; of two entries the later counts. What does not fit is left."""
    pairs = [pair for stretch in known for pair in stretch.blocks]
    return {place.offset: digest for place, digest in pairs if place == _block_at(place.offset, size_bytes)}


def _block_at(offset: int, size_bytes: int) -> Range:
    return Range(offset, min(CHUNK_BYTES, size_bytes - offset))


def _ranges(offsets: Iterable[int], size_bytes: int) -> list[Range]:
    """Blocks as ranges."""
    return _joined(_block_at(offset, size_bytes) for offset in offsets)


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """In their order, those side by side in one."""
    joined: list[Range] = []
    for one in sorted(ranges, key=lambda one: one.offset):
        if joined and (last := joined[-1]).end == one.offset:
            joined[-1] = Range(last.offset, last.length + one.length, last.filled + one.filled)
        else:
            joined.append(one)
    return joined


class _Sums:
    """Tells the sum of what several parts of a copy have done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._parts: list[tuple[int, int]] = []

    def part(self) -> Progress:
        """For one more part."""
        index = len(self._parts)
        self._parts.append((0, 0))

        def tell(data_bytes: int, hole_bytes: int) -> None:
            self._parts[index] = (data_bytes, hole_bytes)
            self._progress(sum(data for data, _ in self._parts), sum(hole for _, hole in self._parts))

        return tell


@frozen
class _Seen:
    """A block as the destination has it, whether it is as it was sent, and where in another there is data."""

    block: Block
    is_right: bool
    filled: tuple[tuple[int, int], ...] = ()

    @property
    def range(self) -> Range:
        return Range(self.block.offset, self.block.length, self.filled)


async def _look(
    copied: Copied, ranges: Sequence[Range], digests: Mapping[int, str], progress: Progress | None = None
) -> list[_Seen]:
    """Read these ranges at the destination, block by block; ``digests`` of what was sent, by offset."""
    size_bytes = sum(one.length for one in ranges)
    count = max(1, min(copied.connections, -(-size_bytes // CHUNK_BYTES))) if size_bytes else 0
    chunks = Chunks(ranges, sharers=count, largest_bytes=LARGEST_CHUNK_BYTES)
    tally = Tally(safe_uri(copied.uri), progress)
    seen: list[_Seen] = []

    def work(worker: Worker) -> None:
        channel = worker.open(copied.connector, copied.uri)
        reading = Reading(worker, channel, copied.uri, copied.path, tally, copied.throttle)
        while (chunk := chunks.take()) is not None:  # bounded by the file's size
            worker.check()
            blocks = Blocks(
                chunk, lambda offset, length: _Look(BlockDigest(offset, length), digests.get(offset), seen)
            )
            reading.into(blocks, chunk.offset, chunk.length)

    if count:
        name = f"look at {copied.path.rpartition('/')[2]} at {safe_uri(copied.uri)}"
        await run_workers(count, work, name=name, tick=tally.tell)
    return seen


@define
class _Look:
    """A sink that notes one block. Appending to a list is safe from any thread."""

    _digest: BlockDigest
    _sent: str | None
    _seen: list[_Seen]
    _filled: list[tuple[int, int]] = field(factory=list, init=False)

    def data(self, offset: int, chunk: bytes) -> None:
        self._digest.data(offset, chunk)
        end = offset + len(chunk)
        at, length = self._filled[-1] if self._filled else (0, 0)
        if self._filled and (at + length == offset or len(self._filled) == MOST_FILLED):
            self._filled[-1] = (at, end - at)
        else:
            self._filled.append((offset, end - offset))

    def hole(self, offset: int, length: int) -> None:
        self._digest.hole(offset, length)

    def end(self) -> None:
        block = self._digest.block()
        is_right = block.digest == self._sent
        self._seen.append(_Seen(block, is_right, () if is_right else tuple(self._filled)))
