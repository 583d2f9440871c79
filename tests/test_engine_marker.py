"""The marker during a migration: before any overlay, gone at the end, respected where it is another's."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve

from fsm.engine.engine import Engine
from fsm.hypervisor import markers
from fsm.hypervisor.simulated import Moment
from fsm.hypervisor.values import DomainFacts, Marker
from fsm.journal.records import Record
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

OTHERS = Marker("ffffffffffff", owner="somebody else")


async def _facts(simulation: Simulation, uri: str) -> DomainFacts | None:
    return await (await simulation.world.connect(uri)).domain(simulation.uuid)


async def _marker(simulation: Simulation, uri: str = SOURCE) -> Marker:
    facts = await _facts(simulation, uri)
    assert facts is not None
    assert facts.marker is not None
    return facts.marker


async def _marked_by_another(simulation: Simulation, uri: str = SOURCE) -> None:
    await (await simulation.world.connect(uri)).mark(simulation.uuid, OTHERS)


@pytest.mark.parametrize("accident", [None, Moment.MEMORY], ids=["commit", "rollback"])
async def test_a_domain_on_an_overlay_always_says_why(accident: Moment | None) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    if accident is not None:
        world.at_moment(uuid, accident, lambda: world.kill_qemu(DESTINATION, uuid))
    seen: set[str] = set()

    def look(when: str) -> None:
        for uri in (SOURCE, DESTINATION):
            record = world.state.hosts[uri].domains.get(uuid)
            xmls = [record.definition, record.instance.xml if record.instance else None] if record else []
            layers = str(record.instance.disks if record and record.instance else "") + str(xmls)
            if ".fsm-" in layers.replace("fsm:", ""):
                seen.add(uri)
                assert all(markers.read(xml) is not None for xml in xmls if xml), f"{uri} {when}"

    for call in ("mark", "create_overlays", "create_sparse", "forget_snapshots", "migrate", "start_commit"):
        for when in ("before", "after"):
            world.at(call, lambda call=call, when=when: look(f"{when} {call}"), when=when)  # type: ignore[misc]

    def on_record(record: Record) -> None:
        look(record.name)

    result = await (await simulation.engine.start(simulation.request(), on_record=on_record)).wait()
    assert result.state == ("committed" if accident is None else "rolled-back")
    assert seen == ({SOURCE, DESTINATION} if accident is None else {SOURCE})
    await check_end(simulation, result)


async def test_what_the_marker_tells_before_anything_is_lost() -> None:
    simulation = await simulate()
    told: list[Marker] = []

    async def look() -> None:
        told.append(await _marker(simulation))

    tasks = []
    for call in ("create_overlays", "forget_snapshots"):
        simulation.world.at(call, lambda: tasks.append(asyncio.get_running_loop().create_task(look())))
    result = await simulation.migrate()
    await asyncio.gather(*tasks)
    early, late = told
    assert early.migration == late.migration == result.migration
    assert (early.source_uri, early.destination_uri) == (SOURCE, DESTINATION)
    assert early.source_host == simulation.world.state.hosts[SOURCE].uuid
    assert early.destination_host == simulation.world.state.hosts[DESTINATION].uuid
    assert early.journal == simulation.journal.location
    assert [overlay.target for overlay in early.overlays] == ["vda", "vdb"]
    assert (early.bases, early.snapshots) == ((), ""), "no copy exists yet that would be ours"
    assert [base.path for base in late.bases] == [overlay.base for overlay in late.overlays]
    unpacked = markers.unpack(late.snapshots)
    assert unpacked.snapshots == simulation.before.metadata
    assert unpacked.withheld == frozenset()


async def test_a_marked_domain_is_refused_and_the_marker_named() -> None:
    simulation = await simulate()
    await _marked_by_another(simulation)
    result = await simulation.migrate()
    assert result.state == "refused"
    (finding,) = result.findings
    assert finding.check == "marked"
    assert OTHERS.migration in finding.message
    assert "fsm doctor" in finding.remedy
    assert await _marker(simulation) == OTHERS


@pytest.mark.parametrize("call", ["mark", "create_overlays"])
async def test_one_that_is_marked_between_preflight_and_start_is_left_alone(call: str) -> None:
    simulation = await simulate()
    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    simulation.world.at(
        "release", lambda: tasks.append(loop.create_task(_marked_by_another(simulation))), host=SOURCE
    )
    result = await simulation.migrate()
    await asyncio.gather(*tasks)
    assert result.state == "refused", call
    assert await _marker(simulation) == OTHERS
    assert "create_overlays" not in [one.name for one in simulation.world.calls]


@pytest.mark.parametrize(
    ("call", "uri"),
    [("make_durable", SOURCE), ("start_commit", DESTINATION)],
    ids=["while-copying", "while-committing"],
)
async def test_what_another_engine_has_adopted_is_touched_no_more(call: str, uri: str) -> None:
    simulation = await simulate()
    tasks: list[asyncio.Task[None]] = []

    async def adopt() -> None:
        host = await simulation.world.connect(uri)
        await host.mark(simulation.uuid, evolve(await _marker(simulation, uri), owner="the adopting engine"))

    loop = asyncio.get_running_loop()
    simulation.world.at(call, lambda: tasks.append(loop.create_task(adopt())))
    result = await simulation.migrate()
    await asyncio.gather(*tasks)
    assert result.state == "stuck"
    assert "marker" in result.cause
    assert "fsm doctor" in result.remedy
    names = [one.name for one in simulation.world.calls]
    assert "pivot" not in names
    assert "unmark" not in names
    await check_end(simulation, result)


async def test_another_host_under_the_same_uri_is_not_taken_for_the_right_one() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.power_off(DESTINATION))
    result = await simulation.migrate()
    assert result.state == "stuck"
    world.power_on(DESTINATION)
    right = world.state.hosts[DESTINATION].uuid
    world.state.hosts[DESTINATION].uuid = "8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11"
    other = Engine(simulation.journal, world, clock=world.clock)
    await other.ask(result.migration, "retry")
    result = await (await other.resume(result.migration)).wait()
    assert result.state == "stuck"
    assert "start_commit" not in [call.name for call in world.calls]
    world.state.hosts[DESTINATION].uuid = right
    await other.ask(result.migration, "retry")
    result = await (await other.resume(result.migration)).wait()
    assert result.state == "rolled-back"
    await check_end(simulation, result)
