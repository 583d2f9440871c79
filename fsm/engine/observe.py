"""Reads both hosts at one moment and puts what was read into the machine's terms."""

from __future__ import annotations

import asyncio

from attrs import evolve

from fsm.engine.context import Hosts
from fsm.engine.history import History
from fsm.engine.plan import Side
from fsm.errors import HostError, ImageCorrupt, NotFound
from fsm.hypervisor import port
from fsm.hypervisor.values import DomainFacts
from fsm.images.tables import look_at_image
from fsm.machine.observation import BlockJob, Disk, Domain, DomainState, Host, Job, Layer, layer_of


async def observe_hosts(hosts: Hosts, history: History) -> tuple[Host, Host]:
    """The source and the destination as they are now, read at the same time.

    A side that the operator attests to be off counts so only while it can't be reached. Before there is a
    plan, nothing is known to ask for: both hosts count as known and empty.
    """
    if history.plan is None:
        return Host(reachable=True), Host(reachable=True)
    uuid = history.plan.domain_uuid
    source, destination = await asyncio.gather(*(_observe(hosts, uuid, history, side) for side in Side))
    return source, _without_stranger(source, destination)


def _without_stranger(source: Host, destination: Host) -> Host:
    """The destination, with the word that a domain there is another's if it did not come by the migration.

    That brings the marker. It goes last of all: then the source does not have the domain any more.
    """
    here, there = source.domain, destination.domain
    if here is None or here.marker is None or there is None or there.marker is not None:
        return destination
    return evolve(destination, domain=evolve(there, marked_by_another=True))


async def _observe(hosts: Hosts, uuid: str, history: History, side: Side) -> Host:
    try:
        host = await hosts.get(side)
        domain = await look(host, side, uuid, history)
    except HostError:
        # Whatever the reason: a host that could not be read is a host of which nothing is known.
        return Host(reachable=False, fenced=side in history.fenced)
    return Host(reachable=True, domain=domain)


async def look(host: port.Host, side: Side, uuid: str, history: History) -> Domain | None:
    """The domain in the machine's terms, with what its overlays hold; None when the host has none."""
    facts = await host.domain(uuid)
    if facts is None or history.plan is None:
        return None
    domain = in_machine_terms(facts, side, history)
    if domain.job is not Job.NONE:  # a migration or a save may be writing the file just now
        return domain
    overlays = {overlay.target: overlay for overlay in history.plan.overlays_at(side)}
    bases = {overlay.target: overlay.base for overlay in history.plan.overlays}
    disks = [
        await _with_content(host, disk, overlays[disk.target].path, bases[disk.target], history)
        if disk.layer is Layer.OVERLAY
        else disk
        for disk in domain.disks
    ]
    return evolve(domain, disks=tuple(disks))


async def _with_content(host: port.Host, disk: Disk, path: str, base: str, history: History) -> Disk:
    """Add what the overlay file itself shows; ``base`` is what was recorded for it, by its path."""
    try:
        image = await look_at_image(host.storage, path)
    except (ImageCorrupt, NotFound) as error:
        return evolve(disk, damage=str(error))
    names = [snapshot.name for snapshot in image.snapshots]
    return evolve(
        disk,
        stored=tuple(name for name in names if name not in history.given_up),
        size=history.bases.fits(base, image.header.size_bytes),
    )


def in_machine_terms(facts: DomainFacts, side: Side, history: History) -> Domain:
    """A domain's facts reduced to what decisions depend on; only planned disks count."""
    plan = history.plan
    active = facts.state is not DomainState.SHUT_OFF
    by_target = {disk.target: disk for disk in facts.disks}
    disks = []
    for overlay in plan.overlays_at(side) if plan else ():
        found = by_target.get(overlay.target)
        if found is None:
            disks.append(Disk(overlay.target, Layer.FOREIGN))
            continue
        layer = layer_of(found.chain, overlay.base, overlay.path, active=active)
        job = found.block_job
        if side is Side.DESTINATION and job is not None and _is_our_pull(job, overlay.target, history):
            job = None
        disks.append(Disk(overlay.target, layer, found.chain, job))
    marker = facts.marker
    return Domain(
        state=facts.state,
        reason=facts.reason,
        job=facts.job,
        disks=tuple(disks),
        snapshots=facts.snapshots,
        current_snapshot=facts.current_snapshot,
        marker=marker.migration if marker else None,
        marked_by_another=marker is not None and plan is not None and not plan.owns(marker),
        unrecorded=_unrecorded(facts, history),
    )


def _is_our_pull(job: BlockJob, target: str, history: History) -> bool:
    """One that this migration has begun at its end: no alteration, and nothing to wait for."""
    return job.kind == "pull" and target in history.flattening


def _unrecorded(facts: DomainFacts, history: History) -> tuple[str, ...]:
    if not history.bases.bases:  # what there is has not been recorded yet
        return ()
    known = {snapshot.name for snapshot in history.bases.snapshots} | history.given_up
    return tuple(name for name in facts.snapshots if name not in known)
