"""Live migrations between two real libvirtds, seen from both sides while they run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from attrs import evolve

from fsm.errors import HostError, HostUnreachable, NotFound, OutcomeUnknown
from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DomainFacts, MigrationRequest, Overlay, PoolState, Tuning
from fsm.lab import Lab
from fsm.machine.observation import DomainState, Job
from tests.lab_rig import NEEDS_LAB
from tests.libvirt_helpers import (
    IMAGES,
    NAME,
    define,
    facts_of,
    image,
    overlays_of,
    remove,
    until,
    until_ready,
)

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.libvirt_fixtures"]

SLOW_MIB_PER_S = 2
MIB = 1 << 20


@pytest.fixture
def uuid(lab: Lab) -> Iterator[str]:
    disks = {"vda": f"{IMAGES}/a b & <c>.qcow2", "vdb": f"{IMAGES}/it's.qcow2"}
    for path in disks.values():
        image(lab.hosts[0], path, "32M")
        image(lab.hosts[1], path, "32M")  # in place of a copy: what the guest would read does not matter here
    yield define(lab.hosts[0], NAME, disks)
    lab.mend()
    for host in lab.hosts:
        host.start_libvirtd()
    for host in lab.hosts:
        remove(host, NAME)
        for path in host.path(IMAGES).iterdir():
            path.unlink()


@pytest.fixture
async def source(lab: Lab) -> AsyncIterator[Host]:
    opened = await LibvirtConnector().connect(lab.hosts[0].uri)
    yield opened
    await opened.close()


@pytest.fixture
async def destination(lab: Lab) -> AsyncIterator[Host]:
    opened = await LibvirtConnector().connect(lab.hosts[1].uri)
    yield opened
    await opened.storage.release(IMAGES, PoolState.NONE)
    await opened.close()


async def prepare(
    lab: Lab, source: Host, destination: Host, uuid: str, *, bandwidth: int = 0, data_mib: int = 0
) -> tuple[MigrationRequest, tuple[Overlay, ...]]:
    """Overlays on both sides, with so much data in the source's first one, and the request."""
    overlays = overlays_of(await facts_of(source, uuid))
    await source.create_overlays(uuid, overlays)
    if data_mib:
        await source.destroy(uuid)
        lab.hosts[0].run(["qemu-io", "-c", f"write -P 77 0 {data_mib}M", overlays[0].path])
        await source.start_paused(uuid)
    for overlay in overlays:
        await destination.storage.create_overlay(overlay, 32 * MIB)
    live, defined = await source.domain_xml(uuid), await source.persistent_xml(uuid)
    request = MigrationRequest(
        destination_uri=destination.uri,
        destination_xml=domain_xml.with_disk_sources(
            live, {overlay.target: (overlay.path, "qcow2") for overlay in overlays}
        ),
        persistent_xml=domain_xml.with_disk_sources(
            defined, {overlay.target: (overlay.base, overlay.base_format) for overlay in overlays}
        ),
        disks=tuple(overlay.target for overlay in overlays),
        bandwidth_mib_per_s=bandwidth,
    )
    return request, overlays


def mirroring(facts: DomainFacts | None) -> bool:
    return facts is not None and any(disk.block_job is not None for disk in facts.disks)


