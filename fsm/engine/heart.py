"""Keeps an engine's leases alive, and notices when they are not.

One heartbeat in the journal serves all migrations that the engine drives. An engine that could not beat for
the length of a lease, whatever stopped it, must take it that others have taken over: from then on none of its
migrations may act. Its clock goes on while the process or the machine sleeps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from attrs import define, field

from fsm.engine.holder import new_holder
from fsm.errors import FsmError
from fsm.journal.port import Journal, JournalUnavailable, LeaseLost

LEASE_S = 15.0
BEAT_S = 1.0
# Others may count the lease as run out this much earlier than we do, should the hosts' clocks differ.
MARGIN_S = 3.0


def boot_time_s() -> float:
    """Seconds since boot, those included in which the machine slept (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@define(eq=False)
class Heart:
    """The heartbeat of one engine. ``on_beat`` is awaited after each; that it fails ends nothing."""

    journal: Journal
    holder: str = field(factory=lambda: str(new_holder()))
    now_s: Callable[[], float] = boot_time_s
    on_beat: Callable[[], Awaitable[None]] | None = None
    _beaten_at_s: float = field(default=float("-inf"), init=False)
    # Its own: a crowd of migrations keeps the loop's common threads busy for longer than a lease.
    _thread: ThreadPoolExecutor = field(factory=lambda: ThreadPoolExecutor(1, "heartbeat"), init=False)
    _starting: asyncio.Lock = field(factory=asyncio.Lock, init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)

    async def start(self) -> None:
        """Begin to beat, unless it does.

        Raises ``JournalUnavailable``, and ``LeaseLost`` when it has lapsed: what this engine drove may be
        driven by others now, and to beat again would let it act.
        """
        async with self._starting:  # a crowd that starts at once shares one heartbeat
            if self._task is None:
                await self._beat()
                self._task = asyncio.create_task(self._keep_beating(), name="heartbeat")
        self.check()

    async def stop(self) -> None:
        """Stop beating."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._thread.shutdown(wait=False)

    def check(self) -> None:
        """Raise ``LeaseLost`` when it has been too long since the last heartbeat reached the journal."""
        silent_s = self.now_s() - self._beaten_at_s
        if silent_s > LEASE_S - MARGIN_S:
            raise LeaseLost(
                f"this engine could not keep its leases for {silent_s:.0f} s; others may have taken over",
                remedy="`fsm resume` takes up what nobody drives",
            )

    async def _beat(self) -> None:
        # Taken before the writing: the lease may be shorter than we think, never longer.
        at_s = self.now_s()
        expires = datetime.now(UTC) + timedelta(seconds=LEASE_S)
        beat = partial(self.journal.beat, self.holder, expires)
        await asyncio.get_running_loop().run_in_executor(self._thread, beat)
        self._beaten_at_s = at_s

    async def _keep_beating(self) -> None:
        while True:  # until stopped, or lapsed: a heart that has once stopped does not begin again
            await asyncio.sleep(BEAT_S)
            try:
                self.check()
                await self._beat()
            except JournalUnavailable:
                continue  # the leases run out by themselves if that lasts
            except FsmError:
                return
            if self.on_beat is not None:
                with suppress(FsmError):  # what it did not get to is done behind the next beat
                    await self.on_beat()
