"""A migration under way in this process, as whoever began it holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from attrs import define

from fsm.engine.callbacks import Teller
from fsm.engine.context import Progress
from fsm.engine.driver import Driver
from fsm.engine.feed import Event, Feed
from fsm.engine.plan import Request
from fsm.engine.result import Result


@define(eq=False)
class Handle:
    """A migration under way in an ``Engine``. Its properties and ``abort`` may be used from any thread."""

    migration: str
    _task: asyncio.Task[Result]
    _driver: Driver
    _feed: Feed
    _teller: Teller | None

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self._driver.request

    @property
    def state(self) -> str:
        """The machine's state, by its last record."""
        return self._driver.history.state

    @property
    def progress(self) -> Progress | None:
        """How far the present phase is, or the last one that told; None before any did."""
        return self._feed.progress

    @property
    def ended(self) -> bool:
        """Whether the migration has ended, or was let go of."""
        return self._task.done()

    @property
    def events(self) -> AsyncIterator[Event]:
        """Its records since this engine drives it, all of them and in order, and its progress in between.

        Ends with the migration, or when it is let go of; may be asked for more than once, and late. Whoever
        iterates slowly is told the newest progress alone; records are read back from the journal then, which
        may raise ``JournalUnavailable``. Iterate in the engine's event loop.
        """
        return self._feed.follow_along()

    async def wait(self, timeout_s: float | None = None) -> Result:
        """The result, when there is one and the callbacks have heard of everything before it.

        Cancelling the wait leaves the migration running. Raises ``TimeoutError`` when it takes longer than
        ``timeout_s``, ``JournalUnavailable`` when the journal failed, and ``LeaseLost`` when another engine
        has taken the migration over. One that was let go of raises ``asyncio.CancelledError``.
        """
        async with asyncio.timeout(timeout_s):
            try:
                return await asyncio.shield(self._task)
            finally:
                if self._teller is not None and self._task.done():
                    await self._teller.told.wait()

    def abort(self) -> None:
        """Ask for a clean roll-back; behind the point of no return the migration goes on instead.

        One that has not begun ends as refused. Does not wait, and may be called from a callback.
        """
        loop = self._task.get_loop()
        try:
            inside = asyncio.get_running_loop() is loop
        except RuntimeError:
            inside = False
        if inside:
            self._driver.abort()
        elif not self.ended:
            loop.call_soon_threadsafe(self._driver.abort)

    async def detach(self) -> None:
        """Stop driving it here, at once. The hosts go on with what they do; ``resume`` takes over."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    def follow(self) -> Iterator[Event]:
        """``events`` for any other thread than the engine's: blocks for the next one."""
        return self._feed.follow()

    @property
    def inside_callback(self) -> bool:
        """Whether the caller is one of its callbacks, which can't wait for the migration's end."""
        return self._teller is not None and self._teller.inside
