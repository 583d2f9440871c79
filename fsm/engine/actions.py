"""The actions that transitions name, bound to effects on the hosts.

Each makes it so, however far an earlier try came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from attrs import evolve

from fsm.engine import signs
from fsm.engine.bases import base_below, base_of, expect_no_snapshot_in_overlays
from fsm.engine.context import Context
from fsm.engine.elsewhere import described_there
from fsm.engine.flattening import flatten_destination
from fsm.engine.marking import (
    complete_marker,
    mark_destination,
    mark_source,
    packed_for_marker,
    unmark_destination,
    unmark_source,
)
from fsm.engine.plan import Bases, PoolBefore, Side
from fsm.engine.removal import (
    is_ours,
    leave,
    remove_copies,
    remove_destination_overlays,
    remove_source_overlays,
)
from fsm.engine.shared import expect_same_files, remove_probes
from fsm.engine.source_bases import remove_source_bases
from fsm.engine.source_domain import destroy_source_instance, undefine_source
from fsm.errors import ActionFailed, HostError
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Base, FileFacts, SnapshotMetadata
from fsm.images.tables import look_at_image
from fsm.journal.records import converter
from fsm.machine.observation import DomainState, Size
from fsm.machine.traits import OUR_BLOCK_JOB

Action = Callable[[Context], Awaitable[None]]

RELEASE_ATTEMPTS = 5


async def create_source_overlays(context: Context) -> None:
    """Put the overlays over their disks."""
    source = await context.host(Side.SOURCE)
    await source.create_overlays(context.planned.domain_uuid, context.planned.overlays)


async def save_bases(context: Context) -> None:
    """Record bases and snapshots; before the overlays existed they could still change."""
    source = await context.host(Side.SOURCE)
    # In the order of copying: a copy on a file that is missing could not be opened.
    bases = [await base_below(source, backing) for backing in reversed(context.planned.copied_below)]
    bases += [await base_of(source, overlay) for overlay in context.planned.overlays]
    uuid = context.planned.domain_uuid
    snapshots = await source.snapshots(uuid)
    # In this order: one that is listed while it is still being taken shows as a job, then in the overlay.
    await expect_no_snapshot_in_overlays(context, source)
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


async def create_copies(context: Context) -> None:
    """Create each copy's file at the destination, as long as its base and all hole; look at shared bases.

    A block device is there already, and is not made, but it must still be as large.
    """
    destination = await context.host(Side.DESTINATION)
    await expect_same_files(context)
    await signs.put_up(destination, context.planned)
    missing = []
    for copy in context.copies:
        found = await destination.storage.stat(copy.path)
        if copy.on_device:
            _expect_device(destination, copy, found)
            continue
        if found is not None and not is_ours(context, copy, found):
            raise _appeared(destination, copy)
        # An empty one of an earlier try is made anew: it may be two copies, by a directory that is a link.
        if found is not None:
            await destination.storage.remove(copy.path)
        missing.append(copy)
    created: list[str] = context.outcome.setdefault("created", [])
    for copy in missing:
        if await destination.storage.stat(copy.path) is not None:
            raise _appeared(destination, copy)
        await destination.storage.create_sparse(copy.path, copy.size_bytes)
        created.append(copy.path)


def _appeared(destination: Host, copy: Base) -> ActionFailed:
    return ActionFailed(
        "create-copies",
        f"{destination.uri}: {copy.path} has appeared since preflight, or leads to another disk's copy; "
        "it is left alone",
        retryable=False,
        remedy="move that file away, or see where its directory leads (--disk-map); then migrate again",
    )


def _expect_device(destination: Host, copy: Base, found: FileFacts | None) -> None:
    if found is None or found.size_bytes < copy.size_bytes:
        raise ActionFailed(
            "create-copies",
            f"{destination.uri}: the device {copy.path} is gone, or has become smaller than its base",
            retryable=False,
            remedy="find out who changed it; then migrate again",
        )


async def create_destination_overlays(context: Context) -> None:
    """Create an empty overlay on each base at the destination."""
    source, destination = await context.host(Side.SOURCE), await context.host(Side.DESTINATION)
    own = {overlay.target: overlay for overlay in context.planned.overlays}
    for overlay in context.planned.destination_overlays:
        # The name holds this migration's id: a file of that name is ours. Its content is of no worth before
        # the transfer begins, but one that libvirt has filled must not be taken for an empty one.
        if await destination.storage.stat(overlay.path) is not None:
            await destination.storage.remove(overlay.path)
        # The disk may have been resized since the copy was begun: libvirt mirrors it at its present size, and
        # the commit lets the copied base grow along.
        base = own[overlay.target].base
        capacity_bytes = context.history.bases.of(base).capacity_bytes
        seen = (await look_at_image(source.storage, own[overlay.target].path)).header
        if context.history.bases.fits(base, seen.size_bytes) is Size.GROWN:
            capacity_bytes = seen.size_bytes
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
    await _restore(context, Side.SOURCE)


async def restore_destination_snapshots(context: Context) -> None:
    """Define the recorded metadata at the destination."""
    await _restore(context, Side.DESTINATION)


async def _restore(context: Context, side: Side) -> None:
    """Also drop the metadata of snapshots that went with an overlay: nothing is left that it describes."""
    host, uuid = await context.host(side), context.planned.domain_uuid
    present = await host.snapshots(uuid)
    recorded = {snapshot.name for snapshot in context.history.bases.snapshots}
    gone = [s.name for s in present if s.name in context.history.given_up - recorded]
    if gone:
        await host.forget_snapshots(uuid, gone)
    wanted = _wanted(context, present)
    if side is Side.DESTINATION:
        wanted = described_there(context.planned, wanted)
    await host.define_snapshots(uuid, wanted)


def _wanted(context: Context, present: Sequence[SnapshotMetadata]) -> tuple[SnapshotMetadata, ...]:
    """The recorded metadata. What was taken since the pivot lies in the bases, and stays the current one."""
    recorded = context.history.bases.snapshots
    known = {snapshot.name for snapshot in recorded} | context.history.given_up
    if any(snapshot.current and snapshot.name not in known for snapshot in present):
        return tuple(evolve(snapshot, current=False) for snapshot in recorded)
    return recorded


async def verify_destination_snapshots(context: Context) -> None:
    """Compare names, parents and the current one with what was recorded."""
    destination = await context.host(Side.DESTINATION)
    found = await destination.snapshots(context.planned.domain_uuid)
    wanted = {(s.name, s.parent, s.current) for s in _wanted(context, found)}
    if missing := wanted - {(s.name, s.parent, s.current) for s in found}:
        names = ", ".join(sorted(name for name, _, _ in missing))
        raise ActionFailed(
            "verify-destination-snapshots",
            f"{destination.uri}: these snapshots are not as they were: {names}",
            remedy="nothing is lost: the images hold the snapshots and the journal their metadata",
        )


async def cancel_source_commits(context: Context) -> None:
    """Cancel our block commits at the source."""
    await _cancel_commits(context, Side.SOURCE)


async def cancel_destination_commits(context: Context) -> None:
    """Cancel our block commits at the destination."""
    await _cancel_commits(context, Side.DESTINATION)


async def _cancel_commits(context: Context, side: Side) -> None:
    host, uuid = await context.host(side), context.planned.domain_uuid
    facts = await host.domain(uuid)
    jobs = {disk.target: disk.block_job for disk in facts.disks} if facts else {}
    for target in context.planned.targets:
        job = jobs.get(target)
        if job is not None and job.kind == OUR_BLOCK_JOB:
            await host.cancel_block_job(uuid, target)


async def lift_source_throttle(context: Context) -> None:
    """Let the guest write as it likes again, at the source."""
    await _lift_throttle(context, Side.SOURCE)


async def lift_destination_throttle(context: Context) -> None:
    """Let the guest write as it likes again, at the destination."""
    await _lift_throttle(context, Side.DESTINATION)


async def _lift_throttle(context: Context, side: Side) -> None:
    history = context.history
    # Of an adopted migration nobody knows any more.
    targets = context.planned.targets if history.adopted else sorted(history.throttled)
    if not targets or context.is_fenced(side):
        return
    host = await context.host(side)
    for target in targets:
        await host.lift_throttle(context.planned.domain_uuid, target)


async def resume_source(context: Context) -> None:
    """Resume the source instance where a failed migration left it paused."""
    source = await context.host(Side.SOURCE)
    facts = await source.domain(context.planned.domain_uuid)
    if facts and facts.state is DomainState.PAUSED and facts.reason == "migration":
        await source.resume(facts.uuid)


async def release_pools(context: Context) -> None:
    """Put back what preflight opened."""
    await remove_probes(context)
    pools = [pool for pool in context.history.pools if not context.is_fenced(pool.side)]
    for attempt in range(RELEASE_ATTEMPTS):
        pools = await put_back(context, pools)
        if not pools:
            return
        await context.clock.wait(context.abort, attempt + 1.0)
    # A pool too many harms nobody; the migration does not fail for it, but it is told.
    for pool in pools:
        leave(context, f"{context.request.shown_uri(pool.side)}: a storage pool over {pool.directory}")


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
        cancel_source_commits,
        cancel_destination_commits,
        lift_source_throttle,
        lift_destination_throttle,
        resume_source,
        destroy_source_instance,
        undefine_source,
        remove_source_overlays,
        remove_source_bases,
        flatten_destination,
        remove_destination_overlays,
        remove_copies,
        release_pools,
    )
}
