"""Removing the source's bases behind a migration, for those who ask for it: ``Request.delete_source``.

What a migration has copied is worth nothing at the source any more, but what is removed is gone. So each base
goes only when everything speaks for it, and whatever does not is told with the reason: the migration is
committed either way.
"""

from __future__ import annotations

from fsm.engine.context import Context
from fsm.engine.observe import look
from fsm.engine.plan import Side
from fsm.engine.removal import leave
from fsm.engine.users import user_of
from fsm.errors import HostError, ImageCorrupt
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Base, Overlay
from fsm.images.tables import look_at_image
from fsm.machine.observation import Layer, Merge


async def remove_source_bases(context: Context) -> None:
    """Remove each copied base at the source, where that was asked for, or tell why it stays."""
    if not context.request.delete_source:
        return
    uri = context.request.shown_uri(Side.SOURCE)
    removed: list[str] = context.outcome.setdefault("removed", [])
    # What is below a base is others' as well.
    own = context.history.bases.variables
    bases = [base for base in context.copied_bases if not base.below or base.path == own]
    # Before the first of them is: who comes after a crash finds in the journal why a file is gone.
    await context.note("remove-source-bases", {"removing": [base.path for base in bases]})
    for base in bases:
        try:
            why = await _why_kept(context, base)
            if not why:
                await (await context.host(Side.SOURCE)).storage.remove(base.path)
        except (HostError, ImageCorrupt) as error:
            why = str(error)
        if why:
            leave(context, f"{uri}: {base.path} ({why})")
        else:
            removed.append(base.path)


async def _why_kept(context: Context, base: Base) -> str:
    """Why the source's file is not removed; empty where nothing speaks against it."""
    history = context.history
    if context.is_fenced(Side.SOURCE):
        return "that host is off"
    copy = context.planned.copy_of(base)
    if base.on_device or copy.on_device:
        # A device is somebody's to remove; and no mark tells what else was done to one.
        return f"{'it' if base.on_device else 'its copy'} is a block device"
    if history.adopted or copy.path not in history.created:
        return "it is not known whether its copy is this migration's"
    streamed = context.request.direct is None
    if streamed and context.planned.merge is Merge.NONE and copy.path in history.not_durable:
        # Nobody has flushed it, as no guest has run on it.
        return "its copy may not have reached stable storage yet"
    source = await context.host(Side.SOURCE)
    if await source.domain(context.planned.domain_uuid) is not None:
        return "the domain is still defined there"
    found = await source.storage.stat(base.path)
    if found is None:
        return ""
    if not base.modified or (found.size_bytes, found.modified) != (base.size_bytes, base.modified):
        return "it has changed since it was copied"
    if why := await _why_incomplete(context, source, base):
        return why
    # At the destination its copy may have its path.
    there = Side.DESTINATION
    if user := await user_of(context, Side.SOURCE, found) or await user_of(
        context, there, found, by_path=False
    ):
        return f"domain {user.name} {'uses' if user.is_known else 'may use'} it"
    return ""


async def _why_incomplete(context: Context, source: Host, base: Base) -> str:
    """What the destination lacks: its disk on the copy alone, which holds every snapshot of the base."""
    destination = await context.host(Side.DESTINATION)
    domain = await look(destination, Side.DESTINATION, context.planned.domain_uuid, context.history)
    if base.below:
        used = domain is not None and await destination.storage.stat(base.path) is not None
        return "" if used else "its copy is not there any more, or the domain is not"
    overlay = _overlay_of(context, base)
    disks = {disk.target: disk for disk in domain.disks} if domain is not None else {}
    disk = disks.get(overlay.target)
    if disk is None or disk.layer is not Layer.BASE or disk.block_job is not None:
        return f"at the destination disk {overlay.target} does not stand on its copy alone"
    if await destination.storage.stat(overlay.base) is None:
        return "its copy is not there any more"
    if base.format == "qcow2":
        kept = (await look_at_image(source.storage, base.path)).snapshots
        image = await look_at_image(destination.storage, overlay.base)
        there = {(one.id, one.name) for one in image.snapshots}
        if missing := [one.name for one in kept if (one.id, one.name) not in there]:
            return f"its copy does not hold the snapshots {', '.join(missing)}"
    return ""


def _overlay_of(context: Context, base: Base) -> Overlay:
    """The destination's overlay, with the copy as its base."""
    planned = context.planned
    pairs = zip(planned.overlays, planned.overlays_at(Side.DESTINATION), strict=True)
    return next(arrived for own, arrived in pairs if own.base == base.path)
