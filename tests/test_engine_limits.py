"""Migrations beyond the limits wait with nothing touched, in order, and hold up nobody on another link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from unittest.mock import patch

import pytest

from fsm.engine.context import Progress
from fsm.engine.driving import Driving
from fsm.engine.engine import Engine
from fsm.engine.limits import MOST_PASSED, Limits, Places
from fsm.errors import BadInput
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.journal.port import Entry, JournalUnavailable
from fsm.journal.records import Record
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

OTHER = "sim://gamma/system"


def engine_of(simulation: Simulation, limits: Limits) -> Engine:
    return Engine(simulation.journal, simulation.world, clock=simulation.world.clock, limits=limits)


async def with_others(*names: str) -> tuple[Simulation, SimulatedWorld]:
    """Another host, and more domains."""
    simulation = await simulate()
    simulation.world.add_host(OTHER)
    for name in names:
        simulation.world.add_domain(SOURCE, name, snapshots={"s1": None})
    return simulation, simulation.world


@asynccontextmanager
async def occupied(engine: Engine, *hosts: str) -> AsyncIterator[None]:
    """Another migration between these hosts has a place meanwhile."""
    driving: Driving = engine._driving
    source, destination = hosts
    place = driving.places.place(source, destination, begun=True, unless=asyncio.Event(), waits=lambda: None)
    async with place:
        yield


async def test_what_waits_is_planned_and_nothing_is_touched() -> None:
    simulation, world = await with_others("other")
    engine = engine_of(simulation, Limits(per_link=1))
    async with occupied(engine, DESTINATION, SOURCE):
        waiting = await engine.start(simulation.request())
        # On another link nobody waits.
        assert (await engine.migrate(simulation.request(domain="other", destination_uri=OTHER))).state == (
            "committed"
        )
        assert (waiting.state, waiting.progress) == (
            "planned",
            Progress(waiting.migration, "waiting", 0, 0),
        )
        assert simulation.journal.records(waiting.migration) == []
        assert {call.host for call in world.calls} == {SOURCE, OTHER}
    result = await waiting.wait()
    assert result.state == "committed"
    await check_end(simulation, result)


@pytest.mark.parametrize("limits", [Limits(per_host=1), Limits(per_link=1)])
async def test_one_after_the_other_in_the_order_of_coming(limits: Limits) -> None:
    names = [f"d{number}" for number in range(6)]
    simulation, _ = await with_others(*names)
    engine, written = engine_of(simulation, limits), list[str]()
    append_all = simulation.journal.append_all

    def noted(_journal: object, entries: Sequence[Entry]) -> object:
        written.extend(entry.migration for entry in entries)
        return append_all(entries)

    with patch.object(type(simulation.journal), "append_all", noted):
        handles = [await engine.start(simulation.request(domain=name)) for name in names]
        results = await asyncio.gather(*(handle.wait() for handle in handles))
    assert {result.state for result in results} == {"committed"}
    assert [migration for migration, _ in groupby(written)] == [handle.migration for handle in handles]


async def test_without_limits_nobody_waits() -> None:
    simulation, _ = await with_others("other")
    engine = engine_of(simulation, Limits())
    async with occupied(engine, SOURCE, DESTINATION), occupied(engine, SOURCE, DESTINATION):
        assert (await engine.migrate(simulation.request())).state == "committed"


async def test_an_abort_ends_the_waiting_and_nothing_was_asked() -> None:
    simulation, world = await with_others()
    engine = engine_of(simulation, Limits(per_host=1))
    async with occupied(engine, DESTINATION, OTHER):
        handle = await engine.start(simulation.request())
        handle.abort()
        result = await handle.wait()
    assert (result.state, result.cause) == ("refused", "an abort was asked for")
    assert world.calls == []


async def test_an_abort_from_another_process_reaches_what_waits() -> None:
    simulation, world = await with_others()
    engine = engine_of(simulation, Limits(per_host=1))
    async with occupied(engine, DESTINATION, OTHER):
        handle = await engine.start(simulation.request())
        await engine.ask(handle.migration, "abort")
        await engine._hand_out_requests()
        assert (await handle.wait()).state == "refused"
    assert world.calls == []


async def test_what_is_let_go_of_while_it_waits_makes_room_and_can_be_resumed() -> None:
    simulation, _ = await with_others("other")
    engine = engine_of(simulation, Limits(per_link=1))
    async with occupied(engine, SOURCE, DESTINATION):
        first = await engine.start(simulation.request(domain="other"))
        second = await engine.start(simulation.request())
        await first.detach()
    assert (await second.wait()).state == "committed"
    assert (await (await engine.resume(first.migration)).wait()).state == "committed"
    assert engine._driving.places._queue == []


async def test_what_has_begun_is_never_held_back() -> None:
    simulation, _ = await with_others("other")
    first = engine_of(simulation, Limits())
    begun = await first.start(simulation.request())
    async for event in begun.events:
        if isinstance(event, Record) and event.dest == "snapshotted":
            break
    await begun.detach()
    waiting = await first.start(simulation.request(domain="other"))
    await waiting.detach()
    engine = engine_of(simulation, Limits(per_host=1))
    async with occupied(engine, SOURCE, DESTINATION):
        handles, _ = await engine.resume_all()
        resumed = {handle.migration: handle for handle in handles}
        assert (await resumed[begun.migration].wait()).state == "committed"
        assert resumed[waiting.migration].state == "planned"
        assert resumed[waiting.migration].progress == Progress(waiting.migration, "waiting", 0, 0)
    assert (await resumed[waiting.migration].wait()).state == "committed"


async def left_behind_preflight(simulation: Simulation, engine: Engine) -> str:
    """A migration that has passed preflight, whose engine could not write that it begins."""
    append_all = simulation.journal.append_all

    def refuse(_journal: object, entries: Sequence[Entry]) -> object:
        if any(entry.record.step == "transition" for entry in entries):
            raise JournalUnavailable("disk full")
        return append_all(entries)

    handle = await engine.start(simulation.request())
    with (
        patch.object(type(simulation.journal), "append_all", refuse),
        pytest.raises(JournalUnavailable),
    ):
        await handle.wait()
    return handle.migration


async def test_one_that_waits_long_is_not_overdue_for_that() -> None:
    """It had passed preflight when its engine let go; behind a long wait its time starts anew."""
    simulation, world = await with_others()
    engine = engine_of(simulation, Limits(per_host=1))
    migration = await left_behind_preflight(simulation, engine)
    async with occupied(engine, SOURCE, OTHER):
        handle = await engine.resume(migration)
        world.clock.pass_until(world.clock.monotonic_s() + 1000)
        assert handle.state == "planned"
    result = await handle.wait()
    assert result.state == "committed"
    await check_end(simulation, result)


async def test_what_is_to_be_aborted_does_not_wait_for_that() -> None:
    simulation, _ = await with_others()
    engine = engine_of(simulation, Limits(per_host=1))
    async with occupied(engine, SOURCE, OTHER):
        handle = await engine.start(simulation.request())
        await engine.ask(handle.migration, "abort")
        await handle.detach()
        assert (await (await engine.resume(handle.migration)).wait()).state == "refused"


class TestPlaces:
    """The order, without migrations."""

    async def test_a_stream_of_others_does_not_pass_one_for_ever(self) -> None:
        """a-b needs both hosts; a-c and d-b keep taking what gets free."""
        places, order = Places(Limits(per_host=1)), list[str]()
        ends: dict[str, asyncio.Event] = {}

        async def stay(name: str, source: str, destination: str) -> None:
            ends[name] = asyncio.Event()
            place = places.place(source, destination, begun=False, unless=asyncio.Event(), waits=lambda: None)
            async with place:
                order.append(name)
                await ends[name].wait()

        tasks = [asyncio.ensure_future(stay("a-c 0", "a", "c"))]
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(stay("d-b 0", "d", "b")))
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(stay("wanted", "a", "b")))
        await asyncio.sleep(0)
        for number in range(1, 2 * MOST_PASSED):
            for name in ("a-c", "d-b"):
                source, destination = name.split("-")
                tasks.append(asyncio.ensure_future(stay(f"{name} {number}", source, destination)))
                await asyncio.sleep(0)
                if (before := ends.get(f"{name} {number - 1}")) is not None:
                    before.set()
                for _ in range(5):
                    await asyncio.sleep(0)
        assert "wanted" in order
        assert MOST_PASSED <= order.index("wanted") <= MOST_PASSED + 4
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert places._queue == []
        assert set(places._on_hosts.values()) == {0}

    @pytest.mark.parametrize("limit", [{"per_host": 0}, {"per_link": -1}, {"copying": 0}])
    def test_a_limit_below_one_is_refused(self, limit: dict[str, int]) -> None:
        with pytest.raises(BadInput, match=next(iter(limit))):
            Limits(**limit)
