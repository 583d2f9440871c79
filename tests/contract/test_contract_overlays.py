"""Overlays over running disks, and block commits back into the bases."""

from __future__ import annotations

import pytest
from attrs import evolve

from fsm.errors import HostError, NotFound
from fsm.hypervisor import domain_xml
from fsm.hypervisor.port import Host
from fsm.machine.observation import DomainState
from tests.contract.contract_rig import (
    KIB,
    MIB,
    Rig,
    RigDisk,
    committed,
    disk_of,
    facts_of,
    overlay_for,
    put_overlay,
    ready,
    until,
)

TWO = (RigDisk("vda"), RigDisk("vdb", format="raw"), RigDisk("vdc"))
NOBODY = "8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11"


async def chains(host: Host, uuid: str) -> dict[str, tuple[str, ...]]:
    """The chain of every disk."""
    return {disk.target: disk.chain for disk in (await facts_of(host, uuid)).disks}


async def test_overlays_are_put_over_the_named_disks_and_no_others(rig: Rig) -> None:
    uuid = rig.domain("web", TWO)
    host = await rig.host(rig.source)
    before = await chains(host, uuid)
    overlays = [await overlay_for(host, uuid, target) for target in ("vda", "vdb")]
    await host.create_overlays(uuid, overlays)
    wanted = {one.target: (one.path, one.base) for one in overlays} | {"vdc": before["vdc"]}
    assert await chains(host, uuid) == wanted
    assert disk_of(await facts_of(host, uuid), "vdb").formats == ("qcow2", "raw")
    await host.create_overlays(uuid, overlays)  # they are there already
    assert await chains(host, uuid) == wanted


