"""Reads both hosts at one moment and puts what was read into the machine's terms."""

from __future__ import annotations

import asyncio

from fsm.engine.context import Hosts
from fsm.engine.plan import Plan, Side
from fsm.errors import HostError
from fsm.hypervisor.values import DomainFacts
from fsm.machine.observation import Disk, Domain, DomainState, Host, Layer, layer_of


async def observe_hosts(
    hosts: Hosts, plan: Plan | None, fenced: frozenset[Side] = frozenset()
) -> tuple[Host, Host]:
    """The source and the destination as they are now, read at the same time.

    ``fenced`` are the sides that the operator attests to be off; it counts only while they can't be reached.
    Before there is a plan, nothing is known to ask for: both hosts count as known and empty.
    """
    if plan is None:
        return Host(reachable=True), Host(reachable=True)
    source, destination = await asyncio.gather(*(_observe(hosts, plan, side, fenced) for side in Side))
    return source, destination


async def _observe(hosts: Hosts, plan: Plan, side: Side, fenced: frozenset[Side]) -> Host:
    try:
        host = await hosts.get(side)
        facts = await host.domain(plan.domain_uuid)
    except HostError:
        # Whatever the reason: a host that could not be read is a host of which nothing is known.
        return Host(reachable=False, fenced=side in fenced)
    return Host(reachable=True, domain=None if facts is None else in_machine_terms(facts, plan))


def in_machine_terms(facts: DomainFacts, plan: Plan) -> Domain:
    """A domain's facts reduced to what decisions depend on; only planned disks count."""
    active = facts.state is not DomainState.SHUT_OFF
    by_target = {disk.target: disk for disk in facts.disks}
    disks = []
    for overlay in plan.overlays:
        found = by_target.get(overlay.target)
        if found is None:
            disks.append(Disk(overlay.target, Layer.FOREIGN))
            continue
        layer = layer_of(found.chain, overlay.base, overlay.path, active=active)
        disks.append(Disk(overlay.target, layer, found.chain, found.block_job))
    marker = facts.marker
    return Domain(
        state=facts.state,
        reason=facts.reason,
        job=facts.job,
        disks=tuple(disks),
        snapshots=facts.snapshots,
        current_snapshot=facts.current_snapshot,
        marker=marker.migration if marker else None,
        marked_by_another=marker is not None and not plan.owns(marker),
    )
