"""What the libvirt binding does when a libvirtd dies, hangs or is cut off, and when a QEMU hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from fsm.errors import HostError, HostUnreachable, OutcomeUnknown
from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.libvirt.host import LibvirtHost
from fsm.hypervisor.port import Host
from fsm.lab import Lab, LabHost
from fsm.machine.observation import DomainState
from tests.lab_rig import NEEDS_LAB
from tests.libvirt_helpers import IMAGES, define, facts_of, image, overlays_of, remove

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.libvirt_fixtures"]

DEADLINE_S = 2.0


@pytest.fixture
def uuid(lab: Lab, alpha: LabHost) -> Iterator[str]:
    image(alpha, f"{IMAGES}/a.qcow2")
    yield define(alpha, "guest", {"vda": f"{IMAGES}/a.qcow2"})
    lab.mend()
    alpha.start_libvirtd()
    remove(alpha, "guest")
    for path in alpha.path(IMAGES).iterdir():
        path.unlink()


@pytest.fixture
async def host(alpha: LabHost) -> AsyncIterator[Host]:
    opened = await LibvirtConnector(deadline_s=DEADLINE_S).connect(alpha.uri)
    yield opened
    await opened.close()


@contextmanager
def frozen(alpha: LabHost) -> Iterator[None]:
    pid = alpha.libvirtd_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_restarted_libvirtd_is_found_again(alpha: LabHost, host: Host, uuid: str) -> None:
    watch = host.watch(uuid)
    before = await host.domain(uuid)
    alpha.kill_libvirtd()
    assert await watch.changed(5)
    with pytest.raises(HostUnreachable) as caught:
        await host.domain(uuid)
    assert caught.value.remedy
    with pytest.raises(HostUnreachable):
        await host.resume(uuid)
    alpha.start_libvirtd()
    assert await host.domain(uuid) == before
    while await watch.changed(0.3):
        pass  # the old connection's end and the new one's beginning
    await host.resume(uuid)
    assert await watch.changed(5)
    watch.close()


async def test_a_libvirtd_restarted_unseen(alpha: LabHost, host: Host, uuid: str) -> None:
    alpha.kill_libvirtd()
    alpha.start_libvirtd()
    await host.resume(uuid)
    assert (await facts_of(host, uuid)).state is DomainState.RUNNING


async def test_a_libvirtd_that_dies_under_a_call(alpha: LabHost, host: Host, uuid: str) -> None:
    pid = alpha.libvirtd_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    question = asyncio.create_task(host.domain(uuid))
    change = asyncio.create_task(host.resume(uuid))
    await asyncio.sleep(0.3)
    alpha.kill_libvirtd()
    with pytest.raises(HostUnreachable):
        await question
    with pytest.raises(OutcomeUnknown) as caught:
        await change
    assert caught.value.remedy


async def test_a_libvirtd_that_hangs(alpha: LabHost, host: Host, uuid: str) -> None:
    with frozen(alpha):
        began = time.monotonic()
        results = await asyncio.gather(
            *(host.domain(uuid) for _ in range(20)), host.resume(uuid), return_exceptions=True
        )
        assert time.monotonic() - began < 2 * DEADLINE_S + 1
        assert {type(result) for result in results[:-1]} == {HostUnreachable}
        assert isinstance(results[-1], HostUnreachable)  # it waited for a thread and was not begun
        with pytest.raises(HostUnreachable):
            await host.resume(uuid)
    async with asyncio.timeout(10):
        assert await host.domain(uuid) is not None


async def test_a_change_that_hangs_has_an_unknown_outcome(alpha: LabHost, host: Host, uuid: str) -> None:
    with frozen(alpha):
        with pytest.raises(OutcomeUnknown, match="no answer within"):
            await host.resume(uuid)
        with pytest.raises(HostUnreachable, match="no connection"):
            await LibvirtConnector(deadline_s=1).connect(alpha.uri)


async def test_a_cancelled_call_leaves_the_host_usable(alpha: LabHost, host: Host, uuid: str) -> None:
    with frozen(alpha):
        tasks = [asyncio.create_task(host.domain(uuid)) for _ in range(10)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await host.domain(uuid) is not None


async def test_a_qemu_that_hangs_blocks_its_own_domain_only(alpha: LabHost, host: Host, uuid: str) -> None:
    image(alpha, f"{IMAGES}/b.qcow2")
    other = define(alpha, "other", {"vda": f"{IMAGES}/b.qcow2"})
    await host.create_overlays(uuid, overlays_of(await facts_of(host, uuid)))
    alpha.stop_qemu("guest")
    try:
        with pytest.raises(HostError):
            await host.resume(uuid)
        began = time.monotonic()
        with pytest.raises(HostUnreachable):
            await host.domain(uuid)
        assert time.monotonic() - began < 2 * DEADLINE_S
        await asyncio.sleep(3)  # from then on libvirt is not asked any more
        began = time.monotonic()
        with pytest.raises(HostUnreachable, match="has not answered"):
            await host.domain(uuid)
        with pytest.raises(HostUnreachable, match="has not answered"):
            await host.migration_progress(uuid)
        assert time.monotonic() - began < 2 * DEADLINE_S  # what asking twice would take
        await host.resume(other)
        assert (await facts_of(host, other)).state is DomainState.RUNNING
    finally:
        alpha.continue_qemu("guest")
        remove(alpha, "other")
    async with asyncio.timeout(60):
        while await state_of(host, uuid) is None:  # until libvirtd has let go of the calls that hung
            pass


async def state_of(host: Host, uuid: str) -> DomainState | None:
    try:
        return (await facts_of(host, uuid)).state
    except HostUnreachable:
        return None


async def test_a_host_that_is_cut_off(lab: Lab, alpha: LabHost, host: Host, uuid: str) -> None:
    watch = host.watch(uuid)
    channel = LibvirtConnector().open_channel(alpha.uri)
    lab.cut(alpha)
    with pytest.raises(HostUnreachable):
        await host.domain(uuid)
    assert await watch.changed(30)  # by keepalive
    began = time.monotonic()
    with pytest.raises(HostError):
        channel.writer(f"{IMAGES}/a.qcow2")
    assert time.monotonic() - began < 25
    channel.close()
    lab.mend()
    async with asyncio.timeout(30):
        while await state_of(host, uuid) is None:
            pass
    watch.close()


async def test_what_a_libvirtd_is_late_with_goes_no_further(alpha: LabHost, host: Host) -> None:
    """Else it would remove a file that has got the name since."""
    path = f"{IMAGES}/late.img"
    alpha.path(path).write_bytes(b"precious")
    assert isinstance(host, LibvirtHost)
    with frozen(alpha), pytest.raises(OutcomeUnknown, match="remove was begun"):
        await host.storage.remove(path)
    (late,) = host._link._hung
    assert await asyncio.to_thread(late.closed.wait, 20)  # once its last call has ended
    assert alpha.path(path).read_bytes() == b"precious"
    await host.storage.remove(path)
    assert not alpha.path(path).exists()
