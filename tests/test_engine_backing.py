"""Bases with files below them, on simulated hosts: those must be there already, alike, and stay untouched."""

from __future__ import annotations

import pytest
from attrs import evolve

from fsm.engine.plan import MergeChoice, StorageChoice
from fsm.hypervisor.simulated import Moment, SimulatedDisk, files, images
from fsm.machine.observation import DomainState
from tests.chains import AUTO, CONTENT, GOLDEN, MIB, MIDDLE, chained, refused, untouched, written_into
from tests.simulation import DESTINATION, IMAGES, SHARED, SOURCE, Simulation, check_end


@pytest.mark.parametrize("merge", [MergeChoice.COMMIT, MergeChoice.MIRROR])
async def test_a_chain_that_is_there_stays_what_it_is(merge: MergeChoice) -> None:
    simulation = await chained()
    result = await simulation.migrate(merge=merge)
    assert (result.state, result.cause) == ("committed", "")
    untouched(simulation)
    await check_end(simulation, result)
    facts = await (await simulation.world.connect(DESTINATION)).domain(simulation.uuid)
    assert facts is not None
    assert [disk.chain for disk in facts.disks] == [
        (f"{IMAGES}/web-{target}.qcow2", MIDDLE, GOLDEN) for target in ("vda", "vdb")
    ]


async def test_each_file_is_read_once_however_many_disks_stand_on_it() -> None:
    simulation = await chained()
    await simulation.migrate(**AUTO)
    golden = [
        call.arguments[1:]
        for call in simulation.world.calls
        if call.name == "read" and call.arguments[0] == GOLDEN and call.host == DESTINATION
    ]
    assert len(golden) == len(set(golden)) > 0


@pytest.mark.parametrize("moment", Moment)
async def test_a_failed_one_leaves_the_chain_alone(moment: Moment) -> None:
    simulation = await chained()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(**AUTO)
    assert result.state in ("committed", "rolled-back", "stuck")
    untouched(simulation)
    await check_end(simulation, result)


async def test_one_that_is_shut_off_goes_with_its_chain() -> None:
    simulation = await chained(state=DomainState.SHUT_OFF)
    result = await simulation.migrate(**AUTO)
    assert (result.state, result.cause) == ("committed", "")
    untouched(simulation)
    await check_end(simulation, result)


async def test_a_directory_that_is_missing_is_told() -> None:
    simulation = await chained()
    simulation.world.add_directory(SOURCE, "/srv/templates")
    golden = "/srv/templates/golden.raw"
    simulation.world.put_file(SOURCE, golden, CONTENT, size_bytes=8 * MIB)
    disk = SimulatedDisk("vda", f"{IMAGES}/other.qcow2", backing=(golden, "raw"))
    simulation.world.add_domain(SOURCE, "other", [disk])
    told = await refused(simulation, domain="other")
    assert "mkdir -p /srv/templates" in told


async def test_storage_said_to_be_shared_is_not_copied() -> None:
    simulation = await chained()
    simulation.world.put_file(SOURCE, f"{IMAGES}/mine.raw", CONTENT, size_bytes=8 * MIB)
    disk = SimulatedDisk("vda", f"{SHARED}/other.qcow2", backing=(f"{IMAGES}/mine.raw", "raw"))
    simulation.world.add_domain(SOURCE, "other", [disk])
    simulation.before.files[DESTINATION] = simulation.world.files(DESTINATION)
    assert "--storage shared copies nothing" in await refused(
        simulation, domain="other", storage=StorageChoice.SHARED
    )


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUT_OFF])
async def test_another_file_of_that_name_and_length_is_found_out(state: DomainState) -> None:
    simulation = await chained(content={0: b"golden", 5 * MIB: b"BLOCK"}, state=state)
    told = await refused(simulation)
    assert "is another one there" in told
    assert f"the first byte that differs is {5 * MIB}" in told


