"""Bases that both hosts share, on simulated hosts: never copied, never removed, written by one host only."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from fsm.engine import shared
from fsm.engine.plan import MergeChoice, StorageChoice
from fsm.hypervisor.simulated import Moment, SimulatedDisk
from fsm.hypervisor.simulated.storage import SimulatedStorage
from fsm.hypervisor.values import FileFacts
from tests.lives import Life, Point
from tests.simulation import DESTINATION, IMAGES, ON_SHARED, SHARED, SOURCE, Simulation, check_end, simulate

BASES = [disk.path for disk in ON_SHARED]
MIXED = (ON_SHARED[0], "vdb")
COPY = f"{IMAGES}/web-vdb.qcow2"
AUTO = {"merge": MergeChoice.AUTO}


def made(simulation: Simulation) -> set[str]:
    """What was made at the destination."""
    wanted = ("create_sparse", "create_overlay")
    calls = [call for call in simulation.world.calls if call.name in wanted and call.host == DESTINATION]
    return {str(getattr(one, "path", one)) for one in (call.arguments[0] for call in calls)}


def removed(simulation: Simulation) -> set[str]:
    return {str(call.arguments[0]) for call in simulation.world.calls if call.name == "remove"}


@pytest.mark.parametrize("storage", [StorageChoice.AUTO, StorageChoice.SHARED])
async def test_a_shared_base_is_not_copied(storage: StorageChoice) -> None:
    simulation = await simulate(ON_SHARED)
    result = await simulation.migrate(storage=storage, **AUTO)
    assert (result.state, result.cause) == ("committed", "")
    assert made(simulation) == {f"{base}.fsm-{result.migration}.arrived" for base in BASES}
    assert simulation.planned.get("shared") == ["vda", "vdb"]
    assert simulation.planned["merge"] == "commit"
    assert "share" in simulation.planned["merge_reason"]
    assert removed(simulation).isdisjoint(BASES)
    assert [path for path in simulation.world.files(DESTINATION) if path.startswith(SHARED)] == BASES
    await check_end(simulation, result)


async def test_each_disk_is_taken_as_it_is_found() -> None:
    simulation = await simulate(MIXED)
    result = await simulation.migrate(**AUTO)
    assert result.state == "committed"
    assert simulation.planned.get("shared") == ["vda"]
    assert COPY in made(simulation)
    assert BASES[0] not in made(simulation)
    await check_end(simulation, result)


@pytest.mark.parametrize("disks", [ON_SHARED, MIXED], ids=["shared", "mixed"])
@pytest.mark.parametrize("moment", Moment)
async def test_a_failed_one_leaves_the_shared_bases_alone(moment: Moment, disks: tuple[Any, ...]) -> None:
    simulation = await simulate(disks)
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(**AUTO)
    assert result.state in ("committed", "rolled-back", "stuck")
    assert removed(simulation).isdisjoint(BASES)
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("host", [SOURCE, DESTINATION])
async def test_a_daemon_that_dies_at_any_moment_loses_nothing(moment: Moment, host: str) -> None:
    simulation = await simulate(ON_SHARED)
    world = simulation.world
    world.at_moment(simulation.uuid, moment, lambda: world.restart_libvirtd(host))
    result = await simulation.migrate(**AUTO)
    assert result.state in ("committed", "rolled-back"), result
    await check_end(simulation, result)


async def test_nothing_is_committed_while_the_other_host_is_unknown() -> None:
    """It may have the base open still."""
    simulation = await simulate(ON_SHARED)
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.power_off(DESTINATION))
    result = await simulation.migrate(**AUTO)
    assert result.state == "stuck"
    assert not [call for call in world.calls if call.name == "start_commit"]
    await check_end(simulation, result)


# What is no shared base


async def test_another_file_of_that_path_is_not_taken_for_the_same() -> None:
    simulation = await simulate()
    world = simulation.world
    for target in ("vda", "vdb"):
        world.put_file(DESTINATION, f"{IMAGES}/web-{target}.qcow2", b"somebody else's")
    before = world.files(DESTINATION)
    for storage, checks in (
        (StorageChoice.AUTO, {"path-taken"}),
        (StorageChoice.SHARED, {"path-taken", "not-shared"}),
    ):
        result = await simulation.migrate(storage=storage)
        assert (result.state, {finding.check for finding in result.findings}) == ("refused", checks)
        assert world.files(DESTINATION) == before
        assert not [path for path in world.files(SOURCE) if ".fsm-" in path]


async def test_storage_said_to_be_shared_that_is_not_is_refused() -> None:
    simulation = await simulate(MIXED)
    result = await simulation.migrate(storage=StorageChoice.SHARED)
    (finding,) = result.findings
    assert (finding.check, finding.host, "vdb" in finding.message) == ("not-shared", DESTINATION, True)
    assert "--storage copy" in finding.remedy


async def test_a_copy_onto_itself_is_refused() -> None:
    simulation = await simulate(ON_SHARED)
    result = await simulation.migrate(storage=StorageChoice.COPY)
    assert {finding.check for finding in result.findings} == {"path-taken"}
    await check_end(simulation, result)


async def test_a_link_out_of_the_shared_directory_is_found_before_anything_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = await simulate()
    world = simulation.world
    for target in ("vda", "vdb"):
        world.put_file(DESTINATION, f"{IMAGES}/web-{target}.qcow2", b"somebody else's")
    simulation.before.files[DESTINATION] = world.files(DESTINATION)

    async def seems_so(*_: object) -> bool:
        return True

    monkeypatch.setattr(shared, "is_shared", seems_so)
    result = await simulation.migrate(**AUTO)
    assert result.state == "rolled-back"
    assert "is not the file that the source has" in result.cause
    assert not [call for call in world.calls if call.name == "migrate"]
    await check_end(simulation, result)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_shared_base_that_the_destination_shows_late_is_left_alone(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does where it is mounted with nocto. An empty raw base looks like a copy that was just made."""
    simulation = await simulate()
    world, hidden, stat = simulation.world, {f"{SHARED}/a.qcow2", f"{SHARED}/b.raw"}, SimulatedStorage.stat
    full, empty = sorted(hidden)
    disks = SimulatedDisk("vda", full), SimulatedDisk("vdb", empty, format="raw", written=())
    uuid = world.add_domain(SOURCE, "plain", disks)

    async def old_stat(storage: SimulatedStorage, path: str) -> FileFacts | None:
        found = await stat(storage, path)
        return None if storage._uri == DESTINATION and path in hidden else found

    monkeypatch.setattr(SimulatedStorage, "stat", old_stat)
    seen_at = {"before": ("create_overlays", SOURCE), "after": ("create_sparse", DESTINATION)}
    call, host = seen_at[when]
    world.at(call, hidden.clear, host=host)
    result = await simulation.migrate(domain="plain", **AUTO)
    assert result.state == "rolled-back"
    assert ("has appeared" if when == "before" else "exists already") in result.cause
    assert removed(simulation).isdisjoint({full, empty})
    assert world.running_at(uuid) == [SOURCE]
    assert world.lost_writes(uuid, at=SOURCE) == []


