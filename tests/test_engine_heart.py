"""The heartbeat goes on whatever is done behind it; ``test_engine_takeover`` tells what its silence means."""

from __future__ import annotations

import asyncio

import pytest

from fsm.engine import heart
from fsm.engine.heart import Heart
from fsm.errors import FsmError, JournalCorrupt
from fsm.journal.port import JournalUnavailable
from tests.simulation import fresh_journal


@pytest.mark.parametrize("error", [JournalUnavailable("database is locked"), JournalCorrupt("no request")])
async def test_what_fails_behind_a_beat_ends_no_heart(
    error: FsmError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end every migration of the engine within the length of a lease."""
    monkeypatch.setattr(heart, "BEAT_S", 0.001)
    looks: list[None] = []
    again = asyncio.Event()

    async def look() -> None:
        looks.append(None)
        if len(looks) == 1:
            raise error
        again.set()

    beating = Heart(fresh_journal(), on_beat=look)
    await beating.start()
    try:
        async with asyncio.timeout(10):
            await again.wait()
    finally:
        await beating.stop()
