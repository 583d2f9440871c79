"""What is recorded of the bases once their overlays exist."""

from __future__ import annotations

from attrs import evolve

from fsm.engine.context import Context
from fsm.engine.observe import look
from fsm.engine.plan import BackingFile, Side
from fsm.errors import ActionFailed
from fsm.hypervisor.port import Host, Storage
from fsm.hypervisor.values import Base, FileFacts, Overlay
from fsm.images.tables import look_at_image
from fsm.machine.observation import Job


async def base_of(source: Host, overlay: Overlay) -> Base:
    """The base below an overlay, as it is from now on."""
    facts = await source.storage.stat(overlay.base)
    if facts is None:
        raise ActionFailed("save-bases", f"{source.uri} has lost the base {overlay.base}", retryable=False)
    facts = facts.used_as(overlay.base_format)
    sizes = (facts.size_bytes, facts.allocated_bytes, facts.capacity_bytes)
    # A raw disk on a device is as large as that is.
    fixed = overlay.on_device and overlay.base_format == "raw"
    growable = not fixed and await is_growable(source.storage, facts)
    # The time on a device's node tells nothing about what is written to the device.
    mark = "" if overlay.on_device else facts.modified
    base = Base(overlay.base, overlay.base_format, *sizes, growable, mark)
    return evolve(base, on_device=overlay.on_device)


async def base_below(source: Host, backing: BackingFile) -> Base:
    """A file below bases that is to be copied along, which stands still anyway."""
    facts = await source.storage.stat(backing.path)
    if facts is None or (facts.size_bytes, facts.modified) != backing.at(Side.SOURCE):
        raise ActionFailed(
            "save-bases", f"{source.uri}: {backing.path} has changed since preflight", retryable=False
        )
    facts = facts.used_as(backing.format)
    sizes = (facts.size_bytes, facts.allocated_bytes, facts.capacity_bytes)
    return Base(backing.path, backing.format, *sizes, growable=False, modified=facts.modified, below=True)


async def is_growable(storage: Storage, base: FileFacts) -> bool:
    """Whether QEMU can make a base larger, as it has to when its disk was resized."""
    if base.format != "qcow2":
        return True
    # QEMU resizes no old-format image with snapshots; what it does with bitmaps is left alone.
    header = (await look_at_image(storage, base.path)).header
    return not header.autoclear_features and (header.version >= 3 or not header.snapshot_count)


async def expect_no_snapshot_in_overlays(context: Context, source: Host) -> None:
    """Fail where a snapshot lies in an overlay, or may be on its way into one."""
    domain = await look(source, Side.SOURCE, context.planned.domain_uuid, context.history)
    if domain is None or domain.job is not Job.NONE:
        raise ActionFailed("save-bases", f"{source.uri}: another job holds the domain")
    if names := sorted({name for disk in domain.disks for name in disk.stored}):
        raise ActionFailed(
            "save-bases", f"{source.uri}: snapshots were taken into the overlays: {', '.join(names)}"
        )
