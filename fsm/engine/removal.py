"""Removing what a migration has made: only that, never what is in use, never what holds a snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from fsm.engine import signs
from fsm.engine.context import Context
from fsm.engine.plan import Side
from fsm.engine.users import user_of
from fsm.errors import ActionFailed, ImageCorrupt
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Base, FileFacts
from fsm.images.tables import snapshots_in


def is_ours(context: Context, copy: Base, found: FileFacts) -> bool:
    """Whether a file at a copy's path was made by this migration.

    The journal says so; or the engine died between making the file and recording it: then the file has just
    the planned length and no data, and there is nothing in it that could be lost. Where the base has no data
    either that tells nothing: storage that both hosts share may have shown the destination late that it is
    the base itself. What is known from a domain's marker alone must have the planned length, as a copy has on
    which no guest has run, and the path of a disk that the domain has: another path is nothing but the word
    of whoever may describe the domain.
    """
    as_planned = found.size_bytes == copy.size_bytes
    borne_out = as_planned and copy.path not in context.planned.moved.values()
    made = copy.path in context.history.created and (borne_out or not context.history.adopted)
    return made or (as_planned and found.allocated_bytes == 0 < copy.allocated_bytes)


async def remove_source_overlays(context: Context) -> None:
    """Remove the overlay files at the source."""
    if not context.history.bases.bases and not context.is_fenced(Side.SOURCE):
        await _check_unknown_to_qemu(context, [overlay.path for overlay in context.planned.overlays])
    await _remove_overlays(context, Side.SOURCE)


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
    await _remove_overlays(context, Side.DESTINATION)


async def _remove_overlays(context: Context, side: Side) -> None:
    """Each overlay file, unless it holds a snapshot that nobody has given up, or may hold one."""
    planned = context.planned
    overlays = planned.overlays if side is Side.SOURCE else planned.destination_overlays
    paths = [overlay.path for overlay in overlays]
    if not context.is_fenced(side):
        storage = (await context.host(side)).storage
        for path in list(paths):
            try:
                names = await snapshots_in(storage, path) - context.history.given_up
                what = ", ".join(sorted(names))
            except ImageCorrupt as error:
                what = f"whatever snapshots it holds: {error}"
            if what:
                leave(context, f"{context.request.shown_uri(side)}: {path} with {what}")
                paths.remove(path)
    await _remove(context, side, paths)
    if not context.is_fenced(side):
        await signs.take_down(await context.host(side), planned)


async def remove_copies(context: Context) -> None:
    """Remove the copied bases at the destination, only those that are ours; a block device is left."""
    for copy in context.copies if context.history.bases.bases else ():
        if copy.on_device:
            what = "a block device, which holds what was copied of it by now"
            leave(context, f"{context.request.shown_uri(Side.DESTINATION)}: {copy.path}, {what}")
    if context.is_fenced(Side.DESTINATION):
        await _remove(context, Side.DESTINATION, sorted(context.history.created))
        return
    bases = context.copied_bases
    if not bases:
        return
    destination = await context.host(Side.DESTINATION)
    for base, copy in zip(bases, context.copies, strict=True):
        if copy.on_device:
            continue
        found = await destination.storage.stat(copy.path)
        if found is None:
            continue
        if await _may_go(context, base, copy, found):
            await _remove(context, Side.DESTINATION, [copy.path])


async def _may_go(context: Context, base: Base, copy: Base, found: FileFacts) -> bool:
    """Whether a copy is removed; what has to stay of those that may be ours is told."""
    uri, adopted = context.request.shown_uri(Side.DESTINATION), context.history.adopted
    ours = is_ours(context, copy, found) and not await _may_be_the_original(context, base, found)
    # A marker's word is not enough for what others may stand on as well.
    if adopted and (base.below or not ours):
        leave(context, f"{uri}: {copy.path}, which may be a copy of this migration or not")
        return False
    if ours and base.below and (user := await user_of(context, Side.DESTINATION, found)):
        # Another domain has been put on it since.
        stands = "stands" if user.is_known else "may stand"
        leave(context, f"{uri}: {copy.path}, on which domain {user.name} {stands}")
        return False
    return ours


async def _may_be_the_original(context: Context, base: Base, copy: FileFacts) -> bool:
    """Whether a copy of which a marker alone tells may be the source's own file, on shared storage."""
    if not context.history.adopted:
        return False
    found = await (await context.host(Side.SOURCE)).storage.stat(base.path)
    return found is not None and (found.size_bytes, found.modified) == (copy.size_bytes, copy.modified)


async def _remove(context: Context, side: Side, paths: list[str]) -> None:
    """Remove files, but never one that the domain on that host uses."""
    if context.is_fenced(side):
        for path in paths:
            leave(context, f"{context.request.shown_uri(side)}: {path}")
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


def leave(context: Context, what: str) -> None:
    context.outcome.setdefault("left_behind", []).append(what)
