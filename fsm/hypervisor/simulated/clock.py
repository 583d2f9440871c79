"""Simulated time: seconds that pass because somebody waits, not because the real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


class SimulatedClock:
    """Fits where the engine takes a clock.

    Whoever waits for ``s`` seconds gives other tasks a turn; then it is at least ``s`` later than when they
    began to wait. Tasks that wait at the same time thus wait side by side and not one after the other.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._alongside: list[tuple[float, asyncio.Event]] = []
        self._alarms: list[tuple[float, Callable[[], object]]] = []

    def monotonic_s(self) -> float:
        """Simulated seconds since the world began."""
        return self._now_s

    def now(self) -> datetime:
        """The simulated time of day."""
        return _EPOCH + timedelta(seconds=self._now_s)

    def spread(self) -> float:
        """No chance here: always the middle."""
        return 0.0

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        """Have something happen as soon as so much time has passed."""
        self._alarms.append((self._now_s + seconds, do))

    def forget_alarms(self) -> None:
        """Have nothing happen by itself any more."""
        self._alarms.clear()

    def pass_until(self, moment_s: float) -> None:
        """Let time pass until ``moment_s``, unless it is later already."""
        self._now_s = max(self._now_s, moment_s)
        for until_s, event in self._alongside:
            if until_s <= self._now_s:
                event.set()
        due = [do for at_s, do in self._alarms if at_s <= self._now_s]
        self._alarms = [alarm for alarm in self._alarms if alarm[0] > self._now_s]
        for do in due:
            do()

    async def alongside(self, event: asyncio.Event, timeout_s: float) -> None:
        """Wait until ``event`` is set, or set it when others have waited for ``timeout_s``."""
        entry = self._now_s + timeout_s, event
        self._alongside.append(entry)
        try:
            await event.wait()
        finally:
            self._alongside.remove(entry)

    async def sleep(self, seconds: float) -> None:
        """Let other tasks have a turn, then be ``seconds`` later."""
        until_s = self._now_s + seconds
        await asyncio.sleep(0)
        self.pass_until(until_s)

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait until ``event`` is set, at most ``timeout_s`` simulated seconds; whether it is set."""
        if event.is_set():
            return True
        until_s = self._now_s + timeout_s
        await asyncio.sleep(0)
        if not event.is_set():
            self.pass_until(until_s)
        return event.is_set()
