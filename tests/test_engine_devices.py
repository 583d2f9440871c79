"""Disks on block devices are moved, on simulated hosts, and nothing on a device is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fsm.engine import device_checks, space
from fsm.engine.plan import MergeChoice
from fsm.hypervisor import domain_xml
from fsm.hypervisor.simulated import Moment, SimulatedDisk, files
from fsm.machine.observation import DomainState, Merge
from tests.lost_journals import HOSTS, die_after, lose_journal, settle, waiting
from tests.simulated_devices import (
    BY_COMMANDS,
    MERGES,
    MIB,
    NAMED,
    PLAIN,
    SCRATCH,
    SIZE_BYTES,
    VOLUMES,
    Told,
    changed_devices,
    expect_kept,
    on_devices,
)
from tests.simulation import (
    DESTINATION,
    IMAGES,
    SOURCE,
    Simulation,
    check_end,
    simulate,
)

pytest_plugins = ["tests.device_fixtures"]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
async def test_from_device_to_device(told: Told, merge: MergeChoice, image_format: str) -> None:
    simulation = on_devices(told, image_format=image_format)
    result = await simulation.migrate(merge=merge, delete_source=True, **PLAIN)
    assert (result.state, result.cause) == ("committed", "")
    await check_end(simulation, result)
    # Nobody but the operator removes a device.
    assert all(path in simulation.world.files(SOURCE) for path in VOLUMES.values())
    assert [left.rpartition(" (")[2] for left in result.left_behind] == ["it is a block device)"] * 2
    assert changed_devices(simulation) == []


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("moment", Moment)
async def test_whatever_fails_nothing_is_lost(told: Told, moment: Moment, merge: MergeChoice) -> None:
    simulation = on_devices(told)
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(merge=merge, **PLAIN)
    await check_end(simulation, result)
    if result.state == "rolled-back":
        assert sum("a block device, which holds" in left for left in result.left_behind) == 2
    assert changed_devices(simulation) == []


async def test_one_that_is_shut_off(told: Told) -> None:
    simulation = on_devices(told, state=DomainState.SHUT_OFF)
    result = await simulation.migrate(merge=MergeChoice.AUTO, **PLAIN)
    assert (result.state, result.cause) == ("committed", "")
    await check_end(simulation, result)


@pytest.mark.parametrize("merge", MERGES)
async def test_from_devices_to_files(told: Told, merge: MergeChoice) -> None:
    simulation = on_devices(told)
    there = {target: f"{IMAGES}/web-{target}" for target in VOLUMES}
    maps = tuple(f"{target}={path}" for target, path in there.items())
    result = await simulation.migrate(merge=merge, **{**PLAIN, "disk_map": maps})
    assert (result.state, result.cause) == ("committed", "")
    await expect_kinds(simulation, "file", there)


@pytest.mark.parametrize("merge", MERGES)
async def test_from_files_to_devices(told: Told, merge: MergeChoice) -> None:
    simulation = await simulate()
    world = told.world = simulation.world
    for uri in (SOURCE, DESTINATION):
        world.add_filesystem(uri, mount=SCRATCH, size_bytes=1 << 40)
    for path in VOLUMES.values():
        world.add_device(DESTINATION, path, SIZE_BYTES)
    refused = await simulation.migrate(merge=merge, direct=BY_COMMANDS, disk_map=NAMED)
    assert {finding.check for finding in refused.findings} == {"overlay-directory"}
    result = await simulation.migrate(merge=merge, **PLAIN)
    assert (result.state, result.cause) == ("committed", "")
    await expect_kinds(simulation, "block", VOLUMES)


async def test_the_destinations_overlay_never_lies_beside_a_device(told: Told) -> None:
    """Also where it lies beside the base, which is a file, at the source."""
    simulation = await simulate()
    told.world = simulation.world
    for path in VOLUMES.values():
        simulation.world.add_device(DESTINATION, path, SIZE_BYTES)
    result = await simulation.migrate(**{**PLAIN, "overlay_directory": IMAGES})
    assert (result.state, result.cause) == ("committed", "")
    await expect_kinds(simulation, "block", VOLUMES)


async def expect_kinds(simulation: Simulation, kind: str, there: dict[str, str]) -> None:
    """The domain and its snapshots are at the destination, on images of this kind, at these paths."""
    host = await simulation.world.connect(DESTINATION)
    facts = await host.domain(simulation.uuid)
    assert facts is not None
    assert {disk.target: (disk.source_type, disk.source) for disk in facts.disks} == {
        target: (kind, path) for target, path in there.items()
    }
    key = "dev" if kind == "block" else "file"
    for snapshot in await host.snapshots(simulation.uuid):
        for disk in domain_xml.parse(snapshot.xml, "domainsnapshot").iterfind("domain/devices/disk"):
            source, target = disk.find("source"), disk.find("target")
            assert source is not None
            assert target is not None
            assert (disk.get("type"), source.get(key)) == (kind, there[target.get("dev", "")])
    expect_kept(simulation)


async def test_a_commit_that_would_come_to_the_devices_end_waits_for_a_larger_one(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it made larger loses nothing."""
    simulation = on_devices(told, size_bytes=67 * MIB)  # its image takes all but 768 KiB of it
    for name in ("OVERLAY_LEAST_BYTES", "MARGIN_LEAST_BYTES"):
        monkeypatch.setattr(space, name, 0)
    monkeypatch.setattr(device_checks, "MARGIN_LEAST_BYTES", 0)
    world, uuid = simulation.world, simulation.uuid

    def write_much() -> None:
        for block in range(400):
            world.guest_write(uuid, "vda", 500 + block, b"much")

    world.at_moment(uuid, Moment.MEMORY, write_much)
    handle = await simulation.start(merge=MergeChoice.COMMIT, **PLAIN)
    result = await handle.wait()
    assert result.state == "stuck"
    assert f"the device {VOLUMES['vda']} has 0 MiB behind its image" in result.cause
    assert "lvextend" in result.remedy
    with world.changing() as state:
        for uri in (SOURCE, DESTINATION):
            files.existing(state, state.hosts[uri], VOLUMES["vda"]).size = SIZE_BYTES
    await simulation.engine.ask(result.migration, "retry")
    result = await (await simulation.engine.resume(result.migration)).wait()
    assert result.state in ("rolled-back", "committed"), result.cause
    await check_end(simulation, result)


