"""How full a file system is, and how far an overlay has grown."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve

from fsm.errors import HostError, NotFound
from fsm.hypervisor.port import Watch
from tests.contract.contract_rig import (
    KIB,
    MIB,
    PATIENCE_S,
    Rig,
    RigDisk,
    facts_of,
    overlay_for,
    prepare,
    put_overlay,
    stat_of,
)

NOBODY = "00000000-0000-4000-8000-00000000abcd"
BRIEF_S = 0.5


async def crossing(watch: Watch, timeout_s: float) -> bool:
    """Whether a threshold is crossed in time; simulated time does not pass by itself."""
    try:
        async with asyncio.timeout(timeout_s):
            return await watch.changed(timeout_s)
    except TimeoutError:
        return False


async def test_free_space_and_files_are_told_in_one_look(rig: Rig) -> None:
    small = rig.small_directory(rig.source, 64)
    uuid = rig.domain("web", (RigDisk("vda", path=f"{small}/b.qcow2"),))
    host = await rig.host(rig.source)
    overlay = evolve(await overlay_for(host, uuid), path=f"{small}/vda.overlay")
    await host.create_overlays(uuid, [overlay])
    before = await host.storage.space(small, (overlay.path, f"{small}/none"))
    assert [file.path for file in before.files] == [overlay.path]
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    after = await host.storage.space(small, (overlay.path, overlay.base))
    assert after.files == (await stat_of(host, overlay.path), await stat_of(host, overlay.base))
    grown_bytes = after.files[0].allocated_bytes - before.files[0].allocated_bytes
    assert grown_bytes >= 8 * MIB
    assert before.free_bytes - after.free_bytes >= 8 * MIB
    await host.storage.release(small, await host.storage.pool_state(small))


async def test_the_space_of_no_directory(rig: Rig) -> None:
    host = await rig.host(rig.source)
    with pytest.raises(NotFound):
        await host.storage.space(f"{rig.images}/no directory", ())


async def test_a_write_behind_the_threshold_is_reported_once(rig: Rig) -> None:
    uuid = rig.domain("web", (RigDisk("vda"), RigDisk("vdb")))
    host = await rig.host(rig.source)
    await put_overlay(host, uuid)
    watch = host.watch_thresholds(uuid)
    await host.set_threshold(uuid, "vda", 4 * MIB)
    rig.write(rig.source, uuid, "vdb", 0, 8 * MIB, 0x22)
    rig.write(rig.source, uuid, "vda", 0, 64 * KIB, 0x22)
    assert not await crossing(watch, BRIEF_S)
    rig.write(rig.source, uuid, "vda", MIB, 4 * MIB, 0x22)
    assert await crossing(watch, PATIENCE_S)
    while await crossing(watch, BRIEF_S):  # libvirt tells it twice, by each name of the layer
        pass
    rig.write(rig.source, uuid, "vda", 6 * MIB, MIB, 0x22)
    assert not await crossing(watch, BRIEF_S)
    await host.set_threshold(uuid, "vda", 64 * KIB)  # it is there already: the next write behind it counts
    rig.write(rig.source, uuid, "vda", 8 * MIB, 64 * KIB, 0x22)
    assert await crossing(watch, PATIENCE_S)
    watch.close()


async def test_the_last_threshold_counts(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    await put_overlay(host, uuid)
    watch = host.watch_thresholds(uuid)
    await host.set_threshold(uuid, "vda", 2 * MIB)
    await host.set_threshold(uuid, "vda", 12 * MIB)
    rig.write(rig.source, uuid, "vda", 0, 4 * MIB, 0x22)
    assert not await crossing(watch, BRIEF_S)
    watch.close()


async def test_a_threshold_needs_a_running_domain_and_its_disk(rig: Rig) -> None:
    uuid = rig.domain("web", running=False)
    host = await rig.host(rig.source)
    with pytest.raises(HostError):
        await host.set_threshold(uuid, "vda", MIB)
    with pytest.raises(NotFound):
        await host.set_threshold(NOBODY, "vda", MIB)
    await host.start_paused(uuid)
    with pytest.raises(HostError):
        await host.set_threshold(uuid, "vdz", MIB)


async def test_a_threshold_outlives_the_daemon(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    await put_overlay(host, uuid)
    await host.set_threshold(uuid, "vda", 2 * MIB)
    rig.stop_libvirtd(rig.source)
    rig.start_libvirtd(rig.source)
    await facts_of(host, uuid)  # connected again
    watch = host.watch_thresholds(uuid)
    rig.write(rig.source, uuid, "vda", 0, 4 * MIB, 0x22)
    assert await crossing(watch, PATIENCE_S)
    watch.close()


async def test_a_threshold_set_before_a_migration_is_reported_during_it(rig: Rig) -> None:
    """And none can be set then: the migration holds the domain."""
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    size_bytes = (await stat_of(prepared.source, prepared.overlays[0].path)).size_bytes
    watch = prepared.source.watch_thresholds(uuid)
    await prepared.source.set_threshold(uuid, "vda", size_bytes + MIB)
    task = await prepared.begin(1)
    rig.write(rig.source, uuid, "vda", 9 * MIB, 4 * MIB, 0x33)
    assert await crossing(watch, PATIENCE_S)
    await prepared.source.abort_job(uuid)
    with pytest.raises(HostError):
        await task
    watch.close()


async def test_the_destination_has_no_threshold(rig: Rig) -> None:
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    await prepared.source.set_threshold(uuid, "vda", 8 * MIB)
    await prepared.migrate()
    watch = prepared.destination.watch_thresholds(uuid)
    rig.write(rig.destination, uuid, "vda", 0, 12 * MIB, 0x33)
    assert not await crossing(watch, BRIEF_S)
    watch.close()
