"""Disks on block devices, on simulated hosts; what a shell would tell of them the world itself tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from attrs import evolve

from fsm.engine import copying, device_checks, devices, direct, space
from fsm.engine.context import Context
from fsm.engine.devices import Device
from fsm.engine.engine import Engine
from fsm.engine.plan import Direct, MergeChoice
from fsm.errors import BadInput
from fsm.hypervisor import domain_xml
from fsm.hypervisor.port import RangeWriter
from fsm.hypervisor.shell import Shell
from fsm.hypervisor.simulated import Moment, SimulatedDisk, SimulatedWorld, domains, files, snapshots
from fsm.hypervisor.values import Base, is_among_devices
from fsm.journal.records import Record
from fsm.journal.sql import SqlJournal
from fsm.machine.observation import DomainState
from tests.simulation import (
    DESTINATION,
    IMAGES,
    SNAPSHOTS,
    SOURCE,
    Before,
    Inline,
    Simulation,
    check_end,
    fresh_journal,
    in_loop,
    simulate,
)

MIB = 1 << 20
SIZE_BYTES = 192 * MIB
VOLUMES = {target: f"/dev/vg/web-{target}" for target in ("vda", "vdb")}
SCRATCH = "/srv/scratch"
MERGES = [MergeChoice.COMMIT, MergeChoice.MIRROR]
NAMED = tuple(f"{target}={path}" for target, path in VOLUMES.items())
BY_COMMANDS = Direct(source_shell="sh", destination_shell="sh")
PLAIN = {"direct": BY_COMMANDS, "overlay_directory": SCRATCH, "disk_map": NAMED}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What shells tell."""
    told = Told()
    monkeypatch.setattr(devices, "device_at", told.device_at)
    monkeypatch.setattr(devices, "numbers", told.numbers)
    monkeypatch.setattr(devices, "holds_data", told.holds_data)
    monkeypatch.setattr(direct, "findings", told.findings)
    monkeypatch.setattr(copying, "copy_directly", copied)
    return told


class Told:
    """The world as a shell shows it; tests put in what is to be different."""

    world: SimulatedWorld

    def __init__(self) -> None:
        self.changes: dict[tuple[str, str], dict[str, object]] = {}

    async def device_at(self, shell: Shell, path: str) -> Device | None:
        state = self.world.state
        found = files.find(state, state.hosts[shell.uri], path)
        if found is None or not is_among_devices(path):
            return None
        device = Device(path, found.size, path, f"{shell.uri} {path}")
        return evolve(device, **self.changes.get((shell.uri, path), {}))  # type: ignore[arg-type]

    async def numbers(self, _shell: Shell, paths: Sequence[str]) -> dict[str, str]:
        return {path: path for path in paths if is_among_devices(path)}

    async def holds_data(self, shell: Shell, device: Device) -> bool:
        state = self.world.state
        return any(files.existing(state, state.hosts[shell.uri], device.path).pages.values())

    async def findings(self, *_: object) -> list[object]:
        return []


async def copied(context: Context, _direct: Direct, base: Base, _tell: object) -> None:
    """The copy, without commands. Zeros are on the devices already."""
    channels = [context.hosts.connector.open_channel(uri) for uri in (SOURCE, DESTINATION)]
    writer: RangeWriter = channels[1].writer(context.planned.copy_of(base).path)
    channels[0].read(base.path, 0, base.size_bytes, writer)
    writer.close()
    for channel in channels:
        channel.close()


def expect_kept(simulation: Simulation) -> None:
    """Nothing is lost at the destination."""
    assert simulation.world.lost_writes(simulation.uuid, at=DESTINATION) == []
    found = simulation.world.snapshot_contents(DESTINATION, simulation.uuid)
    assert found == simulation.before.contents