@pytest.mark.parametrize("merge", [Merge.COMMIT, Merge.MIRROR])
@pytest.mark.parametrize("count", range(4, 36, 2))
async def test_a_lost_journal_loses_nothing_on_a_device(told: Told, merge: Merge, count: int) -> None:
    """The domain's marker tells that its images lie on devices; whoever adopts it removes none of them."""
    simulation = on_devices(told)
    await die_after(simulation, count, merge, **PLAIN)
    engine = await lose_journal(simulation)
    await settle(simulation)
    examined = await engine.examine(HOSTS)
    for case in waiting(examined):
        result = await (await engine.adopt(case, examined)).wait()
        assert result.state in ("committed", "rolled-back"), result
        await check_end(simulation, result)
    assert changed_devices(simulation) == []


def taken_by_a_domain(simulation: Simulation, _told: Told) -> str:
    disk = SimulatedDisk("vda", VOLUMES["vda"], format="raw", capacity_bytes=SIZE_BYTES, written=())
    simulation.world.add_domain(DESTINATION, "other", [disk])
    return "domain other uses it"


def mounted(_simulation: Simulation, told: Told) -> str:
    told.changes[DESTINATION, VOLUMES["vda"]] = {"busy": ("it is mounted at /srv",)}
    return "it is mounted at /srv"


@pytest.mark.parametrize("taken", [taken_by_a_domain, mounted])
async def test_one_that_is_taken_into_use_behind_preflight_is_not_overwritten(
    told: Told, taken: Callable[[Simulation, Told], str]
) -> None:
    simulation, reasons = on_devices(told), list[str]()
    before = hash(simulation.world.file_bytes(DESTINATION, VOLUMES["vda"]))
    simulation.world.at("create_overlays", lambda: reasons.append(taken(simulation, told)))
    result = await simulation.migrate(**PLAIN)
    assert result.state == "rolled-back"
    assert reasons[0] in result.cause
    assert hash(simulation.world.file_bytes(DESTINATION, VOLUMES["vda"])) == before
