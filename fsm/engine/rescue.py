"""The activity of ``stuck``, when it is asked for: save what somebody took into the overlays, then go on."""

from __future__ import annotations

from urllib.parse import quote

from fsm.engine.context import Context
from fsm.engine.observe import look
from fsm.engine.plan import Rescued, Side
from fsm.errors import ActionFailed
from fsm.hypervisor.port import Host, Storage
from fsm.hypervisor.values import Overlay
from fsm.images.rescue import save_snapshot
from fsm.journal.records import converter
from fsm.machine.observation import Domain

ACTIVITY = "rescue-snapshots"
MIB = 1 << 20
# The guest goes on writing into the overlay, which may lie on the same file system.
RESERVE_BYTES = 64 * MIB
MOST_NAMES = 100
_NAME_LETTERS = 80


async def rescue_snapshots(context: Context) -> None:
    """Save each foreign snapshot, disk by disk, and record it: what is saved may go with its overlay."""
    side, domain = await _home(context)
    host, uuid = await context.host(side), context.planned.domain_uuid
    names = dict.fromkeys(name for disk in domain.disks for name in disk.stored)
    if not names:
        raise ActionFailed(
            ACTIVITY,
            f"{host.uri}: no overlay holds a snapshot that could be saved",
            retryable=False,
            remedy=f"fsm show {context.migration} names what else is in the way",
        )
    descriptions = {snapshot.name: snapshot.xml for snapshot in await host.snapshots(uuid)}
    holders = {disk.target: disk.stored for disk in domain.disks}
    for name in names:
        overlays = [one for one in context.planned.overlays_at(side) if name in holders[one.target]]
        images = [await _save(context, side, host, overlay, name) for overlay in overlays]
        rescued = Rescued(name, tuple(images), descriptions.get(name, ""))
        await context.note("rescue-snapshot", {"rescued": converter.unstructure([rescued])})


async def _home(context: Context) -> tuple[Side, Domain]:
    """Where the domain is; the machine has seen that it is in one place."""
    for side in (Side.DESTINATION, Side.SOURCE):
        if context.is_fenced(side):
            continue
        domain = await look(await context.host(side), side, context.planned.domain_uuid, context.history)
        if domain is not None:
            return side, domain
    raise ActionFailed(ACTIVITY, "neither host has the domain", retryable=False)


async def _save(context: Context, side: Side, host: Host, overlay: Overlay, name: str) -> str:
    # Beside a device there is no room for files.
    beside = overlay.path if overlay.on_device else overlay.base
    await _expect_space(host, overlay, beside)
    path = await _free_path(host.storage, beside, name)

    def tell(data_bytes: int, _hole_bytes: int) -> None:
        context.progress("rescue", data_bytes, 0)

    connector, uri = context.hosts.connector, context.request.uri(side)
    await save_snapshot(connector, uri, overlay, name, path, progress=tell)
    return path


async def _expect_space(host: Host, overlay: Overlay, beside: str) -> None:
    directory = beside.rpartition("/")[0] or "/"
    found = [await host.storage.stat(path) for path in (overlay.base, overlay.path)]
    need_bytes = sum(facts.allocated_bytes for facts in found if facts) + RESERVE_BYTES
    free_bytes = await host.storage.free_bytes(directory)
    if free_bytes < need_bytes:
        raise ActionFailed(
            ACTIVITY,
            f"{host.uri}: saving a snapshot of {overlay.target} may take {need_bytes // MIB} MiB, "
            f"and {directory} has {free_bytes // MIB} MiB free",
            retryable=False,
            remedy=f"free space in {directory} on {host.uri}; the snapshot is in the overlay",
        )


async def _free_path(storage: Storage, beside: str, name: str) -> str:
    """A path beside another one that nobody uses; an earlier try may have left an image without a record."""
    slug = quote(name, safe="")[:_NAME_LETTERS]
    for number in range(1, MOST_NAMES):
        path = f"{beside}.rescued-{slug}" + (f".{number}" if number > 1 else "")
        if await storage.stat(path) is None:
            return path
    raise ActionFailed(ACTIVITY, f"there are {MOST_NAMES} images beside {beside} already", retryable=False)
