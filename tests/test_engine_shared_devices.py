"""Block devices that both hosts share, on simulated hosts: proven, never copied, written by one host only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fsm.engine.hardware import Hardware
from fsm.engine.plan import MergeChoice, StorageChoice, Verify
from fsm.hypervisor.simulated import Moment, SimulatedDisk
from fsm.machine.observation import DomainState
from tests.lost_journals import HOSTS, die_after, lose_journal, settle, waiting
from tests.simulated_devices import (
    BY_COMMANDS,
    MIB,
    NAMED,
    SCRATCH,
    SIZE_BYTES,
    VOLUMES,
    Told,
    changed_devices,
    on_devices,
)
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end

pytest_plugins = ["tests.device_fixtures"]

PLAIN = {"direct": BY_COMMANDS, "overlay_directory": SCRATCH, "merge": MergeChoice.AUTO}
Change = Callable[[Simulation, Told], None]


def on_a_lun(told: Told, cache: str = "none", **domain: object) -> Simulation:
    """A domain on volumes that both hosts see."""
    return on_devices(told, shared=True, cache=cache, **domain)  # type: ignore[arg-type]


@pytest.mark.parametrize("storage", [StorageChoice.AUTO, StorageChoice.SHARED])
@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
async def test_a_shared_device_is_not_copied(told: Told, storage: StorageChoice, image_format: str) -> None:
    simulation = on_a_lun(told, image_format=image_format)
    result = await simulation.migrate(storage=storage, **PLAIN)
    assert (result.state, result.cause, result.left_behind) == ("committed", "", ())
    assert simulation.planned.get("shared") == ["vda", "vdb"]
    assert simulation.planned["merge"] == "commit"
    assert not [call for call in simulation.world.calls if call.name in ("read", "write", "create_sparse")]
    assert changed_devices(simulation) == []
    await check_end(simulation, result)


async def test_none_is_removed_at_the_source(told: Told) -> None:
    simulation = on_a_lun(told)
    result = await simulation.migrate(delete_source=True, **PLAIN)
    assert (result.state, result.left_behind) == ("committed", ())
    assert changed_devices(simulation) == []
    await check_end(simulation, result)


async def test_one_that_is_shut_off(told: Told) -> None:
    simulation = on_a_lun(told, state=DomainState.SHUT_OFF)
    result = await simulation.migrate(**PLAIN)
    assert (result.state, result.cause) == ("committed", "")
    assert changed_devices(simulation) == []
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", Moment)
async def test_whatever_fails_nothing_is_lost(told: Told, moment: Moment) -> None:
    simulation = on_a_lun(told)
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(**PLAIN)
    assert result.state in ("committed", "rolled-back", "stuck")
    assert changed_devices(simulation) == []
    await check_end(simulation, result)


async def test_nothing_is_committed_while_the_other_host_is_unknown(told: Told) -> None:
    simulation = on_a_lun(told)
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.power_off(DESTINATION))
    result = await simulation.migrate(**PLAIN)
    assert result.state == "stuck"
    assert not [call for call in world.calls if call.name == "start_commit"]
    await check_end(simulation, result)


@pytest.mark.parametrize("count", range(2, 36, 3))
async def test_an_engine_that_died_is_replaced(told: Told, count: int) -> None:
    simulation = on_a_lun(told)
    migration = await die_after(simulation, count, **PLAIN)
    result = await (await simulation.engine.resume(migration)).wait()
    assert result.state in ("committed", "rolled-back"), result
    assert changed_devices(simulation) == []
    await check_end(simulation, result)


@pytest.mark.parametrize("count", range(4, 36, 2))
async def test_a_lost_journal_loses_nothing(told: Told, count: int) -> None:
    simulation = on_a_lun(told)
    await die_after(simulation, count, **PLAIN)
    engine = await lose_journal(simulation)
    await settle(simulation)
    examined = await engine.examine(HOSTS)
    for case in waiting(examined):
        result = await (await engine.adopt(case, examined)).wait()
        assert result.state in ("committed", "rolled-back"), result
        await check_end(simulation, result)
    assert changed_devices(simulation) == []


# What is not proven


def has_no_name(_simulation: Simulation, told: Told) -> None:
    told.hardware[DESTINATION, VOLUMES["vda"]] = Hardware(why="disk 7:0 has no WWID")


def has_another_name(_simulation: Simulation, told: Told) -> None:
    told.hardware[DESTINATION, VOLUMES["vda"]] = Hardware("naa.6001405")


def has_another_length(_simulation: Simulation, told: Told) -> None:
    told.changes[DESTINATION, VOLUMES["vda"]] = {"size_bytes": SIZE_BYTES + 512}


def is_seen_by_a_shell_elsewhere(_simulation: Simulation, told: Told) -> None:
    told.elsewhere = DESTINATION


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (has_no_name, "has no WWID"),
        (has_another_name, "at the source, and naa.6001405 at the destination"),
        (has_another_length, "bytes of it"),
        (is_seen_by_a_shell_elsewhere, "than libvirt there"),
    ],
)
async def test_what_is_not_proven_is_refused(told: Told, change: Change, why: str) -> None:
    """It is neither taken for the same, nor for one that may be overwritten; nobody can accept that."""
    simulation = on_a_lun(told)
    change(simulation, told)
    accept = ("not-shared", "device-not-named", "device-content")
    refused = await simulation.migrate(storage=StorageChoice.SHARED, **PLAIN)
    assert refused.state == "refused"
    finding, *_ = [finding for finding in refused.findings if finding.check == "not-shared"]
    assert why in finding.message
    for storage in (StorageChoice.SHARED, StorageChoice.AUTO):
        refused = await simulation.migrate(storage=storage, accept=accept, **PLAIN)
        assert refused.state == "refused"
    told_of_it = [record.data["notes"] for record in simulation.records if "notes" in record.data]
    assert why in str(told_of_it[-1])
    assert changed_devices(simulation) == []


def in_use_there(_simulation: Simulation, told: Told) -> None:
    told.changes[DESTINATION, VOLUMES["vda"]] = {"busy": ("it is mounted at /srv",)}


def used_by_another(simulation: Simulation, _told: Told) -> None:
    disk = SimulatedDisk("vda", VOLUMES["vda"], format="raw", capacity_bytes=SIZE_BYTES, written=())
    simulation.world.add_domain(DESTINATION, "other", [disk], state=DomainState.SHUT_OFF)


def nothing(_simulation: Simulation, _told: Told) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "options", "cache", "checks"),
    [
        (in_use_there, {}, "none", {"device-in-use"}),
        (used_by_another, {}, "none", {"device-in-use"}),
        (nothing, {}, "", {"disk-cache"}),
        (nothing, {}, "writeback", {"disk-cache"}),
        (nothing, {"merge": MergeChoice.MIRROR}, "none", {"merge"}),
        (nothing, {"overlay_directory": ""}, "none", {"overlay-directory"}),
        (nothing, {"direct": None}, "none", {"transport"}),
        (nothing, {"storage": StorageChoice.COPY}, "none", {"device-not-named"}),
    ],
)
async def test_each_refusal(
    told: Told, change: Change, options: dict[str, object], cache: str, checks: set[str]
) -> None:
    simulation = on_a_lun(told, cache=cache)
    change(simulation, told)
    result = await simulation.migrate(**{**PLAIN, **options})
    assert (result.state, {finding.check for finding in result.findings}) == ("refused", checks)
    assert changed_devices(simulation) == []


async def test_it_is_not_copied_onto_itself(told: Told) -> None:
    simulation = on_a_lun(told)
    for uri in (SOURCE, DESTINATION):
        told.changes[uri, VOLUMES["vda"]] = {"identity": "LVM-of-both"}
    result = await simulation.migrate(disk_map=NAMED[:1], accept=("device-content",), **PLAIN)
    assert (result.state, {finding.check for finding in result.findings}) == ("refused", {"device-shared"})


async def test_what_a_commit_needs_is_told_once(told: Told) -> None:
    simulation = on_a_lun(told, size_bytes=128 * MIB)
    result = await simulation.migrate(**PLAIN)
    assert [(one.check, one.host) for one in result.findings] == [("device-space", SOURCE)] * 2


# When the base stands still


def shows_an_old_state(told: Told) -> None:
    told.stale = DESTINATION


def is_taken_into_use(told: Told) -> None:
    told.changes[DESTINATION, VOLUMES["vdb"]] = {"busy": ("dm-3 stands on it",)}


def leads_elsewhere(told: Told) -> None:
    told.hardware[DESTINATION, VOLUMES["vdb"]] = Hardware("naa.6001405")


def leads_to_another_source(told: Told) -> None:
    told.elsewhere = SOURCE


def can_not_be_asked(told: Told) -> None:
    told.silent = DESTINATION


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (shows_an_old_state, "first MiB"),
        (is_taken_into_use, "dm-3 stands on it"),
        (leads_elsewhere, "naa.6001405 at the destination"),
        (leads_to_another_source, "than libvirt there"),
        (can_not_be_asked, "no route"),
    ],
)
async def test_what_shows_only_when_the_base_stands_still_rolls_back(
    told: Told, change: Callable[[Told], None], why: str
) -> None:
    simulation = on_a_lun(told)
    simulation.world.at("create_overlays", lambda: change(told), when="after")
    result = await simulation.migrate(**PLAIN)
    assert (result.state, why in result.cause) == ("rolled-back", True), result.cause
    assert not [call for call in simulation.world.calls if call.name == "migrate"]
    assert changed_devices(simulation) == []
    await check_end(simulation, result)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
async def test_all_of_it_is_compared_where_that_is_asked_for(told: Told, image_format: str) -> None:
    """What two hosts read may differ behind the beginning as well, where a name is not what it should be."""
    for verify, state in ((Verify.FULL, "rolled-back"), (Verify.TABLE, "committed")):
        simulation = on_a_lun(told, image_format=image_format)
        told.stale, told.stale_from = DESTINATION, 2 * MIB
        result = await simulation.migrate(verify=verify, **PLAIN)
        assert (result.state, "does not read as" in result.cause) == (state, state == "rolled-back")
        assert changed_devices(simulation) == []
        await check_end(simulation, result)
    told.stale = ""
    simulation = on_a_lun(told, image_format=image_format)
    result = await simulation.migrate(verify=Verify.FULL, **PLAIN)
    assert (result.state, result.cause) == ("committed", "")
