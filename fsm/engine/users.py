"""Which domain of a host stands on a file, before that is removed."""

from __future__ import annotations

from contextlib import suppress

from attrs import frozen

from fsm.engine.checks import may_be_shown
from fsm.engine.context import Context
from fsm.engine.plan import PoolBefore, Side
from fsm.engine.space import by_directory, directory_of
from fsm.errors import HostError, HostUnreachable, NotFound
from fsm.hypervisor import firmware_xml
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DiskFacts, DomainFacts, FileFacts, is_among_devices
from fsm.journal.records import converter
from fsm.machine.observation import DomainState


@frozen
class User:
    """A domain that has a file. ``is_known`` is False where nobody can tell what files it has."""

    name: str
    is_known: bool = True


async def user_of(context: Context, side: Side, file: FileFacts, *, by_path: bool = True) -> User | None:
    """A domain of that host that has this file in a disk's chain, or its UEFI variables in it.

    A file may have many paths, as directories may be links: what is as long and was written at the same
    moment is taken for the same one. Of a domain that is shut off libvirt tells the active layer alone; the
    files themselves name those below. ``by_path``: a file of the same path is it.
    """
    host = await context.host(side)
    users: dict[str, str] = {}
    for uuid in await host.domains():
        facts = await host.domain(uuid)
        if facts is None:
            continue
        files = await _files(context, side, facts)
        if files is None:
            return User(facts.name, is_known=False)
        if by_path and file.path in files:
            return User(facts.name)
        users |= dict.fromkeys(files, facts.name)
    return await _by_another_path(context, side, file, users)


async def _by_another_path(
    context: Context, side: Side, file: FileFacts, users: dict[str, str]
) -> User | None:
    """The one of ``users``, which are domains by the files that they have, that has this file."""
    host = await context.host(side)
    for directory, paths in by_directory(users).items():
        await note_directory(context, side, directory)
        try:
            found = (await host.storage.space(directory, paths)).files
        except HostUnreachable:
            raise
        except NotFound:
            continue
        except HostError:
            return User(users[paths[0]], is_known=False)
        for one in found:
            if (one.size_bytes, one.modified) == (file.size_bytes, file.modified):
                return User(users[one.path])
    return None


async def _files(context: Context, side: Side, facts: DomainFacts) -> list[str] | None:
    """The files that a domain has; None where those may be any."""
    files = []
    for disk in facts.disks:
        chain = await _chain(context, side, facts, disk)
        if chain is None:
            return None
        # A device is no file, and what else there is under its directory is not to be opened.
        files += [path for path in chain if path.startswith("/") and not is_among_devices(path)]
    with suppress(NotFound):  # it is gone by now
        files.append(firmware_xml.variables_file(await (await context.host(side)).domain_xml(facts.uuid)))
    return [path for path in files if path]


async def _chain(context: Context, side: Side, facts: DomainFacts, disk: DiskFacts) -> list[str] | None:
    """What the disk stands on; None where that may be anything."""
    chain = list(disk.chain)
    if disk.source_type == "volume" and chain:
        # The active layer is named by its pool here, whether the domain runs or not.
        try:
            chain[0] = await path_of_volume(await context.host(side), chain[0])
        except HostUnreachable:
            raise
        except NotFound:
            return chain[1:]
        except HostError:
            return None
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
        except HostUnreachable:
            raise
        except NotFound:
            break
        except HostError:
            return None
        below = found.backing if found is not None and found.backing not in chain else None
        if below is not None:
            chain.append(below)
    return chain


async def path_of_volume(host: Host, volume: str) -> str:
    """The path of ``POOL/NAME``. ``NotFound`` without such a pool, ``HostError`` for one of no directory."""
    pool, _, name = volume.partition("/")
    return f"{await host.storage.pool_directory(pool)}/{name}"


async def note_directory(context: Context, side: Side, directory: str) -> None:
    """Before it is opened: what the migration's end has to put back."""
    pools = context.history.pools
    if any((pool.side, pool.directory) == (side, directory) for pool in pools):
        return
    was = await (await context.host(side)).storage.pool_state(directory)
    noted = (*pools, PoolBefore(side, directory, was))
    await context.note("look-into-directory", {"pools": converter.unstructure(noted)})
