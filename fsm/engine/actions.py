"""The actions that transitions name, bound to effects on the hosts.

Each makes it so, however far an earlier try came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import PurePosixPath

from fsm.engine.context import Context
from fsm.engine.marking import (
    complete_marker,
    mark_destination,
    mark_source,
    packed_for_marker,
    unmark_destination,
    unmark_source,
)
from fsm.engine.plan import Bases, PoolBefore, Side
from fsm.errors import ActionFailed, HostError
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Base, FileFacts
from fsm.journal.records import converter
from fsm.machine.observation import DomainState

Action = Callable[[Context], Awaitable[None]]

RELEASE_ATTEMPTS = 5


async def create_source_overlays(context: Context) -> None:
    """Put the overlays over their disks."""
    source = await context.host(Side.SOURCE)
    await source.create_overlays(context.planned.domain_uuid, context.planned.overlays)


async def save_bases(context: Context) -> None:
    """Record bases and snapshots; before the overlays existed they could still change."""
    source = await context.host(Side.SOURCE)
    bases = []
    for overlay in context.planned.overlays:
        facts = await source.storage.stat(overlay.base)
        if facts is None:
            raise ActionFailed(
                "save-bases", f"{source.uri} has lost the base {overlay.base}", retryable=False
            )
        facts = facts.used_as(overlay.base_format)
        sizes = (facts.size_bytes, facts.allocated_bytes, facts.capacity_bytes)
        bases.append(Base(overlay.base, overlay.base_format, *sizes))
    uuid = context.planned.domain_uuid
    snapshots = await source.snapshots(uuid)
    if external := [snapshot.name for snapshot in snapshots if snapshot.external]:
        raise ActionFailed(
            "save-bases",
            f"external snapshots have appeared since preflight: {', '.join(external)}",
            retryable=False,
            remedy="delete or commit them, then migrate again",
        )
    packed = await packed_for_marker(source, uuid, snapshots)
    xml, persistent = await source.domain_xml(uuid), await source.persistent_xml(uuid)
    context.outcome["bases"] = converter.unstructure(Bases(tuple(bases), snapshots, xml, persistent, packed))


def _is_ours(context: Context, base: Base, found: FileFacts) -> bool:
    """Whether a file at a copy's path was made by this migration.

    The journal says so; or the engine died between making the file and recording it: then the file has just
    the planned length and no data, and there is nothing in it that could be lost. What is known from a
    domain's marker alone must have the planned length, as a copy has on which no guest has run.
    """
    as_planned = found.size_bytes == base.size_bytes
    made = base.path in context.history.created and (as_planned or not context.history.adopted)
    return made or (as_planned and found.allocated_bytes == 0)


async def create_copies(context: Context) -> None:
    """Create each copy's file at the destination, as long as its base and all hole."""
    destination = await context.host(Side.DESTINATION)
    created: list[str] = context.outcome.setdefault("created", [])
    for base in context.history.bases.bases:
        found = await destination.storage.stat(base.path)
        if found is None:
            await destination.storage.create_sparse(base.path, base.size_bytes)
        elif not _is_ours(context, base, found):
            raise ActionFailed(
                "create-copies",
                f"{destination.uri}: {base.path} has appeared since preflight; it is left alone",
                retryable=False,
                remedy="move that file away, then migrate again",
            )
        created.append(base.path)


async def create_destination_overlays(context: Context) -> None:
    """Create an empty overlay on each copied base."""
    destination = await context.host(Side.DESTINATION)
    for overlay in context.planned.destination_overlays:
        # The name holds this migration's id: a file of that name is ours. Its content is of no worth before
        # the transfer begins, but one that libvirt has filled must not be taken for an empty one.
        if await destination.storage.stat(overlay.path) is not None:
            await destination.storage.remove(overlay.path)
        capacity_bytes = context.history.bases.of(overlay.base).capacity_bytes
        await destination.storage.create_overlay(overlay, capacity_bytes)


async def forget_source_snapshots(context: Context) -> None:
    """Drop the metadata at the source, unless there is some that the journal does not have."""
    source = await context.host(Side.SOURCE)
    uuid = context.planned.domain_uuid
    saved = {snapshot.name for snapshot in context.history.bases.snapshots}
    present = [snapshot.name for snapshot in await source.snapshots(uuid)]
    if unknown := [name for name in present if name not in saved]:
        raise ActionFailed(
            "forget-source-snapshots",
            f"{source.uri}: snapshots taken since the overlay was made: {', '.join(unknown)}",
            retryable=False,
            remedy="they lie in the overlay and would vanish with it: export what you need from them",
        )
    await source.forget_snapshots(uuid, present)


async def restore_source_snapshots(context: Context) -> None:
    """Define the recorded metadata at the source again."""
    source = await context.host(Side.SOURCE)
    await source.define_snapshots(context.planned.domain_uuid, context.history.bases.snapshots)


async def restore_destination_snapshots(context: Context) -> None:
    """Define the recorded metadata at the destination."""
    destination = await context.host(Side.DESTINATION)
    await destination.define_snapshots(context.planned.domain_uuid, context.history.bases.snapshots)


