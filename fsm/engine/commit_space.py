"""Whether there is room for a commit: before it begins, and while it runs.

A commit that would run out of space is not begun, and one that would come to it is cancelled. QEMU 7.2 pauses
the guest for want of space at the very moment at which the job fails, and gets the two mixed up: either it
aborts, or a filter of the job stays on the overlay for ever ("Need a root block node"), and the overlay can
only be committed by another QEMU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from attrs import define

from fsm.engine import space
from fsm.engine.commit_causes import FULL_BYTES
from fsm.engine.context import Context
from fsm.engine.plan import Side
from fsm.engine.space import MIB, directory_of
from fsm.errors import ActionFailed, HostError, ImageCorrupt
from fsm.hypervisor.port import Host
from fsm.hypervisor.uris import safe_text
from fsm.hypervisor.values import FileFacts, Overlay, Space
from fsm.images.image_end import image_end
from fsm.machine.observation import Disk, Layer

POLL_S = 3.0


async def demand_space(context: Context, side: Side, disks: Mapping[str, Disk], activity: str) -> None:
    """Raise ``ActionFailed`` if the commits that have not begun yet may run out of space.

    A host that can't tell is not waited for: its guest writes to the same file system meanwhile.
    """
    host = await context.host(side)
    overlays = [
        overlay
        for overlay in context.planned.overlays_at(side)
        if disks[overlay.target].layer is Layer.OVERLAY and disks[overlay.target].block_job is None
    ]
    spaces: dict[str, Space] = {}
    paths = [path for one in overlays for path in ([] if one.on_device else [one.base]) + [one.path]]
    for directory, here in space.by_directory(paths).items():
        try:
            spaces[directory] = await host.storage.space(directory, here)
        except HostError as error:
            context.log.debug("space-unknown", migration=context.migration, error=safe_text(str(error)))
    files = [file for seen in spaces.values() for file in seen.files]
    demands = []
    for directory, seen in spaces.items():
        grown = [one for one in overlays if directory_of(one.base) == directory and not one.on_device]
        demands.append(space.demand(directory, seen, sum(growth_bytes(one, files) for one in grown)))
    for one in space.by_file_system(demand for demand in demands if demand.need_bytes):
        if one.free_bytes < one.need_bytes + FULL_BYTES:
            raise _short(context, host, one, activity)
    for overlay in (one for one in overlays if one.on_device and one.base_format == "qcow2"):
        await _demand_device(context, host, overlay, files, activity)


async def _demand_device(
    context: Context, host: Host, overlay: Overlay, files: Sequence[FileFacts], activity: str
) -> None:
    """Raise ``ActionFailed`` if the commit may come to the end of the base's device."""
    try:
        device = await host.storage.stat(overlay.base)
        end_bytes = await image_end(host.storage, overlay.base)
    except (HostError, ImageCorrupt) as error:
        context.log.debug("space-unknown", migration=context.migration, error=safe_text(str(error)))
        return
    left_bytes = (device.size_bytes if device is not None else 0) - end_bytes
    need_bytes = growth_bytes(overlay, files)
    if left_bytes < need_bytes:
        raise ActionFailed(
            activity,
            f"{host.uri}: the device {overlay.base} has {left_bytes // MIB} MiB behind its image; its "
            f"overlay holds {-(-need_bytes // MIB)} MiB to be committed; the guest's data is in the overlay",
            remedy=f"make {overlay.base} on {host.uri} larger, for example by lvextend, then: "
            f"fsm retry {context.migration}",
        )


def growth_bytes(overlay: Overlay, seen: Iterable[FileFacts]) -> int:
    """What the base may grow by: all that the overlay holds, unless the base has all its blocks already.

    A cluster of a qcow2 image that an internal snapshot holds as well is never written over.
    """
    files = {file.path: file for file in seen}
    base, top = files.get(overlay.base), files.get(overlay.path)
    whole = base is not None and overlay.base_format == "raw" and base.allocated_bytes >= base.size_bytes
    return 0 if whole or top is None else top.allocated_bytes


def _short(context: Context, host: Host, demand: space.Demand, activity: str) -> ActionFailed:
    return ActionFailed(
        activity,
        f"{host.uri}: {demand.directory} has {demand.free_bytes // MIB} MiB free; its overlays hold "
        f"{-(-demand.need_bytes // MIB)} MiB to be committed; the guest's data is in the overlay",
        remedy=f"free space in {demand.directory} on {host.uri}, then: fsm retry {context.migration}",
    )


@define
class CommitSpace:
    """Looks, while overlays are committed, whether there is room for the rest of it.

    That it is getting tight is told once.
    """

    context: Context
    side: Side
    host: Host
    activity: str
    _due_s: float = 0.0
    _told: bool = False

    async def look(self, disks: Collection[Disk]) -> None:
        """Look, if it is time to; cancel what would not be done, and raise ``ActionFailed``."""
        now_s = self.context.clock.monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + POLL_S
        left = self._left_bytes(disks)
        try:
            seen = {directory: await self.host.storage.space(directory, ()) for directory in left}
        except HostError:
            return
        demands = [space.demand(directory, one, left[directory]) for directory, one in seen.items()]
        # A raw base may have all its blocks already, and then grows by nothing.
        raw = {directory_of(one.base) for one in self._overlays if one.base_format == "raw"}
        for demand in space.by_file_system(one for one in demands if one.directory not in raw):
            if demand.free_bytes < demand.need_bytes:
                await self._cancel(disks)
                raise _short(self.context, self.host, demand, self.activity)
        found = space.shortage(self.host.uri, demands, space.margin_bytes(0))
        if found and not self._told:
            self._told = True
            what = "the guest is paused when a write of its finds no space; no data is lost"
            await self.context.note("space-short", {"warning": f"{found.what}; {what}"})

    @property
    def _overlays(self) -> tuple[Overlay, ...]:
        return self.context.planned.overlays_at(self.side)

    def _left_bytes(self, disks: Iterable[Disk]) -> dict[str, int]:
        left: dict[str, int] = {}
        for disk, overlay in zip(disks, self._overlays, strict=True):
            if overlay.on_device:  # it was looked at before; nobody else fills a device
                continue
            job, directory = disk.block_job, directory_of(overlay.base)
            left_bytes = job.end_bytes - job.current_bytes if job else 0
            left[directory] = left.get(directory, 0) + left_bytes
        return left

    async def _cancel(self, disks: Iterable[Disk]) -> None:
        for disk in disks:
            if disk.block_job is not None and not disk.block_job.ready:
                await self.host.cancel_block_job(self.context.planned.domain_uuid, disk.target)