def on_devices(
    told: Told, size_bytes: int = SIZE_BYTES, image_format: str = "qcow2", **domain: object
) -> Simulation:
    """Both hosts have the same volumes; a domain with snapshots lies on those of the source."""
    asyncio.get_running_loop().set_default_executor(Inline())
    world = told.world = SimulatedWorld()
    for uri in (SOURCE, DESTINATION):
        world.add_host(uri)
        world.add_filesystem(uri, mount=SCRATCH, size_bytes=1 << 40)
        for path in VOLUMES.values():
            world.add_device(uri, path, size_bytes)
    raw = image_format == "raw"
    disks = [
        SimulatedDisk(target, path, format=image_format, capacity_bytes=size_bytes if raw else 8 * MIB)
        for target, path in VOLUMES.items()
    ]
    uuid = world.add_domain(SOURCE, "web", disks, {} if raw else SNAPSHOTS, **domain)  # type: ignore[arg-type]
    hosts = world.state.hosts
    before = Before(
        contents=world.snapshot_contents(SOURCE, uuid),
        metadata=snapshots.listed(hosts[SOURCE], uuid),
        definition=domains.persistent_xml(hosts[SOURCE], uuid),
        files={uri: world.files(uri) for uri in hosts},
        pools={uri: world.pools(uri) for uri in hosts},
    )
    return Simulation(world, uuid, before, fresh_journal())


def changed_devices(simulation: Simulation) -> list[str]:
    """The calls that would make or remove one."""
    changes = ("remove", "create_sparse", "create_overlay")
    return [
        call.name
        for call in simulation.world.calls
        if call.name in changes and is_among_devices(str(call.arguments[0]))
    ]


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


# What is refused

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
        (untouched, {"storage": "shared"}, "device-shared"),
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


async def test_the_destinations_overlay_never_lies_beside_a_device(told: Told) -> None:
    """Also where it lies beside the base, which is a file, at the source."""
    simulation = await simulate()
    told.world = simulation.world
    for path in VOLUMES.values():
        simulation.world.add_device(DESTINATION, path, SIZE_BYTES)
    result = await simulation.migrate(**{**PLAIN, "overlay_directory": IMAGES})
    assert (result.state, result.cause) == ("committed", "")
    await expect_kinds(simulation, "block", VOLUMES)


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


async def test_a_base_on_a_device_with_something_below_it(told: Told) -> None:
    simulation = on_devices(told)
    world = simulation.world
    template = f"{IMAGES}/template.raw"
    world.put_file(SOURCE, template, b"below", size_bytes=8 * MIB)
    world.add_device(SOURCE, "/dev/vg/other", SIZE_BYTES)
    disk = SimulatedDisk("vda", "/dev/vg/other", backing=(template, "raw"))
    world.add_domain(SOURCE, "other", [disk])
    result = await simulation.migrate(**{**PLAIN, "domain": "other", "disk_map": (NAMED[0],)})
    assert (result.state, {one.check for one in result.findings}) == ("refused", {"backing-file"})


def lose(journal: SqlJournal) -> None:
    Path(journal.location.partition(":")[2]).unlink()


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("count", range(4, 36, 2))
async def test_a_lost_journal_loses_nothing_on_a_device(told: Told, merge: MergeChoice, count: int) -> None:
    """The domain's marker tells that its images lie on devices; whoever adopts it removes none of them."""
    simulation = on_devices(told)
    world, died = simulation.world, asyncio.Event()

    def on_record(record: Record) -> None:
        simulation.write()
        if record.sequence >= count:
            died.set()

    request = simulation.request(merge=merge, **PLAIN)
    handle = await simulation.engine.start(request, on_record=on_record)
    ends = [asyncio.ensure_future(wait) for wait in (died.wait(), handle.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await handle.detach()
    await simulation.engine.close()
    lose(simulation.journal)
    world.tick(1000)
    engine = Engine(fresh_journal(), world, clock=world.clock, deliver=in_loop)
    examined = await engine.examine((SOURCE, DESTINATION))
    waiting = [case for host in examined for case in host.cases if case.waits]
    if waiting:
        result = await (await engine.adopt(waiting[0], examined)).wait()
        assert result.state in ("committed", "rolled-back"), result
        await check_end(simulation, result)
    assert changed_devices(simulation) == []
