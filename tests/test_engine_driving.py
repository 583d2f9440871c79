"""What an engine took and then does not drive is free for everybody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest

from fsm.engine.engine import Engine
from fsm.journal.port import Entry, JournalUnavailable
from fsm.journal.records import Lease
from tests.simulation import Simulation, in_loop, simulate

LOCKED = JournalUnavailable("database is locked")


async def end_elsewhere(simulation: Simulation) -> None:
    """Another engine takes the migration over while the first one is alive, and finishes it."""
    (header,) = simulation.journal.headers(unfinished=True)
    other = Engine(simulation.journal, simulation.world, clock=simulation.world.clock, deliver=in_loop)
    assert (await (await other.resume(header.migration)).wait()).state == "committed"


@pytest.mark.parametrize("method", ["header", "records", "asked"])
async def test_one_that_could_not_be_begun_is_free(method: str) -> None:
    """The heart of its engine goes on: a lease that it kept would never run out."""
    simulation = await simulate()
    with (
        patch.object(type(simulation.journal), method, side_effect=LOCKED),
        pytest.raises(JournalUnavailable),
    ):
        await simulation.start()
    assert simulation.engine.handles == {}
    await end_elsewhere(simulation)


async def test_a_lease_that_could_not_be_given_back_is_given_back_later() -> None:
    simulation = await simulate()
    append_all = simulation.journal.append_all

    def refuse(_journal: object, entries: Sequence[Entry]) -> object:
        if any(entry.record.step == "transition" for entry in entries):
            raise LOCKED
        return append_all(entries)

    handle = await simulation.start()
    with (
        patch.object(type(simulation.journal), "append_all", refuse),
        patch.object(type(simulation.journal), "release", side_effect=LOCKED),
        pytest.raises(JournalUnavailable),
    ):
        await handle.wait()
    driving = simulation.engine._driving
    # A heartbeat comes while another migration is begun: both look for what is owed.
    await asyncio.gather(driving.hand_out_requests(), driving.hand_out_requests())
    await end_elsewhere(simulation)


async def test_one_that_was_given_up_while_it_was_taken_is_free() -> None:
    """Cancelling does not reach a thread: the lease is there a moment later."""
    simulation = await simulate()
    journal, loop = simulation.journal, asyncio.get_running_loop()
    acquire, begun, go_on = journal.acquire, asyncio.Event(), threading.Event()

    def slow(_journal: object, *arguments: Any) -> Lease:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        return acquire(*arguments)

    with patch.object(type(journal), "acquire", slow):
        starting = asyncio.create_task(simulation.start())
        await begun.wait()
        starting.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
    await end_elsewhere(simulation)
