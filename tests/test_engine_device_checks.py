"""What preflight has against a block device, on simulated hosts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve

from fsm.errors import BadInput
from fsm.hypervisor.simulated import SimulatedDisk, files
from tests.simulated_devices import (
    BY_COMMANDS,
    MIB,
    NAMED,
    PLAIN,
    SCRATCH,
    SIZE_BYTES,
    VOLUMES,
    Told,
    changed_devices,
    on_devices,
)
from tests.simulation import DESTINATION, IMAGES, SOURCE, Simulation, check_end, simulate

pytest_plugins = ["tests.device_fixtures"]

Change = Callable[[Simulation, Told], None]


def has(**changes: object) -> Change:
    """A shell at the destination tells this of the first volume."""

    def change(_simulation: Simulation, told: Told) -> None:
        told.changes[DESTINATION, VOLUMES["vda"]] = changes

    return change


def same_as_the_sources(_simulation: Simulation, told: Told) -> None:
    for uri in (SOURCE, DESTINATION):
        told.changes[uri, VOLUMES["vda"]] = {"identity": "LVM-of-both"}


def used_by_another(simulation: Simulation, _told: Told) -> None:
    disk = SimulatedDisk("vda", VOLUMES["vda"], format="raw", capacity_bytes=SIZE_BYTES, written=())
    simulation.world.add_domain(DESTINATION, "other", [disk])


def full_of_data(simulation: Simulation, _told: Told) -> None:
    with simulation.world.changing() as state:
        files.write(state, state.hosts[DESTINATION], VOLUMES["vda"], 64 * MIB, b"data")


def volume_of_a_pool(simulation: Simulation, _told: Told) -> None:
    """Another domain has a disk of which only its pool knows where it is."""
    uuid = simulation.world.add_domain(DESTINATION, "other", [SimulatedDisk("vda", written=())])
    with simulation.world.changing() as state:
        record = state.hosts[DESTINATION].domains[uuid]
        record.instance = None
        path = f"{IMAGES}/other-vda.qcow2"
        text = (record.definition or "").replace(f'file="{path}"', 'pool="thin" volume="one"')
        record.definition = text.replace('type="file" device', 'type="volume" device')


def untouched(_simulation: Simulation, _told: Told) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "options", "check"),
    [
        (has(size_bytes=SIZE_BYTES - 512), {}, "device-size"),
        (has(busy=("it is mounted at /srv",)), {}, "device-in-use"),
        (has(number=VOLUMES["vdb"]), {}, "path-taken"),
        (same_as_the_sources, {}, "device-shared"),
        (used_by_another, {}, "device-in-use"),
        (full_of_data, {}, "device-content"),
        (volume_of_a_pool, {}, "device-users"),
        (untouched, {"direct": None, "disk_map": ()}, "transport"),
        (untouched, {"overlay_directory": ""}, "overlay-directory"),
        (untouched, {"overlay_directory": "/dev/vg"}, "overlay-directory"),
        (untouched, {"disk_map": NAMED[1:]}, "device-not-named"),
        (untouched, {"disk_map": ("vda=/dev/vg/none", NAMED[1])}, "device-missing"),
        (untouched, {"direct": evolve(BY_COMMANDS, seeds=("vda=/srv/old",))}, "transport"),
    ],
)
async def test_each_refusal(told: Told, change: Change, options: dict[str, object], check: str) -> None:
    """Nothing but a device's content, and what can't be told of its users, is anybody's to accept."""
    simulation = on_devices(told)
    change(simulation, told)
    world = simulation.world
    before = hash(world.file_bytes(DESTINATION, VOLUMES["vda"]))
    acceptable = check in ("device-content", "device-users")
    for accept in ((), () if acceptable else (check,)):
        result = await simulation.migrate(**{**PLAIN, **options, "accept": accept})
        assert (result.state, {finding.check for finding in result.findings}) == ("refused", {check})
    assert hash(world.file_bytes(DESTINATION, VOLUMES["vda"])) == before
    assert changed_devices(simulation) == []


async def test_what_is_on_a_device_is_given_up_by_name(told: Told) -> None:
    simulation = on_devices(told)
    full_of_data(simulation, told)
    result = await simulation.migrate(**PLAIN, accept=("device-content",))
    assert (result.state, result.cause) == ("committed", "")
    await check_end(simulation, result)


async def test_a_device_that_may_be_the_sources_own_is_not_given_up(told: Told) -> None:
    """Where no kernel knows what it is called everywhere, its content tells."""
    simulation = on_devices(told)
    for uri in (SOURCE, DESTINATION):
        told.changes[uri, VOLUMES["vda"]] = {"identity": ""}
    with simulation.world.changing() as state:
        head = files.read(files.existing(state, state.hosts[SOURCE], VOLUMES["vda"]), 0, MIB)
        files.write(state, state.hosts[DESTINATION], VOLUMES["vda"], 0, head)
    result = await simulation.migrate(**PLAIN, accept=("device-content",))
    assert (result.state, {one.check for one in result.findings}) == ("refused", {"device-shared"})
    assert "dd if=/dev/zero" in result.findings[0].remedy


async def test_a_raw_device_must_have_its_very_size(told: Told) -> None:
    simulation = on_devices(told, image_format="raw")
    has(size_bytes=SIZE_BYTES + 512)(simulation, told)
    result = await simulation.migrate(**PLAIN)
    assert {finding.check for finding in result.findings} == {"device-size"}


async def test_a_commit_must_fit_onto_both_devices(told: Told) -> None:
    simulation = on_devices(told, size_bytes=128 * MIB)
    result = await simulation.migrate(**PLAIN)
    assert result.state == "refused"
    assert {(one.check, one.host) for one in result.findings} == {
        ("device-space", uri) for uri in (SOURCE, DESTINATION)
    }
    assert "MiB larger" in result.findings[0].remedy


@pytest.mark.parametrize("path", ["/dev/sdb", "/dev/dm-3"])
async def test_the_directory_of_all_devices_is_never_opened(told: Told, path: str) -> None:
    simulation = await simulate()
    told.world = simulation.world
    simulation.world.add_device(DESTINATION, path, SIZE_BYTES)
    simulation.world.add_filesystem(SOURCE, mount=SCRATCH, size_bytes=1 << 40)
    simulation.world.add_filesystem(DESTINATION, mount=SCRATCH, size_bytes=1 << 40)
    result = await simulation.migrate(**{**PLAIN, "disk_map": (f"vda={path}",)})
    assert (result.state, {one.check for one in result.findings}) == ("refused", {"device-path"})
    assert "/dev" not in [call.arguments[0] for call in simulation.world.calls if call.arguments]


async def test_streams_write_to_no_device() -> None:
    simulation = await simulate()
    with pytest.raises(BadInput, match="--transport nbd alone"):
        await simulation.migrate(disk_map=NAMED)