@pytest.mark.parametrize("paused", [True, False])
async def test_a_migration_seen_from_both_sides(
    lab: Lab,
    source: Host,
    destination: Host,
    uuid: str,
    paused: bool,  # noqa: FBT001
) -> None:
    request, overlays = await prepare(lab, source, destination, uuid, bandwidth=SLOW_MIB_PER_S, data_mib=6)
    if not paused:
        await source.resume(uuid)
    watch = source.watch(uuid)
    task = asyncio.create_task(source.migrate(uuid, request))
    jobs, reasons, figures, waking = set(), set(), set(), 0
    while not task.done():
        here, there = await asyncio.gather(source.domain(uuid), destination.domain(uuid))
        progress = await source.migration_progress(uuid)
        jobs.add((here and here.job, there and there.job))
        if there is not None:
            reasons.add((there.state, there.reason))
            assert here is None or [disk.chain[0] for disk in there.disks] == [o.path for o in overlays]
        if progress is not None:
            figures.add(progress)
        waking += await watch.changed(0.05)
    await task
    assert (Job.MIGRATION_OUT, Job.MIGRATION_IN) in jobs
    assert (DomainState.PAUSED, "migration") in reasons
    assert len(figures) > 1  # how many is a matter of how often this test was given the processor
    assert max(progress.disk_done_bytes for progress in figures) >= 6 * MIB
    assert max(progress.memory_done_bytes for progress in figures) > MIB
    assert waking > 1
    assert await source.domain(uuid) is None
    arrived = await facts_of(destination, uuid)
    assert arrived.state is (DomainState.PAUSED if paused else DomainState.RUNNING)
    assert arrived.job is Job.NONE
    assert arrived.persistent
    assert [disk.chain for disk in arrived.disks] == [(o.path, o.base) for o in overlays]
    for overlay in overlays:
        await destination.start_commit(uuid, overlay)
        await until_ready(destination, uuid, overlay.target)
        await destination.pivot(uuid, overlay.target)
    await destination.destroy(uuid)
    left = await facts_of(destination, uuid)
    assert [disk.chain for disk in left.disks] == [(o.base,) for o in overlays]
    told = lab.hosts[1].run(["qemu-io", "-r", "-c", "read -P 77 0 6M", overlays[0].base])
    assert "read 6291456/6291456 bytes" in told
    assert "verification failed" not in told
    watch.close()


async def test_an_aborted_migration(lab: Lab, source: Host, destination: Host, uuid: str) -> None:
    request, overlays = await prepare(lab, source, destination, uuid, bandwidth=SLOW_MIB_PER_S, data_mib=12)
    await source.abort_job(uuid)
    downtime = ("migrate-getmaxdowntime", "--domain", NAME)
    before = lab.hosts[0].virsh(*downtime)
    tuned = evolve(request, tuning=Tuning(max_downtime_ms=777))
    task = asyncio.create_task(source.migrate(uuid, tuned))
    await until(source, uuid, mirroring)
    assert lab.hosts[0].virsh(*downtime).strip() == "777"
    assert await source.migration_progress(uuid) is not None
    assert await destination.migration_progress(uuid) is not None
    await destination.abort_job(uuid)  # there is nothing to abort at that side
    await source.abort_job(uuid)
    with pytest.raises(HostError) as caught:
        await task
    assert type(caught.value) is HostError
    assert caught.value.call == "migrate"
    await source.abort_job(uuid)
    assert lab.hosts[0].virsh(*downtime) == before
    assert await source.migration_progress(uuid) is None
    stayed = await facts_of(source, uuid)
    assert (stayed.state, stayed.job) == (DomainState.PAUSED, Job.NONE)
    assert not mirroring(stayed)
    await until(destination, uuid, lambda facts: facts is None)
    for overlay in overlays:
        await destination.storage.remove(overlay.path)
        await source.start_commit(uuid, overlay)
        await until_ready(source, uuid, overlay.target)
        await source.pivot(uuid, overlay.target)


async def test_a_cancelled_task_leaves_the_migration_running(
    lab: Lab, source: Host, destination: Host, uuid: str
) -> None:
    request, _ = await prepare(lab, source, destination, uuid, bandwidth=SLOW_MIB_PER_S, data_mib=6)
    task = asyncio.create_task(source.migrate(uuid, request))
    await until(source, uuid, mirroring)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await source.close()
    assert (await facts_of(source, uuid)).job is Job.MIGRATION_OUT
    await until(source, uuid, lambda facts: facts is None)
    assert (await facts_of(destination, uuid)).state is DomainState.PAUSED


async def test_two_migrations_at_once_are_refused(
    lab: Lab, source: Host, destination: Host, uuid: str
) -> None:
    request, _ = await prepare(lab, source, destination, uuid, bandwidth=SLOW_MIB_PER_S, data_mib=6)
    first = asyncio.create_task(source.migrate(uuid, request))
    await until(source, uuid, mirroring)
    with pytest.raises(HostError) as caught:
        await source.migrate(uuid, request)
    assert type(caught.value) is HostError
    await first


