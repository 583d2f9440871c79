"""Overlays in a directory of their own, on other storage than their bases, on simulated hosts."""

from __future__ import annotations

import pytest

from fsm.engine.plan import MergeChoice
from fsm.engine.space import MIB
from fsm.errors import BadInput
from fsm.hypervisor.simulated import Moment, SimulatedDisk
from fsm.hypervisor.values import Overlay
from tests.simulation import (
    DESTINATION,
    IMAGES,
    ON_SHARED,
    PLACED,
    SHARED,
    SOURCE,
    Simulation,
    check_end,
    simulate,
)

SCRATCH = "/srv/scratch"
MERGES = [MergeChoice.COMMIT, MergeChoice.MIRROR]


async def with_scratch(
    disks: tuple[SimulatedDisk | str, ...] = ("vda", "vdb"), *, size_bytes: int = 1 << 40
) -> Simulation:
    """Both hosts have a file system for overlays, each its own."""
    simulation = await simulate(disks)
    for uri in (SOURCE, DESTINATION):
        simulation.world.add_filesystem(uri, mount=SCRATCH, size_bytes=size_bytes)
    return simulation


def overlays(simulation: Simulation) -> set[str]:
    """Every overlay that was made."""
    found: set[str] = set()
    for call in simulation.world.calls:
        if call.name == "create_overlays":
            found |= {overlay.path for overlay in call.arguments[1]}  # type: ignore[attr-defined]
        elif call.name == "create_overlay":
            (made,) = [one for one in call.arguments if isinstance(one, Overlay)]
            found.add(made.path)
    return found


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("directory", [SCRATCH, SHARED])
async def test_the_overlays_lie_there_and_nothing_is_left(merge: MergeChoice, directory: str) -> None:
    """Also where both hosts see that directory: then each must have its own."""
    simulation = await with_scratch()
    result = await simulation.migrate(merge=merge, overlay_directory=directory)
    assert (result.state, result.cause) == ("committed", "")
    here = {f"{directory}/web-{disk}.qcow2.{disk}.fsm-{result.migration}" for disk in ("vda", "vdb")}
    there = {f"{path}.arrived" for path in here} if merge is MergeChoice.COMMIT else set()
    assert overlays(simulation) == here | there
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize(("disks", "directory"), [(("vda", "vdb"), SHARED), (ON_SHARED, SCRATCH)])
async def test_whatever_fails_nothing_is_lost(
    moment: Moment, disks: tuple[SimulatedDisk | str, ...], directory: str
) -> None:
    simulation = await with_scratch(disks)
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(overlay_directory=directory)
    assert result.state in ("committed", "rolled-back", "stuck")
    await check_end(simulation, result)


async def test_bases_of_one_name_in_two_directories() -> None:
    disks = (SimulatedDisk("vda", "/srv/disk.qcow2"), SimulatedDisk("vdb", f"{IMAGES}/disk.qcow2"))
    simulation = await with_scratch(disks)
    result = await simulation.migrate(overlay_directory=SCRATCH)
    assert (result.state, len(overlays(simulation))) == ("committed", 4)
    await check_end(simulation, result)


async def test_both_hosts_must_have_it() -> None:
    simulation = await simulate()
    result = await simulation.migrate(overlay_directory="/srv/none")
    assert {(finding.check, finding.host) for finding in result.findings} == {
        ("directory-missing", SOURCE),
        ("directory-missing", DESTINATION),
    }
    await check_end(simulation, result)


@pytest.mark.parametrize("host", [SOURCE, DESTINATION])
@pytest.mark.parametrize("full", [SCRATCH, IMAGES])
async def test_both_directories_need_room(host: str, full: str) -> None:
    simulation = await with_scratch()
    simulation.world.set_free_bytes(host, full, 90 * MIB)
    result = await simulation.migrate(overlay_directory=SCRATCH)
    assert [(finding.check, finding.host) for finding in result.findings] == [("space", host)]
    assert result.findings[0].message.startswith(full)


@pytest.mark.parametrize("full", [SCRATCH, IMAGES])
async def test_it_goes_back_before_either_is_full(full: str) -> None:
    simulation = await with_scratch()
    world = simulation.world
    world.at("make_durable", lambda: world.set_free_bytes(SOURCE, full, 40 * MIB))
    result = await simulation.migrate(overlay_directory=SCRATCH)
    assert result.state == "rolled-back"
    assert f"{full} would be full" in result.cause
    await check_end(simulation, result)


@pytest.mark.parametrize("full", [SCRATCH, IMAGES])
async def test_a_commit_looks_at_the_room_below_the_base(full: str) -> None:
    simulation = await with_scratch()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", simulation.write)
    world.at_moment(uuid, Moment.CONFIRM, lambda: world.set_free_bytes(DESTINATION, full, MIB))
    result = await simulation.migrate(overlay_directory=SCRATCH)
    assert result.state == ("stuck" if full == IMAGES else "committed")
    if result.state == "stuck":
        assert result.remedy.startswith(f"free space in {IMAGES} on {DESTINATION}")
    await check_end(simulation, result)


@pytest.mark.parametrize("directory", ["scratch", "/srv/../etc", "/srv/", "."])
async def test_what_is_no_plain_absolute_path(directory: str) -> None:
    simulation = await simulate()
    with pytest.raises(BadInput, match="overlay directory"):
        await simulation.start(overlay_directory=directory)


@pytest.mark.parametrize("merge", MERGES)
async def test_copies_that_lie_elsewhere_have_their_overlays_there_too(merge: MergeChoice) -> None:
    simulation = await with_scratch()
    result = await simulation.migrate(merge=merge, overlay_directory=SCRATCH, disk_map=PLACED)
    assert (result.state, result.cause) == ("committed", "")
    assert {path.rpartition("/")[0] for path in overlays(simulation)} == {SCRATCH}
    assert not [
        path for uri in (SOURCE, DESTINATION) for path in simulation.world.files(uri) if ".fsm-" in path
    ]
