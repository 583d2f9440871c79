"""What is below a disk is pulled into it at the destination, for those who ask, when all is committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fsm.engine.plan import MergeChoice, Request
from fsm.engine.result import Result
from fsm.errors import HostError
from fsm.hypervisor.simulated import SimulatedDisk, images, pull
from fsm.journal.records import converter
from fsm.machine.observation import DomainState
from tests.chains import GOLDEN, MIB, MIDDLE, ON_CHAIN, chained, content
from tests.lives import Life, Point
from tests.simulation import DESTINATION, IMAGES, SHARED, SOURCE, Before, Simulation

VDA, VDB = (f"{IMAGES}/web-{target}.qcow2" for target in ("vda", "vdb"))
WATCH = f"disk vda: virsh -c {DESTINATION} blockjob web vda"
BEGIN = f"to begin it: virsh -c {DESTINATION} blockpull web vda"


async def bare(disks: Sequence[SimulatedDisk] = ON_CHAIN, **domain: Any) -> Simulation:
    """A domain on the common chain without snapshots, but for one in the image of its second disk."""
    simulation = await chained(disks, {}, **domain)
    world = simulation.world
    if VDB in world.files(SOURCE):
        with world.changing() as state:
            images.take_snapshot(state, state.hosts[SOURCE], VDB, "kept", b"", 1)
    world.state.hosts[DESTINATION].hypervisor_version = (10, 0, 0)
    simulation.before = Before.of(world, simulation.uuid, layers=3)
    return simulation


async def chains(simulation: Simulation, uri: str = DESTINATION) -> dict[str, tuple[str, ...]]:
    facts = await (await simulation.world.connect(uri)).domain(simulation.uuid)
    assert facts is not None
    return {disk.target: disk.chain for disk in facts.disks}


def slowed(simulation: Simulation, blocks: int = 0) -> None:
    """The pull into the first disk takes its time; with no block a step: for ever."""

    def slow() -> None:
        with simulation.world.changing() as state:
            instance = state.hosts[DESTINATION].domains[simulation.uuid].instance
            assert instance is not None
            if (job := instance.disks["vda"].pull) is not None:
                job.step_blocks = blocks

    for nth in range(1, 4):
        simulation.world.at("start_pull", slow, nth=nth, when="after")


async def flattened(simulation: Simulation, result: Result) -> None:
    """The pull comes to its end; then the first disk stands alone, and nothing is lost."""
    world = simulation.world
    assert (result.state, result.cause, result.not_flattened) == ("committed", "", ())
    assert result.pulling == (WATCH,)
    with world.changing() as state:
        instance = state.hosts[DESTINATION].domains[simulation.uuid].instance
        assert instance is not None
        if (job := instance.disks["vda"].pull) is not None:
            job.step_blocks = 100
    world.tick(5)
    simulation.write()
    assert await chains(simulation) == {"vda": (VDA,), "vdb": (VDB, MIDDLE, GOLDEN)}
    assert world.lost_writes(simulation.uuid) == []
    with world.changing() as state:
        file = state.filesystems[state.hosts[DESTINATION].mounts["/"]].files[VDA]
        assert images.header(file).backing is None
        # What the guest reads of the template is in the image itself now.
        held = images.read_block(state, state.hosts[DESTINATION], ((VDA, "qcow2"),), 5 * MIB // 4096)
        assert held == b"block"
    assert content(simulation, DESTINATION) == content(simulation, SOURCE)
    found, before = world.snapshot_contents(DESTINATION, simulation.uuid), simulation.before.contents
    assert found == before
    assert [key for key in found if key[1] == "kept"] == [("vdb", "kept")]
    for uri in (SOURCE, DESTINATION):
        assert world.pools(uri) == simulation.before.pools[uri]


@pytest.mark.parametrize("merge", [MergeChoice.COMMIT, MergeChoice.MIRROR])
async def test_the_pull_is_begun_behind_all_else_and_goes_on_by_itself(merge: MergeChoice) -> None:
    simulation = await bare()
    slowed(simulation)
    result = await simulation.migrate(merge=merge, flatten=("vda",), delete_source=True)
    assert (await chains(simulation))["vda"] == (VDA, MIDDLE, GOLDEN)  # it runs
    await flattened(simulation, result)
    names = [record.name for record in simulation.records]
    assert names.index("remove-source-bases") < names.index("flatten-destination")
    assert names.index("flatten-destination") < names.index("unmark-destination")
    assert {VDA, VDB}.isdisjoint(simulation.world.files(SOURCE))
    assert result.left_behind == ()


async def test_nothing_is_pulled_unless_that_is_asked_for() -> None:
    simulation = await bare()
    result = await simulation.migrate()
    assert (result.state, result.pulling, result.not_flattened) == ("committed", (), ())
    assert "start_pull" not in [call.name for call in simulation.world.calls]
    assert (await chains(simulation))["vda"] == (VDA, MIDDLE, GOLDEN)


def test_a_request_from_before_flattens_nothing() -> None:
    old = converter.unstructure(Request("web", DESTINATION))
    del old["flatten"]
    assert converter.structure(old, Request).flatten == ()


@pytest.mark.parametrize("blocks", [0, 100])
async def test_an_engine_killed_at_any_point_is_followed_by_one_that_ends_it(blocks: int) -> None:
    """With the pull still running when the next one looks, and with one that is over by then."""
    alive = await bare()
    slowed(alive, blocks)
    seen: list[Point] = []
    result = await Life(alive, lambda _life, point: seen.append(point)).run(None, flatten=("vda",))
    assert result is not None
    await flattened(alive, result)
    first = next(number for number, point in enumerate(seen) if "flatten-destination" in point.name)
    assert any(point.name == "start_pull" for point in seen[first:])
    for number in range(first, len(seen)):
        simulation = await bare()
        slowed(simulation, blocks)
        passed: list[Point] = []

        def hook(life: Life, point: Point, passed: list[Point] = passed, number: int = number) -> None:
            passed.append(point)
            if len(passed) > number:
                life.kill()

        assert await Life(simulation, hook).run(None, flatten=("vda",)) is None
        (header,) = simulation.journal.headers()
        if not header.final:
            result = await Life(simulation).run(header.migration)
            assert result is not None
        await flattened(simulation, result)


async def told(simulation: Simulation, **changes: Any) -> str:
    """It is committed, and not flattened; why."""
    result = await simulation.migrate(flatten=("vda",), **changes)
    assert (result.state, result.cause, result.pulling) == ("committed", "", ())
    (why,) = result.not_flattened
    assert why.endswith(BEGIN)
    simulation.world.tick(9)
    assert (await chains(simulation))["vda"][:1] == (VDA,)
    assert simulation.world.lost_writes(simulation.uuid) == []
    return why


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_the_host_refuses_is_told_and_fails_nothing(when: str) -> None:
    simulation = await bare()
    refusal = HostError("another job runs", host=DESTINATION)
    simulation.world.fail("start_pull", host=DESTINATION, error=refusal, when=when)
    assert "another job runs" in await told(simulation)


async def test_a_domain_that_does_not_run_any_more_is_not_pulled_into() -> None:
    simulation = await bare()
    world, uuid = simulation.world, simulation.uuid
    world.at("define_snapshots", lambda: world.pause(DESTINATION, uuid))
    assert "the domain is paused there" in await told(simulation)
    assert "start_pull" not in [call.name for call in world.calls]


def _take(simulation: Simulation) -> None:
    with simulation.world.changing() as state:
        images.take_snapshot(state, state.hosts[DESTINATION], VDA, "new", b"", 1)


async def test_a_snapshot_that_came_meanwhile_keeps_the_chain() -> None:
    simulation = await bare()
    simulation.world.at("define_snapshots", lambda: _take(simulation))
    assert "holds the snapshots new" in await told(simulation)
    assert (await chains(simulation))["vda"] == (VDA, MIDDLE, GOLDEN)


async def test_snapshots_can_not_be_taken_on() -> None:
    """Whoever accepts the finding gets a migration, and no pull."""
    simulation = await bare()
    result = await simulation.migrate(flatten=("vdb",), accept=("flatten",))
    assert (result.state, result.pulling) == ("committed", ())
    assert "holds the snapshots kept" in result.not_flattened[0]
    simulation.world.tick(9)
    assert (await chains(simulation))["vdb"] == (VDB, MIDDLE, GOLDEN)


async def test_a_snapshot_that_came_at_the_last_moment_stops_the_pull() -> None:
    simulation = await bare()
    slowed(simulation)
    simulation.world.at("start_pull", lambda: _take(simulation), host=DESTINATION)
    assert "it was cancelled" in await told(simulation)
    assert (await chains(simulation))["vda"] == (VDA, MIDDLE, GOLDEN)


async def refused(simulation: Simulation, *targets: str, **changes: Any) -> list[tuple[str, str]]:
    """What stands against it; nothing is touched."""
    result = await simulation.migrate(flatten=targets, **changes)
    assert result.state == "refused"
    assert simulation.world.files(DESTINATION) == simulation.before.files[DESTINATION]
    assert await chains(simulation, SOURCE)
    assert all(finding.remedy for finding in result.findings)
    return [(finding.check, finding.message) for finding in result.findings]


async def test_each_disk_that_can_not_be_flattened_is_refused_by_name() -> None:
    disks = (
        SimulatedDisk("vda"),
        SimulatedDisk("vdb", backing=(MIDDLE, "qcow2")),
        SimulatedDisk("vdc", format="raw"),
        SimulatedDisk("vdd", backing=(MIDDLE, "qcow2")),
    )
    found = await refused(await bare(disks), "vda", "vdb", "vdc", "vdd", "vdz")
    assert [check for check, _ in found] == ["flatten"] * 4
    reasons = [
        f"disk vda ({VDA}): it stands on no other file",
        f"disk vdb ({VDB}): it holds the snapshots kept, which would read zeros",
        f"disk vdc ({IMAGES}/web-vdc.raw): it is raw",
        "domain web has no disk 'vdz'",
    ]
    for (_, message), reason in zip(found, reasons, strict=True):
        assert message.startswith(reason)


@pytest.mark.parametrize("state", [DomainState.SHUT_OFF, DomainState.PAUSED])
async def test_a_domain_that_does_not_run_is_refused(state: DomainState) -> None:
    ((check, message),) = await refused(await bare(state=state), "vda")
    assert check == "flatten"
    assert f"domain web is {state}" in message


async def test_an_image_that_can_not_be_read_is_refused() -> None:
    simulation = await bare()
    error = HostError("no such volume", host=SOURCE)
    simulation.world.fail("peek", host=SOURCE, times=None, error=error)
    found = await refused(simulation, "vda")
    assert any(check == "flatten" and "can't be told" in message for check, message in found)


async def test_a_qemu_that_flushes_too_late_is_told_of_and_may_be_taken_on() -> None:
    simulation = await bare()
    simulation.world.state.hosts[DESTINATION].hypervisor_version = (7, 2, 22)
    ((check, message),) = await refused(simulation, "vda")
    assert check == "flatten-flush"
    assert message.startswith("with QEMU 7.2 a flattened image reads as zeros")
    result = await simulation.migrate(flatten=("vda",), accept=("flatten-flush",))
    await flattened(simulation, result)


async def test_the_room_for_the_pull_is_counted_and_may_be_taken_on() -> None:
    simulation = await bare()
    world, need_mib = simulation.world, 64
    while not await has_room(simulation, need_mib):
        need_mib += 1
    world.set_free_bytes(DESTINATION, IMAGES, (need_mib + 7) * MIB)
    ((check, message),) = await refused(simulation, "vda")
    assert check == "flatten-space"
    assert "--flatten up to 8 MiB more" in message
    assert await has_room(simulation, need_mib + 8, "vda")
    world.set_free_bytes(DESTINATION, IMAGES, (need_mib + 7) * MIB)
    result = await simulation.migrate(flatten=("vda",), accept=("flatten-space",))
    assert result.state == "committed"


async def has_room(simulation: Simulation, free_mib: int, *targets: str) -> bool:
    """Whether preflight finds room for a migration that it refuses for another reason."""
    simulation.world.set_free_bytes(DESTINATION, IMAGES, free_mib * MIB)
    result = await simulation.migrate(exclude_disks=("vdz",), flatten=targets)
    return {"space", "flatten-space"}.isdisjoint(finding.check for finding in result.findings)


async def test_the_next_migration_is_refused_as_long_as_the_pull_runs() -> None:
    simulation = await bare()
    slowed(simulation)
    assert (await simulation.migrate(flatten=("vda",))).state == "committed"
    back = {"source_uri": DESTINATION, "destination_uri": SOURCE}
    result = await simulation.migrate(**back)
    assert result.state == "refused"
    jobs = [finding for finding in result.findings if finding.check == "block-job"]
    assert [finding.message for finding in jobs] == [f"disk vda ({VDA}): a block job runs: pull"]


async def test_a_shared_base_is_pulled_into_where_its_domain_runs() -> None:
    """The source has no instance any more; what is below it may be each host's own."""
    base = f"{SHARED}/web-vda.qcow2"
    simulation = await bare((SimulatedDisk("vda", base, backing=(MIDDLE, "qcow2")),))
    result = await simulation.migrate(flatten=("vda",), merge=MergeChoice.AUTO)
    assert (result.state, result.not_flattened) == ("committed", ())
    simulation.world.tick(9)
    assert await chains(simulation) == {"vda": (base,)}
    assert simulation.world.lost_writes(simulation.uuid) == []


async def test_a_pull_of_somebody_else_is_an_alteration() -> None:
    """Only one that this migration has begun is looked through."""
    simulation = await bare()
    world = simulation.world

    def begin() -> None:
        with world.changing() as state:
            host = state.hosts[DESTINATION]
            pull.start(state, host, simulation.uuid, "vdb", VDB)
            instance = host.domains[simulation.uuid].instance
            assert instance is not None
            job = instance.disks["vdb"].pull
            assert job is not None
            job.step_blocks = 0

    world.at("pivot", begin, host=DESTINATION, nth=2, when="after")
    result = await simulation.migrate(flatten=("vda",))
    assert result.state == "stuck"
    assert result.pulling == ()
