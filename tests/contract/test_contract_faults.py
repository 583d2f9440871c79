"""Full file systems, and libvirtd dying while jobs run."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve

from fsm.errors import FsmError, HostError, HostUnreachable, NotFound, OutcomeUnknown
from fsm.hypervisor.port import Host
from fsm.machine.observation import DomainState
from tests.contract.contract_rig import (
    MIB,
    Rig,
    RigDisk,
    assert_back,
    committed,
    disk_of,
    facts_of,
    overlay_for,
    prepare,
    put_overlay,
    stat_of,
    until,
)


async def without_job(host: Host, uuid: str) -> None:
    """Wait until the disk's block job is gone."""
    await until(lambda: facts_of(host, uuid), lambda facts: disk_of(facts, "vda").block_job is None)


async def test_a_commit_that_finds_no_space_fails_and_loses_nothing(rig: Rig) -> None:
    small = rig.small_directory(rig.source, 12)
    uuid = rig.domain("web", (RigDisk("vda", path=f"{small}/b.qcow2"),))
    host = await rig.host(rig.source)
    overlay = evolve(await overlay_for(host, uuid), path=f"{rig.images}/vda.overlay")
    await host.create_overlays(uuid, [overlay])
    rig.write(rig.source, uuid, "vda", 0, 14 * MIB, 0x22)
    await host.start_commit(uuid, overlay)
    await without_job(host, uuid)
    facts = await facts_of(host, uuid)
    assert facts.state is DomainState.RUNNING, "only a write of the guest's own pauses it"
    assert disk_of(facts, "vda").chain == (overlay.path, overlay.base)
    with pytest.raises(NotFound):
        await host.pivot(uuid, "vda")
    assert rig.holds(rig.source, uuid, "vda", 0, 14 * MIB, 0x22)


async def test_a_migration_that_finds_no_space_leaves_the_source_running(rig: Rig) -> None:
    small = rig.small_directory(rig.source, 64)
    assert rig.small_directory(rig.destination, 6) == small
    uuid = rig.domain("web", (RigDisk("vda", path=f"{small}/b.qcow2"),))
    prepared = await prepare(rig, uuid)
    rig.write(rig.source, uuid, "vda", 0, 14 * MIB, 0x22)
    with pytest.raises(HostError):
        await prepared.migrate()
    await assert_back(prepared)
    assert rig.holds(rig.source, uuid, "vda", 0, 14 * MIB, 0x22)


async def test_a_file_longer_than_the_free_space_is_filled_up_to_an_error(rig: Rig) -> None:
    small = rig.small_directory(rig.source, 6)
    host = await rig.host(rig.source)
    await host.storage.create_sparse(f"{small}/x", 16 * MIB)
    assert (await stat_of(host, f"{small}/x")).allocated_bytes == 0

    def fill() -> None:
        channel = rig.connector.open_channel(rig.source)
        writer = channel.writer(f"{small}/x")
        try:
            for number in range(16):
                writer.data(number * MIB, b"x" * MIB)
            writer.close()
        finally:
            writer.abandon()
            channel.close()

    with pytest.raises(HostError):
        await asyncio.to_thread(fill)
    assert await host.storage.free_bytes(small) < MIB
    await host.storage.release(small, await host.storage.pool_state(small))


async def test_without_libvirtd_a_host_is_unreachable_and_a_commit_goes_on(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    await host.start_commit(uuid, overlay, 4)
    rig.stop_libvirtd(rig.source)
    with pytest.raises(HostUnreachable):
        await host.domain(uuid)
    rig.start_libvirtd(rig.source)
    facts = await facts_of(host, uuid)
    assert facts.state is DomainState.RUNNING
    assert disk_of(facts, "vda").block_job is not None
    await committed(host, uuid, overlay)
    assert disk_of(await facts_of(host, uuid), "vda").chain == (overlay.base,)
    assert rig.holds(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)


@pytest.mark.parametrize(
    ("side", "error"),
    [("source", OutcomeUnknown), pytest.param("destination", HostError, marks=pytest.mark.race)],
)
async def test_a_migration_ends_with_either_libvirtd(rig: Rig, side: str, error: type[FsmError]) -> None:
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    task = await prepared.begin(2)
    rig.stop_libvirtd(getattr(rig, side))
    with pytest.raises(error):
        await task
    rig.start_libvirtd(getattr(rig, side))
    await assert_back(prepared)
    assert rig.holds(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    await prepared.migrate()
    assert rig.holds(rig.destination, uuid, "vda", 0, 8 * MIB, 0x22)