async def verify_destination_snapshots(context: Context) -> None:
    """Compare names, parents and the current one with what was recorded."""
    destination = await context.host(Side.DESTINATION)
    found = await destination.snapshots(context.planned.domain_uuid)
    wanted = {(s.name, s.parent, s.current) for s in context.history.bases.snapshots}
    if missing := wanted - {(s.name, s.parent, s.current) for s in found}:
        names = ", ".join(sorted(name for name, _, _ in missing))
        raise ActionFailed(
            "verify-destination-snapshots",
            f"{destination.uri}: these snapshots are not as they were: {names}",
            remedy="nothing is lost: the images hold the snapshots and the journal their metadata",
        )


async def resume_source(context: Context) -> None:
    """Resume the source instance where a failed migration left it paused."""
    source = await context.host(Side.SOURCE)
    facts = await source.domain(context.planned.domain_uuid)
    if facts and facts.state is DomainState.PAUSED and facts.reason == "migration":
        await source.resume(facts.uuid)


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
        _leave(
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
    await source.undefine(facts.uuid)


async def remove_source_overlays(context: Context) -> None:
    """Remove the overlay files at the source."""
    paths = [overlay.path for overlay in context.planned.overlays]
    if not context.history.bases.bases and not context.is_fenced(Side.SOURCE):
        await _check_unknown_to_qemu(context, paths)
    await _remove(context, Side.SOURCE, paths)


async def _check_unknown_to_qemu(context: Context, paths: Sequence[str]) -> None:
    """Their creation was begun, and not seen to succeed: QEMU may write to them without libvirt's knowledge.

    A libvirtd that is killed behind QEMU's switch to the overlays, before it has noted it, takes the bases
    for the active layers ever after (seen on libvirt 9.0).
    """
    source = await context.host(Side.SOURCE)
    for path in paths:
        if await source.storage.stat(path) is None or not await source.uses(
            context.planned.domain_uuid, path
        ):
            continue
        raise ActionFailed(
            "remove-source-overlays",
            f"{source.uri}: QEMU writes to {path}, of which its libvirt has lost track; it is left alone",
            retryable=False,
            remedy="shut the guest down from inside; then, on that host: "
            f"qemu-img commit {path} && rm {path}; then: fsm retry {context.migration}",
        )


async def remove_destination_overlays(context: Context) -> None:
    """Remove the overlay files at the destination."""
    paths = [overlay.path for overlay in context.planned.destination_overlays]
    await _remove(context, Side.DESTINATION, paths)


async def remove_copies(context: Context) -> None:
    """Remove the copied bases at the destination, only those that are ours."""
    bases = context.history.bases.bases
    if context.is_fenced(Side.DESTINATION):
        await _remove(context, Side.DESTINATION, sorted(context.history.created))
        return
    if not bases:
        return
    destination = await context.host(Side.DESTINATION)
    for base in bases:
        found = await destination.storage.stat(base.path)
        if found is None:
            continue
        if _is_ours(context, base, found):
            await _remove(context, Side.DESTINATION, [base.path])
        elif context.history.adopted:
            _leave(context, f"{destination.uri}: {base.path}, which may be a copy of this migration or not")


async def _remove(context: Context, side: Side, paths: list[str]) -> None:
    """Remove files, but never one that the domain on that host uses."""
    if context.is_fenced(side):
        for path in paths:
            _leave(context, f"{context.request.shown_uri(side)}: {path}")
        return
    host = await context.host(side)
    used = await _used_files(host, context.planned.domain_uuid)
    for path in paths:
        if path in used:
            raise ActionFailed("remove", f"{host.uri}: {path} is in use by the domain", retryable=False)
        await host.storage.remove(path)


async def _used_files(host: Host, uuid: str) -> set[str]:
    facts = await host.domain(uuid)
    return {path for disk in facts.disks for path in disk.chain} if facts else set()


def _leave(context: Context, what: str) -> None:
    context.outcome.setdefault("left_behind", []).append(what)


async def release_pools(context: Context) -> None:
    """Put the storage pools back."""
    pools = [pool for pool in context.history.pools if not context.is_fenced(pool.side)]
    for attempt in range(RELEASE_ATTEMPTS):
        pools = await put_back(context, pools)
        if not pools:
            return
        await context.clock.wait(context.abort, attempt + 1.0)
    # A pool too many harms nobody; the migration does not fail for it, but it is told.
    for pool in pools:
        _leave(context, f"{context.request.shown_uri(pool.side)}: a storage pool over {pool.directory}")


async def put_back(context: Context, pools: Sequence[PoolBefore]) -> list[PoolBefore]:
    """Put pools back as they were; those that could not be."""
    failed = []
    for pool in pools:
        try:
            host = await context.host(pool.side)
            await host.storage.release(pool.directory, pool.was)
        except HostError:
            failed.append(pool)
    return failed


def directory_of(path: str) -> str:
    """The directory of an absolute path on a host."""
    return str(PurePosixPath(path).parent)


ACTIONS: dict[str, Action] = {
    function.__name__.replace("_", "-"): function
    for function in (
        mark_source,
        complete_marker,
        mark_destination,
        unmark_source,
        unmark_destination,
        create_source_overlays,
        save_bases,
        create_copies,
        create_destination_overlays,
        forget_source_snapshots,
        restore_source_snapshots,
        restore_destination_snapshots,
        verify_destination_snapshots,
        resume_source,
        destroy_source_instance,
        undefine_source,
        remove_source_overlays,
        remove_destination_overlays,
        remove_copies,
        release_pools,
    )
}
