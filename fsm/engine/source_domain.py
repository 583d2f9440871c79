"""What is left of the domain at the source once the destination has it: an instance, its definition."""

from __future__ import annotations

from fsm.engine.context import Context
from fsm.engine.plan import Side
from fsm.engine.removal import leave
from fsm.errors import ActionFailed
from fsm.hypervisor.port import Host
from fsm.machine.observation import DomainState, Merge


async def destroy_source_instance(context: Context) -> None:
    """Destroy the instance that has handed over; its definition is removed at the end."""
    source = await context.host(Side.SOURCE)
    facts = await source.domain(context.planned.domain_uuid)
    if facts is None or facts.state is DomainState.SHUT_OFF:
        return
    if facts.state is not DomainState.PAUSED:
        raise ActionFailed(
            "destroy-source-instance", f"{source.uri}: the instance is not paused", retryable=False
        )
    await source.destroy(facts.uuid)


async def undefine_source(context: Context) -> None:
    """Remove the definition at the source; libvirt normally has done so."""
    if context.is_fenced(Side.SOURCE):
        leave(
            context,
            f"{context.request.shown_uri(Side.SOURCE)}: the definition of {context.planned.domain_name}",
        )
        return
    source = await context.host(Side.SOURCE)
    facts = await source.domain(context.planned.domain_uuid)
    if facts is None:
        return
    if facts.state is not DomainState.SHUT_OFF:
        raise ActionFailed("undefine-source", f"{source.uri}: the domain is active there", retryable=False)
    if context.planned.merge is Merge.NONE:
        await _expect_unused(context, source)
    await source.undefine(facts.uuid)


async def _expect_unused(context: Context, source: Host) -> None:
    """Nothing keeps the user of a domain that is shut off from running it there until it is undefined."""
    for base in context.copied_bases:
        found = await source.storage.stat(base.path)
        if found is not None and base.modified and found.modified != base.modified:
            there = context.request.shown_uri(Side.DESTINATION)
            raise ActionFailed(
                "undefine-source",
                f"{source.uri}: {base.path} was written to since it was copied: somebody may have run the "
                "domain there",
                retryable=False,
                remedy="find out which host has the current data and undefine the domain at the other one, "
                f"{there} or {source.uri} (virsh undefine --snapshots-metadata --keep-nvram); then: "
                f"fsm retry {context.migration}",
            )
