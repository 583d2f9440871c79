"""Time as the engine sees it. Tests and simulations bring their own."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time and of chance."""

    def monotonic_s(self) -> float:
        """Seconds from some fixed point, never backwards."""

    def now(self) -> datetime:
        """The time of day, in UTC."""

    def spread(self) -> float:
        """A number in [-1, 1] that varies a retry's delay."""

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait until ``event`` is set, at most ``timeout_s``; whether it is set."""


class SystemClock:
    """The machine's own clock."""

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return time.monotonic()

    def now(self) -> datetime:
        """See ``Clock``."""
        return datetime.now(UTC)

    def spread(self) -> float:
        """See ``Clock``."""
        return random.uniform(-1, 1)  # noqa: S311  # spreads retries apart; nothing secret depends on it

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """See ``Clock``."""
        try:
            async with asyncio.timeout(timeout_s):
                return await event.wait()
        except TimeoutError:
            return event.is_set()
