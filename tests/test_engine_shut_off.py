"""Domains that are shut off, on simulated hosts: copied, defined at the destination, gone from the source."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from fsm.engine.plan import MergeChoice
from fsm.engine.result import Result
from fsm.hypervisor import domain_xml
from fsm.hypervisor.simulated import SimulatedDisk, domains
from fsm.machine.observation import DomainState
from tests.firmware import CONTENT, content, firm
from tests.lives import AFTER, CALLED, Life, Point
from tests.simulation import DESTINATION, IMAGES, ON_SHARED, SOURCE, Simulation, check_end, simulate

AUTO = {"merge": MergeChoice.AUTO}


async def shut_off(disks: tuple[SimulatedDisk | str, ...] = ("vda", "vdb")) -> Simulation:
    return await simulate(disks, state=DomainState.SHUT_OFF)


def start(simulation: Simulation) -> None:
    """Somebody starts the domain at the source."""
    with simulation.world.changing() as state:
        host = state.hosts[SOURCE]
        domains.start_paused(state, host, simulation.uuid)
        domains.resume(state, host, simulation.uuid)


def stop(simulation: Simulation) -> None:
    with simulation.world.changing() as state:
        domains.destroy(state, state.hosts[SOURCE], simulation.uuid)


@pytest.mark.parametrize("disks", [("vda", "vdb"), ON_SHARED], ids=["copied", "shared"])
async def test_it_moves_without_an_overlay(disks: tuple[SimulatedDisk | str, ...]) -> None:
    simulation = await shut_off(disks)
    result = await simulation.migrate(**AUTO)
    assert (result.state, result.cause) == ("committed", "")
    assert simulation.path == ["planned", "snapshotted", "transferring", "committing-dest", "committed"]
    called = {call.name for call in simulation.world.calls}
    assert called.isdisjoint({"create_overlays", "create_overlay", "migrate", "start_paused", "start_commit"})
    facts = await (await simulation.world.connect(DESTINATION)).domain(simulation.uuid)
    assert facts is not None
    assert facts.state is DomainState.SHUT_OFF
    await check_end(simulation, result)


async def test_what_is_said_of_merging_makes_no_difference() -> None:
    for merge in MergeChoice:
        simulation = await shut_off()
        result = await simulation.migrate(merge=merge)
        assert result.state == "committed"
        data = simulation.planned
        assert (data["merge"], data["merge_reason"]) == ("none", "the domain is shut off")


@pytest.mark.parametrize("again", [False, True], ids=["runs", "stopped-again"])
@pytest.mark.parametrize("call", ["create_sparse", "make_durable", "forget_snapshots", "persistent_xml"])
async def test_one_that_is_started_meanwhile_stays_where_it_is(call: str, *, again: bool) -> None:
    simulation = await shut_off()
    begun: list[str] = []

    def meddle() -> None:
        if not begun:
            begun.append(call)
            start(simulation)
            simulation.write()
            if again:
                stop(simulation)

    simulation.world.at(call, meddle, host=SOURCE if call in ("forget_snapshots", "persistent_xml") else None)
    result = await simulation.migrate(**AUTO)
    assert result.state == "rolled-back", result
    assert begun
    assert result.cause
    await check_end(simulation, result)


async def _ended(simulation: Simulation, hook: Callable[[Life, Point], None], request: str = "") -> Result:
    """A first engine with this hook, and others after it until the migration has ended."""
    result = await Life(simulation, hook).run(None, **AUTO)
    (header,) = simulation.journal.headers()
    if request:
        simulation.journal.ask(header.migration, request, {})
    for _ in range(3):
        if result is not None and result.state != "stuck":
            break
        result = await Life(simulation).run(header.migration)
    assert result is not None
    return result


async def _points(begin: Callable[[], Awaitable[Simulation]]) -> list[str]:
    """Every point that a migration comes to behind the first record."""
    seen: list[str] = []
    simulation = await begin()
    await Life(simulation, lambda _, point: seen.append(str(point))).run(None, **AUTO)
    return seen


@pytest.mark.parametrize("begin", [shut_off, firm], ids=["plain", "variables"])
@pytest.mark.parametrize("request_", ["", "abort"], ids=["resumed", "aborted"])
async def test_an_engine_may_die_at_any_point(
    begin: Callable[[], Awaitable[Simulation]], request_: str
) -> None:
    every = await _points(begin)
    first = next(index for index, point in enumerate(every) if AFTER["intent"] in point)
    ends = set()
    for number in range(first, len(every)):
        simulation, left = await begin(), [number]

        def die(life: Life, _point: Point, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                life.kill()

        result = await _ended(simulation, die, request_)
        # One that died before it asked may have asked: it goes back.
        may_go_back = request_ or every[number].startswith("transferring: ")
        assert result.state == "committed" or may_go_back, every[number]
        ends.add(result.state)
        await check_end(simulation, result)
        if begin is firm:
            assert content(simulation, SOURCE) == CONTENT
            assert result.state != "committed" or content(simulation, DESTINATION) == CONTENT, every[number]
        simulation.put_away()
    assert ends == {"committed", "rolled-back", *(["refused"] if request_ else [])}


@pytest.mark.parametrize("call", ["create_sparse", "make_durable", "define", "define_snapshots", "undefine"])
@pytest.mark.parametrize("host", [SOURCE, DESTINATION])
async def test_a_call_that_fails_once_loses_nothing(call: str, host: str) -> None:
    simulation = await shut_off()
    simulation.world.fail(call, host=host, times=1)
    result = await simulation.migrate(**AUTO)
    assert result.state in ("committed", "rolled-back")
    await check_end(simulation, result)


async def test_a_domain_that_somebody_defines_there_is_left_alone() -> None:
    simulation = await shut_off()
    world = simulation.world

    def define() -> None:
        with world.changing() as state:
            domains.define(state, state.hosts[DESTINATION], simulation.before.definition)

    world.at("forget_snapshots", define)
    result = await simulation.migrate(**AUTO)
    assert result.state == "stuck"
    there = domains.persistent_xml(world.state.hosts[DESTINATION], simulation.uuid)
    assert there == simulation.before.definition


# What can't be moved so


def edited(simulation: Simulation, old: str, new: str) -> None:
    with simulation.world.changing() as state:
        record = state.hosts[SOURCE].domains[simulation.uuid]
        assert record.definition is not None
        record.definition = record.definition.replace(old, new)


async def test_state_that_only_qemu_carries_is_refused() -> None:
    simulation = await shut_off()
    edited(simulation, "</devices>", "<tpm model='tpm-tis'><backend type='emulator'/></tpm></devices>")
    result = await simulation.migrate(**AUTO)
    assert (result.state, [finding.check for finding in result.findings]) == ("refused", ["state-file"])
    assert "TPM" in result.findings[0].message


async def test_a_block_device_is_refused_and_not_opened() -> None:
    """Not even its directory: a storage pool over /dev would have every device there read."""
    simulation = await shut_off()
    image = f"{IMAGES}/web-vda.qcow2"
    edited(
        simulation,
        f'<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{image}"/>',
        '<disk type="block" device="disk"><driver name="qemu" type="qcow2"/><source dev="/dev/vg/web"/>',
    )
    for accept in ((), ("transport", "overlay-directory")):
        result = await simulation.migrate(accept=accept, **AUTO)
        assert result.state == "refused"
        assert [finding.check for finding in result.findings] == ["transport", "overlay-directory"]
    looks = ("pool_state", "stat", "peek", "free_bytes", "space")
    looked_at = [call.arguments[0] for call in simulation.world.calls if call.name in looks]
    assert looked_at
    assert not [path for path in looked_at if str(path).startswith("/dev")]


@pytest.mark.parametrize("kind", ["emulator", "passthrough"])
def test_the_state_that_qemu_carries_is_read_from_the_description(kind: str) -> None:
    xml = f"<domain><devices><tpm><backend type='{kind}'/></tpm></devices></domain>"
    assert domain_xml.has_emulated_tpm(xml) == (kind == "emulator")


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUT_OFF])
async def test_two_copies_never_go_into_one_file(state: DomainState, *, dies: bool) -> None:
    """Two directories of the source are one at the destination."""
    simulation = await simulate()
    world = simulation.world
    for uri in (SOURCE, DESTINATION):
        world.add_directory(uri, "/srv/one")
    world.add_directory(SOURCE, "/srv/two")
    world.add_link(DESTINATION, "/srv/two", "/srv/one")
    paths = {"vda": "/srv/one/disk.qcow2", "vdb": "/srv/two/disk.qcow2"}
    disks = [SimulatedDisk(target, path) for target, path in paths.items()]
    world.add_domain(SOURCE, "plain", disks, state=state)

    def hook(life: Life, point: Point) -> None:
        if dies and (point.moment, point.name) == (CALLED, "create_sparse"):
            life.kill()

    request = {"domain": "plain", "delete_source": True}
    result = await Life(simulation, hook).run(None, **request)
    if dies:
        (header,) = simulation.journal.headers()
        result = await Life(simulation).run(header.migration)
    assert result is not None
    assert result.state == "rolled-back"
    assert "leads to another disk's copy" in result.cause
    assert set(paths.values()) <= set(world.files(SOURCE))
    assert not [path for path in world.files(DESTINATION) if "disk" in path]


@pytest.mark.parametrize("killed", [False, True], ids=["one-engine", "two-engines"])
async def test_what_ran_at_the_source_since_it_was_copied_is_not_given_up(*, killed: bool) -> None:
    """The destination has its definition already; its user runs it at the source and shuts it off again."""
    simulation = await shut_off()
    written = False

    def use() -> None:
        nonlocal written
        written = True
        start(simulation)
        simulation.write()
        stop(simulation)

    def hook(life: Life, point: Point) -> None:
        if (point.moment, point.name) == (CALLED, "define"):
            if killed:
                life.kill()
            use()

    result = await Life(simulation, hook).run(None, **AUTO)
    (header,) = simulation.journal.headers()
    if killed:
        use()
        result = await Life(simulation).run(header.migration)
    assert written
    assert result is not None
    assert result.state == "stuck"
    assert "since it was copied" in result.cause
    assert simulation.world.lost_writes(simulation.uuid, at=SOURCE) == []
    # As the remedy says.
    there = await simulation.world.connect(DESTINATION)
    await there.forget_snapshots(simulation.uuid, ["s3", "s2", "s1"])
    await there.undefine(simulation.uuid)
    simulation.journal.ask(header.migration, "retry", {})
    result = await Life(simulation).run(header.migration)
    assert result is not None
    assert result.state == "rolled-back"
    await check_end(simulation, result)