async def test_a_mirror_into_a_shared_base_is_refused() -> None:
    simulation = await simulate(ON_SHARED)
    result = await simulation.migrate(merge=MergeChoice.MIRROR)
    assert [finding.check for finding in result.findings] == ["merge", "merge"]
    await check_end(simulation, result)


async def test_a_disk_that_is_never_flushed_is_refused() -> None:
    simulation = await simulate([evolve(disk, cache="unsafe") for disk in ON_SHARED])
    result = await simulation.migrate(**AUTO)
    assert [finding.check for finding in result.findings] == ["disk-cache", "disk-cache"]
    simulation = await simulate([SimulatedDisk("vda", cache="unsafe"), "vdb"])
    assert (await simulation.migrate(**AUTO)).state == "committed"


# Engines that die


async def test_a_probe_that_a_died_engine_left_is_removed() -> None:
    simulation = await simulate(ON_SHARED)

    def die(life: Life, point: Point) -> None:
        if (point.moment, point.name) == ("called", "create_sparse"):
            life.kill()

    assert await Life(simulation, die).run(None, **AUTO) is None
    (migration,) = [header.migration for header in simulation.journal.headers()]
    assert [path for path in simulation.world.files(SOURCE) if path.endswith(".probe")]
    simulation.journal.ask(migration, "abort", {})
    result = await Life(simulation).run(migration)
    assert result is not None
    assert result.state == "refused"
    await check_end(simulation, result)


async def test_a_probe_that_can_not_be_removed_keeps_no_migration_from_its_end() -> None:
    simulation = await simulate(ON_SHARED)
    world = simulation.world
    world.at("create_sparse", lambda: world.fail("remove", host=SOURCE, times=1), when="after")
    result = await simulation.migrate(**AUTO)
    assert result.state in ("committed", "refused")
    for path in [path for path in world.files(SOURCE) if path.endswith(".probe")]:
        assert any(path in left for left in result.left_behind)


async def test_a_probe_that_was_removed_is_not_looked_for_again() -> None:
    simulation = await simulate(ON_SHARED)
    result = await simulation.migrate(**AUTO)
    assert result.state == "committed"
    noted = [record.data["probes"] for record in simulation.records if "probes" in record.data]
    assert noted[-1] == []
    assert noted[0] != []
