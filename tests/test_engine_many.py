"""Many migrations in one engine: what they share, and what one of them can't do to the others."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest

from fsm.engine.engine import Engine
from fsm.engine.heart import Heart
from fsm.engine.limits import COPIES_AT_ONCE
from fsm.engine.scribe import MOST_AT_ONCE, Scribe
from fsm.engine.sharing import SharedConnector
from fsm.errors import HostUnreachable, JournalCorrupt
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.journal.port import Entry, Leased
from fsm.journal.records import Phase, Record, Step
from tests.simulation import DESTINATION, SOURCE, Simulation, simulate

MANY = 3 * COPIES_AT_ONCE


async def _left_by_a_dead_engine(simulation: Simulation) -> list[str]:
    migrations = []
    for number in range(MANY):
        simulation.world.add_domain(SOURCE, f"other{number}", snapshots={"s1": None})
        handle = await simulation.engine.start(simulation.request(domain=f"other{number}"))
        await handle.detach()
        migrations.append(handle.migration)
    simulation.world.calls.clear()
    return migrations


def _another_engine(simulation: Simulation) -> Engine:
    return Engine(simulation.journal, simulation.world, clock=simulation.world.clock)


async def test_all_that_a_dead_engine_left_is_taken_over_in_one_go() -> None:
    simulation = await simulate()
    migrations, other = await _left_by_a_dead_engine(simulation), _another_engine(simulation)
    handles, left = await other.resume_all()
    assert left == []
    assert {handle.migration for handle in handles} == set(migrations)
    assert {(await handle.wait()).state for handle in handles} == {"committed"}
    assert await other.resume_all() == ([], [])


async def test_many_migrations_take_two_connections_and_copy_a_few_at_a_time() -> None:
    simulation = await simulate()
    world = simulation.world
    await _left_by_a_dead_engine(simulation)
    other, most = _another_engine(simulation), 0

    def look() -> None:
        """Whoever makes a copy durable has its turn."""
        nonlocal most
        most = max(most, COPIES_AT_ONCE - other._driving.copying._value)

    for nth in range(1, MANY + 1):
        world.at("make_durable", look, nth=nth)
    handles, _ = await other.resume_all()
    await asyncio.gather(*(handle.wait() for handle in handles))
    assert sorted(call.host for call in world.calls if call.name == "connect") == [SOURCE, DESTINATION]
    assert 1 < most <= COPIES_AT_ONCE


async def test_what_a_living_engine_drives_and_what_is_damaged_is_left_alone_and_named() -> None:
    simulation = await simulate()
    journal = simulation.journal
    theirs, damaged, *others = await _left_by_a_dead_engine(simulation)
    journal.acquire(theirs, simulation.engine._heart.holder, lambda _holder: False)
    with sqlite3.connect(journal._file.path) as raw:
        raw.execute("UPDATE migrations SET request = '[' WHERE migration = ?", (damaged,))
    handles, left = await _another_engine(simulation).resume_all()
    assert {handle.migration for handle in handles} == set(others)
    corrupt, leased = sorted(left, key=lambda error: type(error).__name__)
    assert isinstance(corrupt, JournalCorrupt)
    assert damaged in str(corrupt)
    assert isinstance(leased, Leased)
    assert leased.migration == theirs
    for handle in handles:
        assert (await handle.wait()).state == "committed"


async def test_a_shared_host_is_closed_by_its_last_user() -> None:
    world = SimulatedWorld()
    world.add_host(SOURCE)
    connector = SharedConnector(world)
    one, other = await asyncio.gather(connector.connect(SOURCE), connector.connect(SOURCE))
    await one.close()
    await one.close()
    await other.identity()
    await other.close()
    assert connector._shared == {}
    await (await connector.connect(SOURCE)).close()
    assert [call.name for call in world.calls].count("connect") == 2


async def test_a_host_that_can_not_be_connected_is_tried_again_by_the_next() -> None:
    world = SimulatedWorld()
    world.add_host(SOURCE)
    world.disconnect(SOURCE)
    connector = SharedConnector(world)
    found = await asyncio.gather(*(connector.connect(SOURCE) for _ in range(2)), return_exceptions=True)
    assert [type(one) for one in found] == [HostUnreachable] * 2
    assert [call.name for call in world.calls].count("connect") == 1, "who waits does not try as well"
    world.reconnect(SOURCE)
    await (await connector.connect(SOURCE)).close()


async def test_who_stops_to_wait_for_a_host_takes_nothing_from_the_others() -> None:
    world = SimulatedWorld()
    world.add_host(SOURCE)
    connector = SharedConnector(world)
    first, second = (asyncio.ensure_future(connector.connect(SOURCE)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await (await second).identity()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_migrations_that_start_at_once_share_one_heartbeat() -> None:
    simulation = await simulate()
    for number in range(MANY):
        simulation.world.add_domain(SOURCE, f"other{number}", snapshots={"s1": None})
    starts = (simulation.engine.start(simulation.request(domain=f"other{n}")) for n in range(MANY))
    handles = await asyncio.gather(*starts)
    assert [task.get_name() for task in asyncio.all_tasks()].count("heartbeat") == 1
    await asyncio.gather(*(handle.wait() for handle in handles))


async def test_the_heart_beats_while_the_loops_own_threads_are_all_taken() -> None:
    simulation, released = await simulate(), threading.Event()
    with ThreadPoolExecutor(1) as taken:
        asyncio.get_running_loop().set_default_executor(taken)
        waiting = asyncio.ensure_future(asyncio.to_thread(released.wait))
        await asyncio.sleep(0)
        heart = Heart(simulation.journal)
        try:
            await asyncio.wait_for(heart.start(), 30)  # comes to an end although nothing else does
        finally:
            released.set()
        await waiting
        await heart.stop()


async def test_no_transaction_takes_more_records_than_a_heartbeat_can_wait_for() -> None:
    simulation = await simulate()
    handle = await simulation.start()
    await handle.wait()
    entry = Entry(handle.migration, Record(Step.ACTION, Phase.OUTCOME, "note", "committed"))
    scribe, sizes = Scribe(simulation.journal), []
    append_all = simulation.journal.append_all

    def counted(entries: list[Entry]) -> object:
        sizes.append(len(entries))
        return append_all(entries)

    with patch.object(type(simulation.journal), "append_all", lambda _self, entries: counted(entries)):
        written = [scribe.write(entry) for _ in range(2 * MOST_AT_ONCE + 2)]
        await asyncio.gather(*written)
    assert sizes == [1, MOST_AT_ONCE, MOST_AT_ONCE, 1]
