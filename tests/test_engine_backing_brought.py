"""Files below the bases that the destination lacks are copied along, and go when nothing comes of it."""

from __future__ import annotations

import pytest

from fsm.engine.plan import MergeChoice
from fsm.hypervisor.simulated import Moment, SimulatedDisk, files
from fsm.machine.observation import DomainState
from tests.chains import AUTO, CONTENT, GOLDEN, LOWER, MIB, MIDDLE, chained, content, written_into
from tests.simulation import DESTINATION, IMAGES, SOURCE, check_end


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUT_OFF])
@pytest.mark.parametrize("merge", [MergeChoice.COMMIT, MergeChoice.MIRROR])
async def test_what_is_missing_is_copied_along_the_lowest_first(
    state: DomainState, merge: MergeChoice
) -> None:
    simulation = await chained(there=False, state=state)
    result = await simulation.migrate(merge=merge)
    assert (result.state, result.cause) == ("committed", "")
    made = [call.arguments[0] for call in simulation.world.calls if call.name == "create_sparse"]
    assert made[-4:-2] == [GOLDEN, MIDDLE]
    contents = {uri: content(simulation, uri) for uri in (SOURCE, DESTINATION)}
    assert contents[SOURCE] == contents[DESTINATION]
    await check_end(simulation, result)


async def test_one_file_may_be_there_and_the_other_not() -> None:
    simulation = await chained(there=False)
    simulation.world.put_file(DESTINATION, GOLDEN, CONTENT, size_bytes=8 * MIB)
    result = await simulation.migrate(**AUTO)
    assert result.state == "committed"
    made = [call.arguments[0] for call in simulation.world.calls if call.name == "create_sparse"]
    assert (GOLDEN in made, MIDDLE in made) == (False, True)
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", Moment)
async def test_a_rollback_removes_what_it_has_brought(moment: Moment) -> None:
    simulation = await chained(there=False)
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(merge=MergeChoice.COMMIT)
    assert result.state in ("committed", "rolled-back", "stuck")
    await check_end(simulation, result)


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUT_OFF])
async def test_a_rollback_leaves_what_another_domain_stands_on_by_now(state: DomainState) -> None:
    simulation = await chained(there=False)
    world, uuid = simulation.world, simulation.uuid

    def clone() -> None:
        world.add_domain(DESTINATION, "clone", [SimulatedDisk("vda", backing=(MIDDLE, "qcow2"))], state=state)
        world.kill_qemu(DESTINATION, uuid)

    world.at_moment(uuid, Moment.MEMORY, clone)
    result = await simulation.migrate(merge=MergeChoice.COMMIT)
    assert result.state == "rolled-back"
    assert {path in world.files(DESTINATION) for path in LOWER} == {True}
    assert len(result.left_behind) == len(LOWER)
    assert all("on which domain clone stands" in left for left in result.left_behind)
    assert f"{IMAGES}/web-vda.qcow2" not in world.files(DESTINATION)


async def test_what_is_copied_along_stays_at_the_source() -> None:
    simulation = await chained(there=False)
    result = await simulation.migrate(delete_source=True, **AUTO)
    assert (result.state, result.left_behind) == ("committed", ())
    here = simulation.world.files(SOURCE)
    assert set(LOWER) <= set(here)
    assert f"{IMAGES}/web-vda.qcow2" not in here


async def test_one_that_appears_meanwhile_is_not_overwritten() -> None:
    simulation = await chained(there=False)
    world = simulation.world
    world.at("create_overlays", lambda: world.put_file(DESTINATION, MIDDLE, b"somebody's"))
    result = await simulation.migrate(**AUTO)
    assert result.state == "rolled-back"
    assert f"{MIDDLE} has appeared since preflight" in result.cause
    with world.changing() as state:
        assert files.read(files.existing(state, state.hosts[DESTINATION], MIDDLE), 0, 64) == b"somebody's"


async def test_one_that_changes_before_it_is_copied_stops_the_migration() -> None:
    simulation = await chained(there=False)
    simulation.world.at("create_overlays", lambda: written_into(simulation, SOURCE))
    result = await simulation.migrate(**AUTO)
    assert result.state == "rolled-back"
    assert "has changed since preflight" in result.cause
    await check_end(simulation, result)


async def test_its_room_is_counted() -> None:
    simulation = await chained(there=False)
    simulation.world.add_filesystem(DESTINATION, mount=IMAGES, size_bytes=1 << 40)
    simulation.world.put_file(SOURCE, f"{IMAGES}/large.raw", {0: bytes([1]) * (16 * MIB)})
    simulation.world.add_domain(
        SOURCE,
        "large",
        [SimulatedDisk("vda", f"{IMAGES}/on-large.qcow2", backing=(f"{IMAGES}/large.raw", "raw"))],
    )
    simulation.world.set_free_bytes(DESTINATION, IMAGES, 136 * MIB)
    result = await simulation.migrate(domain="large", **AUTO)
    assert [finding.check for finding in result.findings] == ["space"]


async def test_a_copy_elsewhere_stands_on_the_same_chain() -> None:
    simulation = await chained(there=False)
    result = await simulation.migrate(disk_map=("vda=/srv/first.qcow2",), **AUTO)
    assert (result.state, result.cause) == ("committed", "")
    facts = await (await simulation.world.connect(DESTINATION)).domain(simulation.uuid)
    assert facts is not None
    assert facts.disks[0].chain == ("/srv/first.qcow2", MIDDLE, GOLDEN)
