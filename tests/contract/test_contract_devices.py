"""Block devices: what is shown of one, what it lets be done, and a disk that lies on one."""

from __future__ import annotations

import asyncio

import pytest

from fsm.errors import HostError
from fsm.hypervisor.values import Overlay, PoolState
from fsm.images.image_end import image_end
from tests.contract.contract_rig import (
    KIB,
    MIB,
    Received,
    Rig,
    RigDisk,
    committed,
    disk_of,
    facts_of,
    stat_of,
)

SIZE_MIB = 64


def on_device(path: str) -> RigDisk:
    """A disk with a qcow2 image on that device."""
    return RigDisk("vda", path=path, on_device=True)


async def test_a_device_takes_all_of_its_length(rig: Rig) -> None:
    path = rig.device(rig.source, SIZE_MIB)
    host = await rig.host(rig.source)
    facts = await stat_of(host, path)
    sizes = (facts.size_bytes, facts.allocated_bytes, facts.capacity_bytes)
    assert sizes == (SIZE_MIB * MIB,) * 3
    assert (facts.format, facts.backing) == ("raw", None)
    assert await host.storage.peek(path, SIZE_MIB * MIB - 4, KIB) == bytes(4)


async def test_what_is_written_to_a_device_is_read_from_it(rig: Rig) -> None:
    path = rig.device(rig.source, SIZE_MIB)
    channel = rig.connector.open_channel(rig.source)

    def move() -> bytes:
        writer, sink = channel.writer(path), Received()
        writer.data(3 * MIB, b"\xa5" * (64 * KIB))
        writer.close()
        channel.read(path, 3 * MIB - KIB, 66 * KIB, sink)
        channel.close()
        return sink.content(3 * MIB - KIB)

    assert await asyncio.to_thread(move) == bytes(KIB) + b"\xa5" * (64 * KIB) + bytes(KIB)


async def test_nothing_takes_the_place_of_a_device(rig: Rig) -> None:
    path = rig.device(rig.source, SIZE_MIB)
    rig.domain("web", running=False)
    storage = (await rig.host(rig.source)).storage
    with pytest.raises(HostError):
        await storage.create_sparse(path, MIB)
    with pytest.raises(HostError):
        await storage.create_overlay(Overlay("vda", path, f"{rig.images}/web-vda.qcow2", "qcow2"), 16 * MIB)
    assert rig.file_bytes(rig.source, path) == bytes(SIZE_MIB * MIB)


async def test_nothing_is_made_or_removed_among_the_devices(rig: Rig) -> None:
    storage = (await rig.host(rig.source)).storage
    path = "/dev/fsm-contract/none"
    for change in (storage.remove(path), storage.create_sparse(path, MIB)):
        with pytest.raises(HostError, match="devices"):
            await change
    overlay = Overlay("vda", path, f"{rig.images}/none", "qcow2")
    with pytest.raises(HostError, match="devices"):
        await storage.create_overlay(overlay, MIB)
    assert await storage.pool_state("/dev/fsm-contract") is PoolState.NONE


async def test_an_image_ends_before_its_device(rig: Rig) -> None:
    path = rig.device(rig.source, SIZE_MIB)
    uuid = rig.domain("web", (on_device(path),))
    host = await rig.host(rig.source)
    facts = await stat_of(host, path)
    assert (facts.size_bytes, facts.capacity_bytes, facts.format) == (SIZE_MIB * MIB, 16 * MIB, "qcow2")
    empty = await image_end(host.storage, path)
    rig.take_snapshot(rig.source, uuid, "s1")
    assert 0 < empty < await image_end(host.storage, path) < SIZE_MIB * MIB


async def test_an_overlay_beside_a_disk_on_a_device_is_a_file(rig: Rig) -> None:
    path = rig.device(rig.source, SIZE_MIB)
    uuid = rig.domain("web", (on_device(path),))
    host = await rig.host(rig.source)
    assert disk_of(await facts_of(host, uuid), "vda").source_type == "block"
    overlay = Overlay("vda", f"{rig.images}/web.overlay", path, "qcow2")
    await host.create_overlays(uuid, (overlay,))
    disk = disk_of(await facts_of(host, uuid), "vda")
    assert (disk.source_type, disk.chain) == ("file", (overlay.path, path))
    assert (await stat_of(host, overlay.path)).backing == path
    rig.write(rig.source, uuid, "vda", 2 * MIB, MIB, 0x5A)
    await committed(host, uuid, overlay)
    disk = disk_of(await facts_of(host, uuid), "vda")
    assert (disk.source_type, disk.chain) == ("block", (path,))
    assert "type='block'" in (await host.persistent_xml(uuid)).replace('"', "'")
    assert rig.holds(rig.source, uuid, "vda", 2 * MIB, MIB, 0x5A)
