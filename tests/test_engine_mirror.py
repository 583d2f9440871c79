"""Merging by mirror on simulated hosts: the migration itself writes the overlays into the copied bases."""

from __future__ import annotations

import pytest

from fsm.hypervisor.simulated import Moment, files
from fsm.machine.observation import Merge
from tests.simulation import DESTINATION, IMAGES, SOURCE, Simulation, check_end, simulate

BASE = f"{IMAGES}/web-vda.qcow2"
AUTOCLEAR_AT = 88


def calls(simulation: Simulation, name: str, host: str) -> int:
    return sum((call.name, call.host) == (name, host) for call in simulation.world.calls)


async def test_nothing_is_left_to_commit_at_the_destination() -> None:
    simulation = await simulate()
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert (result.state, result.cause) == ("committed", "")
    assert simulation.path == ["planned", "snapshotted", "transferring", "committing-dest", "committed"]
    assert calls(simulation, "create_overlay", DESTINATION) == 0
    assert calls(simulation, "start_commit", DESTINATION) == 0
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", [Moment.MIRROR, Moment.MEMORY])
async def test_a_failed_one_removes_the_dirty_copies(moment: Moment) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert result.state == "rolled-back"
    assert calls(simulation, "start_commit", SOURCE) > 0
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("host", [SOURCE, DESTINATION])
async def test_a_daemon_that_dies_at_any_moment_loses_nothing(moment: Moment, host: str) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.restart_libvirtd(host))
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert result.state in ("committed", "rolled-back"), result
    await check_end(simulation, result)


def store_bitmap(simulation: Simulation) -> None:
    """Set the bit in the header of an image that says so."""
    with simulation.world.changing() as state:
        files.write(state, state.hosts[SOURCE], BASE, AUTOCLEAR_AT, (1).to_bytes(8, "big"))


async def test_an_image_with_bitmaps_is_refused() -> None:
    simulation = await simulate()
    store_bitmap(simulation)
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert result.state == "refused"
    (finding,) = result.findings
    assert (finding.check, finding.host) == ("merge", SOURCE)
    assert "vda" in finding.message
    assert "bitmaps" in finding.message
    assert "--merge commit" in finding.remedy
    await check_end(simulation, result)


async def test_an_image_that_can_not_be_looked_at_is_refused() -> None:
    simulation = await simulate()
    simulation.world.fail("peek", host=SOURCE)
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert (result.state, [finding.check for finding in result.findings]) == ("refused", ["merge"])
    assert (await simulation.migrate(merge=Merge.MIRROR)).state == "committed"


async def test_a_host_that_is_off_has_no_overlay_left_that_was_never_made() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.power_off(DESTINATION))
    stuck = await simulation.migrate(merge=Merge.MIRROR)
    assert stuck.state == "stuck"
    await simulation.engine.ask(stuck.migration, "retry", ["destination"])
    result = await (await simulation.engine.resume(stuck.migration)).wait()
    assert result.state == "rolled-back"
    assert not [what for what in result.left_behind if ".fsm-" in what]
    assert len(result.left_behind) == 2  # the copies