async def test_another_length_needs_no_reading() -> None:
    simulation = await chained()
    with simulation.world.changing() as state:
        files.existing(state, state.hosts[DESTINATION], GOLDEN).size += 4096
    assert "bytes long" in await refused(simulation)
    assert not [call for call in simulation.world.calls if call.name == "read"]


async def test_what_refuses_anyway_spares_the_reading_and_what_is_accepted_does_not() -> None:
    simulation = await chained()
    for host in simulation.world.state.hosts.values():
        host.security_models = ("apparmor",)
    result = await simulation.migrate(**AUTO)
    assert {finding.check for finding in result.findings} == {"apparmor"}
    assert not [call for call in simulation.world.calls if call.name == "read"]
    result = await simulation.migrate(accept=("apparmor",), **AUTO)
    assert result.state == "committed"
    assert [call for call in simulation.world.calls if call.name == "read" and call.arguments[0] == GOLDEN]


@pytest.mark.parametrize("directory", [IMAGES, SHARED])
async def test_a_chain_on_shared_storage_is_not_read(directory: str) -> None:
    """Whether the base is there too or not."""
    simulation = await chained()
    world = simulation.world
    golden = f"{SHARED}/golden.raw"
    world.put_file(SOURCE, golden, CONTENT, size_bytes=8 * MIB)
    disk = SimulatedDisk("vda", f"{directory}/other.qcow2", backing=(golden, "raw"))
    world.add_domain(SOURCE, "other", [disk])
    result = await simulation.migrate(domain="other", **AUTO)
    assert (result.state, result.cause) == ("committed", "")
    assert not [call for call in world.calls if call.name == "read" and call.arguments[0] == golden]


async def test_a_write_since_it_was_compared_stops_the_migration() -> None:
    simulation = await chained()
    simulation.world.at("forget_snapshots", lambda: written_into(simulation, DESTINATION))
    result = await simulation.migrate(**AUTO)
    assert result.state == "rolled-back"
    assert "has changed since it was compared" in result.cause
    await check_end(simulation, result)


@pytest.mark.parametrize(
    ("name", "says"),
    [("../golden.raw", "no plain path"), ("nbd://host/golden", "no plain path"), ("/dev/vg/golden", "plain")],
)
async def test_a_name_that_is_no_plain_path_is_refused(name: str, says: str) -> None:
    simulation = await chained(state=DomainState.SHUT_OFF)
    rename_backing(simulation, f"{IMAGES}/web-vda.qcow2", name)
    assert says in await refused(simulation)


async def test_the_domain_must_run_on_what_the_headers_name() -> None:
    simulation = await chained()
    rename_backing(simulation, f"{IMAGES}/web-vda.qcow2", GOLDEN)
    assert "the images' headers say" in await refused(simulation)


async def test_a_name_without_a_format_is_refused_where_it_is_no_raw_file() -> None:
    simulation = await chained(state=DomainState.SHUT_OFF)
    rename_backing(simulation, f"{IMAGES}/web-vda.qcow2", MIDDLE, backing_format="")
    assert "qemu-img rebase -u -F qcow2" in await refused(simulation)


def rename_backing(simulation: Simulation, path: str, name: str, *, backing_format: str = "raw") -> None:
    """Have an image's header name another backing file."""
    with simulation.world.changing() as state:
        host = state.hosts[SOURCE]
        file = files.existing(state, host, path)
        described = evolve(images.header(file), backing=name, backing_format=backing_format)
        images._write_header(state, host, path, described, len(images.snapshot_table(file)))


async def test_a_relative_name_keeps_a_copy_in_its_directory() -> None:
    simulation = await chained(state=DomainState.SHUT_OFF)
    rename_backing(simulation, f"{IMAGES}/web-vda.qcow2", "golden.raw")
    told = await refused(simulation, disk_map=("vda=/srv/first.qcow2",))
    assert "by a relative path" in told
    result = await simulation.migrate(disk_map=(f"vda={IMAGES}/first.qcow2",), **AUTO)
    assert "backing-file" not in [finding.check for finding in result.findings]
