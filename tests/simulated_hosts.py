"""Two simulated hosts, and the steps of a migration between them by hand."""

from __future__ import annotations

from fsm.hypervisor.domain_xml import with_disk_sources
from fsm.hypervisor.port import Host
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.hypervisor.values import DomainFacts, MigrationRequest, Overlay
from fsm.images.base_copy import copy_file
from fsm.images.transfer import whole_file

A, B = "sim://a/system", "sim://b/system"
IMAGES = "/var/lib/libvirt/images"


def two_hosts() -> SimulatedWorld:
    """Hosts without a domain."""
    made = SimulatedWorld()
    made.add_host(A)
    made.add_host(B)
    return made


async def facts_of(host: Host, uuid: str) -> DomainFacts:
    facts = await host.domain(uuid)
    assert facts is not None
    return facts


async def overlay_at(world: SimulatedWorld, uri: str, uuid: str) -> Overlay:
    """Put the domain's first disk on an overlay."""
    host = await world.connect(uri)
    base = (await facts_of(host, uuid)).disks[0].source
    overlay = Overlay("vda", f"{base}.overlay", base, "qcow2")
    await host.create_overlays(uuid, [overlay])
    return overlay


async def prepare(world: SimulatedWorld, uuid: str) -> tuple[Overlay, MigrationRequest]:
    """Everything up to the migration."""
    source, destination = await world.connect(A), await world.connect(B)
    overlay = await overlay_at(world, A, uuid)
    facts = await source.storage.stat(overlay.base)
    assert facts is not None
    await destination.storage.create_sparse(overlay.base, facts.size_bytes)
    await copy_file(world, A, B, overlay.base, whole_file(facts.size_bytes))
    await source.forget_snapshots(uuid, [one.name for one in await source.snapshots(uuid)])
    await destination.storage.create_overlay(overlay, facts.capacity_bytes)
    disks = {"vda": (overlay.path, "qcow2")}
    request = MigrationRequest(
        B,
        with_disk_sources(await source.domain_xml(uuid), disks),
        with_disk_sources(await source.persistent_xml(uuid), disks),
        ("vda",),
    )
    return overlay, request


async def commit(host: Host, uuid: str, overlay: Overlay) -> None:
    """Commit and pivot."""
    await host.start_commit(uuid, overlay)
    watch = host.watch(uuid)
    for _ in range(1000):
        job = (await facts_of(host, uuid)).disks[0].block_job
        assert job is not None
        if job.ready:
            break
        await watch.changed(1)
    await host.pivot(uuid, "vda")
