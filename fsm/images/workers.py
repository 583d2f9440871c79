"""Threads that share one job, each with data channels of its own, and stop together.

Channels block, so every worker has a thread. asyncio waits for the threads and never the other way round.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from fsm.errors import HostError
from fsm.hypervisor.port import Connector, DataChannel

TICK_S = 0.2
"""How often progress is told: fast enough for an eye, slow enough for a journal."""

GRACE_S = 5.0
"""How long workers told to stop may take before their channels are closed under them."""

GIVE_UP_S = 60.0
"""How long a worker is waited for after that; twice what keepalive needs to find a host dead."""


class Stopped(Exception):
    """Ends a worker's thread because its job is over: cancelled, or failed in another worker."""


class Worker:
    """What one worker's thread is given. ``index`` counts from 0; ``stop`` is set when the job is over."""

    def __init__(self, index: int, stop: threading.Event) -> None:
        self.index = index
        self.stop = stop
        self._lock = threading.Lock()
        self._channels: list[DataChannel] = []

    def open(self, connector: Connector, uri: str) -> DataChannel:
        """Open a channel that is closed when the worker ends. Raises what ``open_channel`` does."""
        self.check()
        channel = connector.open_channel(uri)
        with self._lock:
            self._channels.append(channel)
        self.check()
        return channel

    def check(self) -> None:
        """Raise ``Stopped`` when the job is over."""
        if self.stop.is_set():
            raise Stopped

    def close(self) -> None:
        """Close the channels, each once. From another thread: what runs on them fails."""
        with self._lock:
            channels, self._channels = self._channels, []
        for channel in channels:
            with suppress(HostError):  # everything sent was confirmed before, or is given up
                channel.close()


Work = Callable[[Worker], None]


class _Crew:
    """The threads of one job."""

    def __init__(self, work: Work, name: str) -> None:
        self.error: BaseException | None = None
        self.ends: list[asyncio.Future[None]] = []
        self._work = work
        self._name = name
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._threads: list[threading.Thread] = []

    @property
    def pending(self) -> list[asyncio.Future[None]]:
        return [end for end in self.ends if not end.done()]

    def start(self, count: int) -> None:
        for index in range(count):
            worker = Worker(index, self._stop)
            self._workers.append(worker)
            self._spawn(partial(self._run, worker), f"{self._name}-{index}")

    def _spawn(self, body: Callable[[], None], name: str) -> None:
        end: Future[None] = Future()

        def run() -> None:
            try:
                body()
            finally:
                end.set_result(None)

        # Daemons: a call that hangs in a library must not keep the process from ending.
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
        self.ends.append(asyncio.wrap_future(end))

    def _run(self, worker: Worker) -> None:
        try:
            try:
                self._work(worker)
            finally:
                worker.close()
        except BaseException as error:  # noqa: BLE001 - raised in the task that waits
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Keep the first error. Those that come after the stop are only its consequences."""
        with self._lock:
            if not self._stop.is_set():
                self.error = error
                self._stop.set()

    async def wind_up(self) -> None:
        """Stop the workers and wait for their threads; a further cancel does not cut that short."""
        with self._lock:
            self._stop.set()
        ending = asyncio.ensure_future(self._end())
        cancelled: asyncio.CancelledError | None = None
        while not ending.done():  # bounded: _end waits under time limits only
            try:
                await asyncio.wait({ending})
            except asyncio.CancelledError as error:
                cancelled = error
        ending.result()
        if cancelled is not None:
            raise cancelled

    async def _end(self) -> None:
        if self.pending:
            await asyncio.wait(self.pending, timeout=GRACE_S)
        if self.pending:
            self._spawn(self._close_channels, f"{self._name}-closer")
            await asyncio.wait(self.pending, timeout=GIVE_UP_S)
        for thread, end in zip(self._threads, self.ends, strict=True):
            if end.done():
                thread.join()  # it has nothing left to do but return

    def _close_channels(self) -> None:
        for worker in self._workers:
            worker.close()


async def run_workers(
    count: int, work: Work, *, name: str, tick: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Run ``work`` in ``count`` threads and return when all have ended.

    ``tick`` is awaited on the event loop from time to time and once at the end; what it raises stops the job.
    The first error of any worker stops the others and is raised here. On return, on an error and on a cancel
    no thread is left, except one whose call outlives its host's keepalive (``GIVE_UP_S``): a daemon thread.
    """
    crew = _Crew(work, name)
    try:
        crew.start(count)
        while crew.pending:  # bounded by the workers' own end
            await asyncio.wait(crew.pending, timeout=TICK_S if tick else None)
            if tick:
                await tick()
    finally:
        await crew.wind_up()
    if crew.error is not None:
        raise crew.error
