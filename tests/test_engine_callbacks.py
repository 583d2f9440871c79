"""Callbacks can do what they like: the engine goes on, and they hear of everything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import pytest

from fsm.engine import callbacks, feed
from fsm.engine.context import Progress
from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.journal.port import JournalUnavailable
from fsm.journal.records import Record
from tests.log_helpers import logged
from tests.simulation import Simulation, check_end, simulate

ENGINES: list[Engine] = []


def engine_of(simulation: Simulation) -> Engine:
    """One that calls back as it does by default: in a thread of its own."""
    ENGINES.append(Engine(simulation.journal, simulation.world, clock=simulation.world.clock))
    return ENGINES[-1]


@pytest.fixture(autouse=True)
async def ended() -> AsyncIterator[None]:
    """No thread is left to the next test."""
    yield
    while ENGINES:
        await ENGINES.pop().close()


def sequences(simulation: Simulation, handle: Handle) -> list[int]:
    return [record.sequence for record in simulation.journal.records(handle.migration)]


def named(lines: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == event]


async def test_they_are_called_in_one_thread_that_is_not_the_loops() -> None:
    simulation = await simulate()
    threads: set[int] = set()
    handle = await engine_of(simulation).start(
        simulation.request(),
        on_progress=lambda _progress: threads.add(threading.get_ident()),
        on_record=lambda _record: threads.add(threading.get_ident()),
    )
    await handle.wait()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_when_wait_returns_they_have_heard_every_record_in_order() -> None:
    simulation, records = await simulate(), list[Record]()
    handle = await engine_of(simulation).start(simulation.request(), on_record=records.append)
    assert (await handle.wait()).state == "committed"
    assert [record.sequence for record in records] == sequences(simulation, handle)


async def test_one_that_raises_is_logged_and_called_again() -> None:
    simulation, told = await simulate(), list[int]()

    def on_record(record: Record) -> None:
        told.append(record.sequence)
        raise ZeroDivisionError

    def on_progress(_progress: Progress) -> None:
        raise SystemExit(1)

    with logged() as lines:
        handle = await engine_of(simulation).start(
            simulation.request(), on_progress=on_progress, on_record=on_record
        )
        result = await handle.wait()
    assert result.state == "committed"
    await check_end(simulation, result)
    assert told == sequences(simulation, handle)
    failed = named(lines, "callback-failed")
    assert [line["callback"] for line in failed].count("on_record") == len(told)
    assert [line["callback"] for line in failed].count("on_progress") == 1
    assert all("ZeroDivisionError" in line["error"] for line in failed if line["callback"] == "on_record")


async def test_one_that_blocks_holds_up_neither_the_migration_nor_the_heart() -> None:
    simulation, release, told = await simulate(), threading.Event(), list[int]()
    beats = 0

    def on_record(record: Record) -> None:
        release.wait()
        told.append(record.sequence)

    engine = engine_of(simulation)
    handle = await engine.start(simulation.request(), on_record=on_record)
    try:
        with patch.object(type(simulation.journal), "beat") as beat:
            async for _event in handle.events:
                await engine._heart._beat()
                beats += 1
        assert told == []
        assert beat.call_count == beats > 10
        assert handle.ended
        waiting = asyncio.ensure_future(handle.wait())
        with pytest.raises(TimeoutError):
            await handle.wait(timeout_s=0)
        assert not waiting.done(), "the callbacks have not heard of it yet"
    finally:
        release.set()
    assert (await waiting).state == "committed"
    assert told == sequences(simulation, handle)


async def test_one_that_falls_behind_is_told_of_and_loses_no_record() -> None:
    simulation, release, told = await simulate(), threading.Event(), list[int]()

    def on_record(record: Record) -> None:
        release.wait()
        told.append(record.sequence)

    with logged() as lines, patch.object(feed, "MOST_WAITING", 2):
        handle = await engine_of(simulation).start(simulation.request(), on_record=on_record)
        try:
            async for _event in handle.events:
                pass
        finally:
            release.set()
        await handle.wait()
    assert told == sequences(simulation, handle)
    assert len(named(lines, "callbacks-behind")) == 1
    assert named(lines, "records-untold") == []


async def test_records_that_can_not_be_read_back_are_named() -> None:
    simulation, release, told = await simulate(), threading.Event(), list[int]()

    def on_record(record: Record) -> None:
        release.wait()
        told.append(record.sequence)

    with logged() as lines, patch.object(feed, "MOST_WAITING", 2):
        handle = await engine_of(simulation).start(simulation.request(), on_record=on_record)
        await handle._task
        with patch.object(type(simulation.journal), "records", side_effect=JournalUnavailable("full")):
            release.set()
            await handle.wait()
    (untold,) = named(lines, "records-untold")
    assert told == list(range(1, untold["first"]))
    assert untold["last"] == sequences(simulation, handle)[-1]


async def test_one_may_abort_what_it_is_told_of() -> None:
    simulation, aborted = await simulate(), threading.Event()
    engine = engine_of(simulation)

    def on_progress(progress: Progress) -> None:
        engine.handles[progress.migration].abort()
        aborted.set()

    # The copy has told its progress by then; the abort is taken before anything else is.
    simulation.world.at("make_durable", lambda: aborted.wait(60))
    result = await engine.migrate(simulation.request(), on_progress=on_progress)
    assert (result.state, result.cause) == ("rolled-back", "an abort was asked for")
    await check_end(simulation, result)
    assert engine.handles == {}


async def test_they_may_be_called_where_the_embedder_likes() -> None:
    simulation, threads = await simulate(), set[int]()
    loop, world = asyncio.get_running_loop(), simulation.world
    engine = Engine(simulation.journal, world, clock=world.clock, deliver=loop.call_soon)
    await engine.migrate(simulation.request(), on_record=lambda _record: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


async def test_closing_waits_for_them_but_not_for_ever() -> None:
    simulation, release, told = await simulate(), threading.Event(), list[int]()

    def on_record(record: Record) -> None:
        release.wait()
        told.append(record.sequence)

    with logged() as lines, patch.object(callbacks, "ENDING_S", 0):
        async with engine_of(simulation) as engine:
            handle = await engine.start(simulation.request(), on_record=on_record)
    with pytest.raises(asyncio.CancelledError):
        await handle.wait()
    release.set()
    unfinished = [line["migration"] for line in named(lines, "callbacks-unfinished")]
    assert unfinished == [handle.migration]
    simulation.open_again()
    with logged() as lines:
        async with engine_of(simulation) as engine:
            (handle,), left = await engine.resume_all(on_record=lambda record: told.append(record.sequence))
            assert left == []
            await handle.wait()
            assert told[-1] == sequences(simulation, handle)[-1]
    assert named(lines, "callbacks-unfinished") == []


async def test_closing_lets_go_of_what_is_under_way() -> None:
    simulation = await simulate()
    async with engine_of(simulation) as engine:
        handle = await engine.start(simulation.request())
    assert handle.ended
    with pytest.raises(asyncio.CancelledError):
        await handle.wait()
    simulation.open_again()
    assert (await (await engine_of(simulation).resume(handle.migration)).wait()).state == "committed"


async def test_a_deliver_that_fails_breaks_nothing() -> None:
    simulation = await simulate()

    def closed(_call: object) -> None:
        raise RuntimeError("Event loop is closed")

    engine = Engine(simulation.journal, simulation.world, clock=simulation.world.clock, deliver=closed)
    handle = await engine.start(simulation.request(), on_record=lambda _record: None)
    async with asyncio.timeout(60):
        result = await handle.wait()
    assert result.state == "committed"
    await check_end(simulation, result)


async def test_a_log_that_fails_breaks_nothing() -> None:
    class Broken:
        def debug(self, event: str, /, **fields: object) -> None:
            raise BrokenPipeError

        info = warning = debug

    simulation = await simulate()
    engine = Engine(simulation.journal, simulation.world, clock=simulation.world.clock, log=Broken())
    result = await (await engine.start(simulation.request())).wait()
    assert result.state == "committed"
    await check_end(simulation, result)