async def test_qemu_itself_tells_what_it_uses(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await overlay_for(host, uuid, "vda")
    assert await host.uses(uuid, overlay.base)
    assert not await host.uses(uuid, overlay.path)
    await host.create_overlays(uuid, [overlay])
    assert await host.uses(uuid, overlay.base)
    assert await host.uses(uuid, overlay.path)
    await host.destroy(uuid)
    assert not await host.uses(uuid, overlay.path)
    assert not await host.uses(NOBODY, overlay.path)


async def test_the_definition_follows_the_overlay(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    disk = domain_xml.disks(await host.persistent_xml(uuid))[0]
    assert (disk.source, disk.format) == (overlay.path, "qcow2")
    await host.destroy(uuid)
    disk = disk_of(await facts_of(host, uuid), "vda")
    assert disk.chain == (overlay.path,)
    await host.start_paused(uuid)
    assert disk_of(await facts_of(host, uuid), "vda").chain == (overlay.path, overlay.base)


async def test_writes_go_into_the_overlay_and_leave_the_base_alone(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    rig.write(rig.source, uuid, "vda", 0, 64 * KIB, 0x11)
    overlay = await put_overlay(host, uuid)
    before = rig.file_bytes(rig.source, overlay.base)
    rig.write(rig.source, uuid, "vda", 0, 4 * KIB, 0x22)
    assert rig.file_bytes(rig.source, overlay.base) == before
    assert rig.holds(rig.source, uuid, "vda", 0, 4 * KIB, 0x22)
    assert rig.holds(rig.source, uuid, "vda", 4 * KIB, 60 * KIB, 0x11)


async def test_all_overlays_or_none(rig: Rig) -> None:
    uuid = rig.domain("web", TWO)
    host = await rig.host(rig.source)
    before = await chains(host, uuid)
    overlays = [await overlay_for(host, uuid, target) for target in ("vda", "vdc")]
    rig.put_file(rig.source, overlays[1].path, {0: b"somebody's"}, 512)
    with pytest.raises(HostError):
        await host.create_overlays(uuid, overlays)
    assert await chains(host, uuid) == before
    assert rig.file_bytes(rig.source, overlays[1].path).startswith(b"somebody's")
    unknown = evolve(overlays[1], target="vdz")
    with pytest.raises(NotFound):
        await host.create_overlays(uuid, [overlays[0], unknown])
    assert await chains(host, uuid) == before


async def test_half_of_the_overlays_there_already_is_refused(rig: Rig) -> None:
    uuid = rig.domain("web", TWO)
    host = await rig.host(rig.source)
    first = await put_overlay(host, uuid)
    before = await chains(host, uuid)
    with pytest.raises(HostError):
        await host.create_overlays(uuid, [first, await overlay_for(host, uuid, "vdc")])
    assert await chains(host, uuid) == before


async def test_a_disk_that_stands_on_something_else_gets_no_overlay(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await overlay_for(host, uuid)
    with pytest.raises(HostError):
        await host.create_overlays(uuid, [evolve(overlay, base=f"{rig.images}/other.qcow2")])
    with pytest.raises(NotFound):
        await host.create_overlays(NOBODY, [overlay])


async def test_an_overlay_in_a_directory_that_is_not_there_is_refused(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    before = await chains(host, uuid)
    overlay = evolve(await overlay_for(host, uuid), path=f"{rig.images}/none/vda.overlay")
    with pytest.raises(HostError):
        await host.create_overlays(uuid, [overlay])
    assert await chains(host, uuid) == before


async def test_a_shut_off_domain_gets_its_overlay_for_the_next_start(rig: Rig) -> None:
    uuid = rig.domain("web", running=False)
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    assert await chains(host, uuid) == {"vda": (overlay.path,)}
    await host.create_overlays(uuid, [overlay])  # it is there already
    await host.start_paused(uuid)
    assert await chains(host, uuid) == {"vda": (overlay.path, overlay.base)}


async def test_commit_ready_pivot(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots={"s1": None})
    host = await rig.host(rig.source)
    rig.write(rig.source, uuid, "vda", 0, 64 * KIB, 0x11)
    overlay = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 0, MIB, 0x22)
    await host.start_commit(uuid, overlay)
    await host.start_commit(uuid, overlay)  # it runs already
    await ready(host, uuid)
    job = disk_of(await facts_of(host, uuid), "vda").block_job
    assert job is not None
    assert (job.kind, job.current_bytes) == ("active-commit", job.end_bytes)
    rig.write(rig.source, uuid, "vda", MIB, 64 * KIB, 0x33)  # goes to both while the job is ready
    await host.pivot(uuid, "vda")
    disk = disk_of(await facts_of(host, uuid), "vda")
    assert disk.chain == (overlay.base,)
    assert disk.block_job is None
    assert domain_xml.disks(await host.persistent_xml(uuid))[0].source == overlay.base
    assert rig.holds(rig.source, uuid, "vda", 0, MIB, 0x22)
    assert rig.holds(rig.source, uuid, "vda", MIB, 64 * KIB, 0x33)
    assert rig.image_snapshots(rig.source, overlay.base) == ["s1"]
    assert rig.exists(rig.source, overlay.path)  # libvirt leaves the file
    await host.start_commit(uuid, overlay)  # it is committed already
    assert disk_of(await facts_of(host, uuid), "vda").block_job is None


async def test_an_empty_overlay_is_committed_too(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    await committed(host, uuid, overlay)
    assert (await chains(host, uuid))["vda"] == (overlay.base,)


async def test_a_commit_ends_at_the_base_whatever_is_below_that(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    rig.write(rig.source, uuid, "vda", 0, 64 * KIB, 0x11)
    base = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 64 * KIB, 64 * KIB, 0x22)
    overlay = await put_overlay(host, uuid)
    assert (await chains(host, uuid))["vda"] == (overlay.path, base.path, base.base)
    below = rig.file_bytes(rig.source, base.base)
    rig.write(rig.source, uuid, "vda", 128 * KIB, 64 * KIB, 0x33)
    await committed(host, uuid, overlay)
    assert (await chains(host, uuid))["vda"] == (base.path, base.base)
    assert rig.file_bytes(rig.source, base.base) == below
    for number, pattern in enumerate((0x11, 0x22, 0x33)):
        assert rig.holds(rig.source, uuid, "vda", number * 64 * KIB, 64 * KIB, pattern)


async def test_several_disks_are_committed_side_by_side(rig: Rig) -> None:
    uuid = rig.domain("web", TWO)
    host = await rig.host(rig.source)
    before = await chains(host, uuid)
    overlays = [await overlay_for(host, uuid, target) for target in ("vda", "vdb", "vdc")]
    await host.create_overlays(uuid, overlays)
    for number, overlay in enumerate(overlays):
        rig.write(rig.source, uuid, overlay.target, 0, MIB, 0x40 + number)
    for overlay in overlays:
        await host.start_commit(uuid, overlay)
    for overlay in overlays:
        await ready(host, uuid, overlay.target)
        await host.pivot(uuid, overlay.target)
    assert await chains(host, uuid) == before
    for number, overlay in enumerate(overlays):
        assert rig.holds(rig.source, uuid, overlay.target, 0, MIB, 0x40 + number)


async def test_pivot_before_ready_is_refused_and_cancel_leaves_the_overlay(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    await host.start_commit(uuid, overlay, 1)
    with pytest.raises(HostError):
        await host.pivot(uuid, "vda")
    job = disk_of(await facts_of(host, uuid), "vda").block_job
    assert job is not None
    assert not job.ready
    await host.cancel_block_job(uuid, "vda")
    disk = (
        await until(lambda: facts_of(host, uuid), lambda facts: disk_of(facts, "vda").block_job is None)
    ).disks[0]
    assert disk.chain == (overlay.path, overlay.base)
    await host.cancel_block_job(uuid, "vda")  # there is none any more
    rig.write(rig.source, uuid, "vda", 0, 64 * KIB, 0x44)
    await committed(host, uuid, overlay)
    assert rig.holds(rig.source, uuid, "vda", 0, 64 * KIB, 0x44)
    assert rig.holds(rig.source, uuid, "vda", 64 * KIB, 7 * MIB, 0x22)


async def test_a_job_that_is_ready_can_still_be_cancelled(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 0, MIB, 0x22)
    await host.start_commit(uuid, overlay)
    await ready(host, uuid)
    await host.cancel_block_job(uuid, "vda")
    facts = await until(lambda: facts_of(host, uuid), lambda facts: disk_of(facts, "vda").block_job is None)
    assert disk_of(facts, "vda").chain == (overlay.path, overlay.base)
    assert rig.holds(rig.source, uuid, "vda", 0, MIB, 0x22)


async def test_without_a_job_there_is_nothing_to_pivot(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    with pytest.raises(HostError):
        await host.pivot(uuid, "vda")
    with pytest.raises(HostError):
        await host.pivot(uuid, "vdz")
    with pytest.raises(NotFound):
        await host.pivot(NOBODY, "vda")
    with pytest.raises(NotFound):
        await host.cancel_block_job(NOBODY, "vda")


async def test_a_commit_into_another_base_is_refused(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    with pytest.raises(HostError):
        await host.start_commit(uuid, evolve(overlay, path=f"{rig.images}/other"))
    with pytest.raises(NotFound):
        await host.start_commit(uuid, evolve(overlay, target="vdz"))
    with pytest.raises(NotFound):
        await host.start_commit(NOBODY, overlay)
    assert disk_of(await facts_of(host, uuid), "vda").block_job is None


async def test_a_shut_off_domain_is_started_paused_to_be_committed(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 0, MIB, 0x22)
    rig.power_off(rig.source, uuid)
    await until(lambda: facts_of(host, uuid), lambda facts: facts.state is DomainState.SHUT_OFF)
    with pytest.raises(HostError):
        await host.start_commit(uuid, overlay)
    await host.cancel_block_job(uuid, "vda")
    await host.start_paused(uuid)
    await committed(host, uuid, overlay)
    await host.destroy(uuid)
    assert (await chains(host, uuid))["vda"] == (overlay.base,)
    await host.start_paused(uuid)
    assert rig.holds(rig.source, uuid, "vda", 0, MIB, 0x22)


async def test_a_commit_ends_with_the_domain(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    await host.start_commit(uuid, overlay, 1)
    rig.kill_qemu(rig.source, uuid)
    await until(lambda: facts_of(host, uuid), lambda facts: facts.state is DomainState.SHUT_OFF)
    await host.start_paused(uuid)
    disk = disk_of(await facts_of(host, uuid), "vda")
    assert (disk.chain, disk.block_job) == ((overlay.path, overlay.base), None)
    assert rig.holds(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)


async def test_a_snapshot_taken_meanwhile_lands_in_the_overlay_and_not_in_the_base(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots={"s1": None})
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    rig.take_snapshot(rig.source, uuid, "foreign")
    assert set((await facts_of(host, uuid)).snapshots) == {"s1", "foreign"}
    assert rig.image_snapshots(rig.source, overlay.path) == ["foreign"]
    await committed(host, uuid, overlay)
    assert rig.image_snapshots(rig.source, overlay.base) == ["s1"]