async def test_migrations_that_can_not_begin(lab: Lab, source: Host, destination: Host, uuid: str) -> None:
    request, overlays = await prepare(lab, source, destination, uuid)
    with pytest.raises(NotFound):
        await source.migrate("6f1b0f6e-3a43-4c11-8a2c-0d6c1d6f7a11", request)
    await destination.storage.remove(overlays[0].path)
    with pytest.raises(HostError, match="pre-creation"):
        await source.migrate(uuid, request)
    assert await destination.domain(uuid) is None
    lab.hosts[1].kill_libvirtd()
    with pytest.raises(HostError, match="refused") as caught:
        await source.migrate(uuid, request)
    assert type(caught.value) is HostError
    lab.hosts[0].kill_libvirtd()
    with pytest.raises(HostUnreachable):
        await source.migrate(uuid, request)


async def test_the_destinations_qemu_dies(lab: Lab, source: Host, destination: Host, uuid: str) -> None:
    request, _ = await prepare(lab, source, destination, uuid, bandwidth=SLOW_MIB_PER_S, data_mib=12)
    task = asyncio.create_task(source.migrate(uuid, request))
    await until(source, uuid, mirroring)
    lab.hosts[1].kill_qemu(NAME)
    with pytest.raises(HostError) as caught:
        await task
    assert type(caught.value) is HostError
    assert (await facts_of(source, uuid)).job is Job.NONE
    await until(destination, uuid, lambda facts: facts is None)


async def test_the_sources_libvirtd_dies(lab: Lab, source: Host, destination: Host, uuid: str) -> None:
    request, _ = await prepare(lab, source, destination, uuid, bandwidth=SLOW_MIB_PER_S, data_mib=12)
    task = asyncio.create_task(source.migrate(uuid, request))
    await until(source, uuid, mirroring)
    lab.hosts[0].kill_libvirtd()
    with pytest.raises(OutcomeUnknown):
        await task
    lab.hosts[0].start_libvirtd()
    stayed = await facts_of(source, uuid)
    assert (stayed.state, stayed.job) == (DomainState.PAUSED, Job.NONE)
    await until(destination, uuid, lambda facts: facts is None, 60)


@pytest.mark.parametrize(("image_format", "size"), [("qcow2", 5 * MIB + 512), ("raw", 5 * MIB + 100)])
async def test_disks_of_odd_sizes(
    lab: Lab, source: Host, destination: Host, image_format: str, size: int
) -> None:
    """QEMU mirrors only between images of exactly one size, so the destination's overlay must have it."""
    path = f"{IMAGES}/odd"
    for host in lab.hosts:
        if image_format == "raw":
            host.path(path).write_bytes(b"x" * size)
        else:
            image(host, path, str(size))
    uuid = define(lab.hosts[0], NAME, {"vda": path}, image_format=image_format)
    try:
        (overlay,) = overlays_of(await facts_of(source, uuid))
        await source.create_overlays(uuid, [overlay])
        base = await source.storage.stat(path)
        await source.storage.release(IMAGES, PoolState.NONE)
        assert base is not None
        await destination.storage.create_overlay(overlay, base.capacity_bytes)
        request = MigrationRequest(
            destination_uri=destination.uri,
            destination_xml=domain_xml.with_disk_sources(
                await source.domain_xml(uuid), {"vda": (overlay.path, "qcow2")}
            ),
            persistent_xml=domain_xml.with_disk_sources(
                await source.persistent_xml(uuid), {"vda": (path, image_format)}
            ),
            disks=("vda",),
        )
        await source.migrate(uuid, request)
        await destination.start_commit(uuid, overlay)
        await until_ready(destination, uuid, "vda")
        await destination.pivot(uuid, "vda")
    finally:
        for host in lab.hosts:
            remove(host, NAME)
            for file in host.path(IMAGES).iterdir():
                file.unlink()
