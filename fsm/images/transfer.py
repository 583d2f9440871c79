"""What every bulk transfer shares: which range is next, how fast it may go, how far it has come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from attrs import define, evolve, frozen

from fsm.errors import BadInput, HostError, HostUnreachable
from fsm.hypervisor.port import DataChannel, DataSink
from fsm.hypervisor.uris import safe_uri
from fsm.images.workers import Worker

MIB = 1024 * 1024

CHUNK_BYTES = 32 * MIB
"""The unit of work. Its start costs a few round trips, its end is where the workers even out."""

BURST_S = 0.1
"""What a throttled transfer that fell behind may make up for at full speed."""

SILENCE_S = 300.0
"""How long nothing may move before a transfer counts as lost: storage may hang while its host answers. A
worker counts a hole when it has filled it with zeros, on a slow link a minute or two later."""

Progress = Callable[[int, int], None]
"""Told, on the event loop, how many bytes of data and how many bytes of holes are done."""


class Throttle:
    """A limit in MiB/s for the sum of all transfers that share it, from any number of threads.

    Every packet reserves the next free stretch of time; whoever reserved waits until its stretch is over.
    Raises ``BadInput`` for a limit that is not positive.
    """

    def __init__(self, mib_per_s: float, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        if not mib_per_s > 0:
            raise BadInput(f"a bandwidth of {mib_per_s} MiB/s is no limit: it must be above 0")
        self._bytes_per_s = mib_per_s * MIB
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._free_at_s = clock_s()

    def take(self, size_bytes: int, stop: threading.Event) -> None:
        """Wait until ``size_bytes`` more may pass, or until ``stop`` is set. Blocking."""
        with self._lock:
            now_s = self._clock_s()
            self._free_at_s = max(self._free_at_s, now_s - BURST_S) + size_bytes / self._bytes_per_s
            delay_s = self._free_at_s - now_s
        if delay_s > 0:
            stop.wait(delay_s)


@frozen
class Range:
    """A part of a file. It begins at a multiple of ``CHUNK_BYTES``, and ends at one or where the file ends.

    ``filled`` names stretches, offset and length, in which a copy of the file may hold data already.
    """

    offset: int
    length: int
    filled: tuple[tuple[int, int], ...] = ()

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length


def whole_file(size_bytes: int) -> tuple[Range, ...]:
    """All of a file as ranges: an empty one has none."""
    return (Range(0, size_bytes),) if size_bytes else ()


class Chunks:
    """Hands out ranges of a file in their order, each byte once, to any number of threads.

    They are cut at multiples of ``CHUNK_BYTES``: as long as ``largest_bytes`` while much is left and shorter
    towards the end, so that all of ``sharers`` finish at about the same time.
    """

    def __init__(
        self, ranges: Sequence[Range], *, sharers: int = 1, largest_bytes: int = CHUNK_BYTES
    ) -> None:
        self._ranges = deque(ranges)
        self._shares = 2 * sharers
        self._largest_bytes = largest_bytes
        self._left_bytes = sum(one.length for one in ranges)
        self._lock = threading.Lock()

    def take(self) -> Range | None:
        """The next range; None when there is none."""
        with self._lock:
            if not self._ranges:
                return None
            first = self._ranges.popleft()
            length = min(self._left_bytes // self._shares, self._largest_bytes) // CHUNK_BYTES * CHUNK_BYTES
            length = min(max(length, CHUNK_BYTES), first.length)
            self._left_bytes -= length
            if rest := first.length - length:
                self._ranges.appendleft(evolve(first, offset=first.offset + length, length=rest))
            return evolve(first, length=length)

    def cut(self, end: int) -> None:
        """Hand out nothing that lies at ``end`` or behind it."""
        with self._lock:
            kept = [one for one in self._ranges if one.offset < end]
            self._ranges = deque(evolve(one, length=min(one.length, end - one.offset)) for one in kept)
            self._left_bytes = sum(one.length for one in self._ranges)


class Tally:
    """Counts what workers have done, and tells it on the event loop when it changed.

    ``hosts`` are those between which it moves, fit for messages.
    """

    def __init__(self, hosts: str, progress: Progress | None = None) -> None:
        self._lock = threading.Lock()
        self._hosts = hosts
        self._progress = progress
        self._moved_at_s = time.monotonic()
        self._told = (0, 0)
        self.data_bytes = 0
        self.hole_bytes = 0

    def add(self, data_bytes: int, hole_bytes: int) -> None:
        """Count; from any thread."""
        with self._lock:
            self.data_bytes += data_bytes
            self.hole_bytes += hole_bytes

    async def tell(self) -> None:
        """Tell the sums if they changed since the last call; from the event loop only.

        Raises ``HostUnreachable`` when they have not for too long.
        """
        with self._lock:
            now = (self.data_bytes, self.hole_bytes)
        if now != self._told:
            self._told, self._moved_at_s = now, time.monotonic()
            if self._progress is not None:
                self._progress(*now)
        elif (silent_s := time.monotonic() - self._moved_at_s) > SILENCE_S:
            raise HostUnreachable(
                f"nothing was copied or read for {silent_s:.0f} s", host=self._hosts, call="read"
            )


@define
class Reading:
    """Reads ranges of one file of one host within a worker: stoppable, throttled, counted, complete."""

    worker: Worker
    channel: DataChannel
    uri: str
    path: str
    tally: Tally
    throttle: Throttle | None = None

    def into(self, sink: DataSink, offset: int, length: int) -> None:
        """Feed the range to ``sink``.

        Raises ``Stopped``, what ``sink`` raises, and ``HostError`` when the host fails or the file ends
        within the range.
        """
        gauge = _Gauge(self, sink, offset, offset + length)
        try:
            self.channel.read(self.path, offset, length, gauge)
        except Exception as error:
            # A binding may hide what stopped it behind an error of its own.
            if gauge.failure is not None and gauge.failure is not error:
                raise gauge.failure from error
            raise
        if gauge.position != gauge.end:
            raise self.error(f"the file {self.path!r} ends at byte {gauge.position}, before byte {gauge.end}")

    def error(self, message: str) -> HostError:
        """An error of this host's file that the host did not raise."""
        return HostError(message, host=safe_uri(self.uri), call="read")


@define
class _Gauge:
    """Sits between a channel and a sink; lets each byte of a range pass once."""

    reading: Reading
    sink: DataSink
    position: int
    end: int
    failure: Exception | None = None

    def data(self, offset: int, chunk: bytes) -> None:
        try:
            self._enter(offset, len(chunk))
            if self.reading.throttle is not None:
                self.reading.throttle.take(len(chunk), self.reading.worker.stop)
            self.reading.worker.check()
            self.sink.data(offset, chunk)
        except Exception as error:
            self.failure = error
            raise
        self.position += len(chunk)
        self.reading.tally.add(len(chunk), 0)

    def hole(self, offset: int, length: int) -> None:
        try:
            self._enter(offset, length)
            self.reading.worker.check()
            self.sink.hole(offset, length)
        except Exception as error:
            self.failure = error
            raise
        self.position += length
        self.reading.tally.add(0, length)

    def _enter(self, offset: int, length: int) -> None:
        """A hidden gap would become zeros in the copy, without anybody noticing."""
        if offset != self.position or length < 0 or offset + length > self.end:
            raise self.reading.error(
                f"{length} bytes at {offset} of {self.reading.path!r} came out of turn: "
                f"expected from {self.position} to {self.end}"
            )
