"""A migration under way in this process, as whoever began it holds it."""

from __future__ import annotations

import asyncio

from attrs import define

from fsm.engine.driver import Driver
from fsm.engine.result import Result


@define
class Handle:
    """A migration under way in this process."""

    migration: str
    _task: asyncio.Task[Result]
    _driver: Driver

    @property
    def ended(self) -> bool:
        """Whether ``wait`` would return, or raise, at once."""
        return self._task.done()

    async def wait(self) -> Result:
        """The result, when there is one. Cancelling the wait leaves the migration running.

        Raises ``JournalUnavailable`` when the journal failed, and ``LeaseLost`` when another engine has taken
        the migration over.
        """
        return await asyncio.shield(self._task)

    def abort(self) -> None:
        """Ask for a clean roll-back; behind the point of no return the migration goes on instead."""
        self._driver.abort()

    async def detach(self) -> None:
        """Stop driving it here, at once. The hosts go on with what they do; ``resume`` takes over."""
        self._task.cancel()
        await asyncio.wait((self._task,))
