"""Which domain of a host stands on a file, before that is removed."""

from __future__ import annotations

from contextlib import suppress

from fsm.engine.checks import may_be_shown
from fsm.engine.context import Context
from fsm.engine.plan import PoolBefore, Side
from fsm.engine.space import directory_of
from fsm.errors import HostError, HostUnreachable, NotFound
from fsm.hypervisor import firmware_xml
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DiskFacts, DomainFacts
from fsm.journal.records import converter
from fsm.machine.observation import DomainState


async def user_of(context: Context, side: Side, path: str) -> str:
    """The name of a domain of that host that has this file in a disk's chain, or its UEFI variables in it.

    Empty without one. Of one that is shut off libvirt tells the active layer alone; the files themselves name
    those below.
    """
    host = await context.host(side)
    for uuid in await host.domains():
        facts = await host.domain(uuid)
        if facts is None:
            continue
        for disk in facts.disks:
            chain = await _chain(context, side, facts, disk)
            if chain is None or path in chain:
                return facts.name
        with suppress(NotFound):  # it is gone by now
            if path == firmware_xml.variables_file(await host.domain_xml(uuid)):
                return facts.name
    return ""


async def _chain(context: Context, side: Side, facts: DomainFacts, disk: DiskFacts) -> list[str] | None:
    """What the disk stands on; None where that may be anything."""
    chain = list(disk.chain)
    if disk.source_type == "volume" and chain:
        # The active layer is named by its pool here, whether the domain runs or not.
        try:
            chain[0] = await _path_of(await context.host(side), chain[0])
        except NotFound:
            return chain[1:]
    lies_here = disk.source_type in ("file", "block", "volume") and bool(chain)
    if facts.state is not DomainState.SHUT_OFF or not lies_here:
        return chain
    # What a raw disk holds is the guest's, whatever it looks like.
    below: str | None = chain[0] if disk.format != "raw" else None
    while below is not None:  # bounded: no file comes twice
        if not below or not may_be_shown(below):
            return None
        await note_directory(context, side, directory_of(below))
        try:
            found = await (await context.host(side)).storage.stat(below)
        except NotFound:
            break
        below = found.backing if found is not None and found.backing not in chain else None
        if below is not None:
            chain.append(below)
    return chain


async def _path_of(host: Host, volume: str) -> str:
    """The path of ``POOL/NAME``, empty where that is no file of a directory. ``NotFound`` without a pool."""
    pool, _, name = volume.partition("/")
    try:
        return f"{await host.storage.pool_directory(pool)}/{name}"
    except (HostUnreachable, NotFound):
        raise
    except HostError:
        return ""


async def note_directory(context: Context, side: Side, directory: str) -> None:
    """Before it is opened: what the migration's end has to put back."""
    pools = context.history.pools
    if any((pool.side, pool.directory) == (side, directory) for pool in pools):
        return
    was = await (await context.host(side)).storage.pool_state(directory)
    noted = (*pools, PoolBefore(side, directory, was))
    await context.note("look-into-directory", {"pools": converter.unstructure(noted)})
