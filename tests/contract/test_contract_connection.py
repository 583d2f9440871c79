"""Connecting to hosts, and losing them."""

from __future__ import annotations

import asyncio
import time

import pytest

from fsm.errors import BadInput, HostUnreachable
from tests.contract.contract_rig import Rig


@pytest.mark.parametrize("uri", ["", "  ", "://alpha/system"])
async def test_a_malformed_uri_is_bad_input(rig: Rig, uri: str) -> None:
    with pytest.raises(BadInput):
        await rig.connector.connect(uri)
    with pytest.raises(BadInput):
        rig.connector.open_channel(uri)


async def test_a_host_that_is_not_there_is_unreachable_and_the_error_says_what_to_do(rig: Rig) -> None:
    with pytest.raises(HostUnreachable) as caught:
        await rig.connector.connect(rig.nowhere)
    assert caught.value.host == rig.nowhere
    assert caught.value.remedy
    with pytest.raises(HostUnreachable):
        await asyncio.to_thread(rig.connector.open_channel, rig.nowhere)


async def test_hosts_tell_who_they_are(rig: Rig) -> None:
    source, destination = await rig.host(rig.source), await rig.host(rig.destination)
    one, other = await source.identity(), await destination.identity()
    assert source.uri == rig.source
    assert one.uuid != other.uuid
    assert one.hostname != other.hostname
    assert one.libvirt_version >= (9, 0, 0)
    assert one.hypervisor_version >= (7, 0, 0)


async def test_an_isolated_host_is_unreachable_soon_and_found_again_by_itself(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.hasty.connect(rig.source)
    assert await host.domain(uuid) is not None
    rig.isolate(rig.source)
    began = time.monotonic()
    with pytest.raises(HostUnreachable):
        await host.domain(uuid)
    with pytest.raises(HostUnreachable):
        await host.storage.stat(f"{rig.images}/x")
    with pytest.raises(HostUnreachable):
        await rig.hasty.connect(rig.source)
    assert time.monotonic() - began < 20
    rig.rejoin(rig.source)
    assert await host.domain(uuid) is not None
    await host.close()


async def test_a_closed_host_can_be_closed_again_and_asked_again(rig: Rig) -> None:
    host = await rig.connector.connect(rig.source)
    await host.close()
    await host.close()
    assert (await host.identity()).uuid
    await host.close()


async def test_a_watch_wakes_on_a_change_and_only_then(rig: Rig) -> None:
    uuid = rig.domain("web", running=False)
    rig.domain("other")
    host = await rig.host(rig.source)
    watch = host.watch(uuid)
    other = host.watch(await host.resolve("other"))
    assert not await watch.changed(0.3)
    await host.start_paused(uuid)
    assert await watch.changed(10)
    rig.pause(rig.source, await host.resolve("other"))
    assert await other.changed(10)
    watch.close()
    other.close()
    other.close()


async def test_a_watch_wakes_when_somebody_else_ends_the_domain(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    watch = host.watch(uuid)
    waiting = asyncio.ensure_future(_first_change(host.watch(uuid)))
    await asyncio.sleep(0)
    rig.kill_qemu(rig.source, uuid)
    assert await waiting
    assert await watch.changed(10)
    watch.close()


async def _first_change(watch) -> bool:  # type: ignore[no-untyped-def]
    for _ in range(100):
        if await watch.changed(0.2):
            return True
    return False
