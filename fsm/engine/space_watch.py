"""Watches, beside what a state does, that neither host's file systems get full before the end.

libvirt's block thresholds wake it when an overlay has grown; it looks again after a while in any case, since
a file system is filled by others as well. A threshold is armed before libvirt migrates: a migration lets
nobody set one, and the one that was set last still wakes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from attrs import define, field

from fsm.engine import space
from fsm.engine.context import Context
from fsm.engine.plan import Side
from fsm.engine.space import Demand, Shortage, directory_of
from fsm.errors import FsmError, HostError, ImageCorrupt
from fsm.hypervisor.port import Host, Watch
from fsm.hypervisor.uris import safe_text
from fsm.hypervisor.values import Overlay, Space
from fsm.images.image_end import end_in_file, image_end
from fsm.machine.observation import Merge

# The net below the thresholds; each look makes libvirt read the whole directory.
POLL_S = 3.0
# Growth is measured over so long.
GROWTH_OVER_S = 15.0
# A threshold nearer than this would wake for every few writes.
STEP_LEAST_BYTES = space.MIB


@define
class SpaceWatch:
    """One watch, from ``start`` to ``stop``. ``shortage`` is the first that was seen, and stays."""

    context: Context
    wake: asyncio.Event
    shortage: Shortage | None = None
    _left: dict[tuple[Side, str], int] = field(factory=dict)
    _samples: deque[tuple[float, int]] = field(factory=deque)
    _stopping: asyncio.Event = field(factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(), name="space watch")

    @property
    def ended(self) -> bool:
        """Whether it watches no more though nobody stopped it, and has found nothing."""
        return self._task is not None and self._task.done() and self.shortage is None

    async def stop(self) -> None:
        """Stop when the look that is under way has ended: it may have opened a storage pool."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    def cancel(self) -> None:
        """Stop at once."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        with suppress(FsmError):  # no connection, or the lease is lost: the driver finds that out by itself
            source = await self.context.host(Side.SOURCE)
            thresholds = source.watch_thresholds(self.context.planned.domain_uuid)
            try:
                await self._until_short(source, thresholds)
            finally:
                thresholds.close()
        if self.shortage is not None:
            self.context.short.set()
            self.wake.set()

    async def _until_short(self, source: Host, thresholds: Watch) -> None:
        while not self._stopping.is_set():
            try:
                self.shortage = await self._look(source)
            except HostError as error:  # it can't be asked now
                self.context.log.debug(
                    "space-unknown", migration=self.context.migration, error=safe_text(str(error))
                )
            if self.shortage is not None:
                return
            await self._until_due(thresholds)

    async def _until_due(self, thresholds: Watch) -> None:
        """Until an overlay has grown, it is time to look again, or nobody wants to know any more."""
        waits = [
            asyncio.ensure_future(thresholds.changed(POLL_S)),
            asyncio.ensure_future(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _look(self, source: Host) -> Shortage | None:
        here = await self._spaces(source, Side.SOURCE)
        held = {file.path: file.allocated_bytes for seen in here.values() for file in seen.files}
        margin_bytes = space.margin_bytes(self._growth_bytes_per_s(sum(held.values())))
        demands = [
            space.demand(directory, seen, self._growth_bytes(held, Side.SOURCE, directory))
            for directory, seen in here.items()
        ]
        if found := space.shortage(source.uri, demands, margin_bytes):
            return found
        if found := await self._device_short(held, margin_bytes):
            return found
        if not self.context.history.transfer_begun:
            await self._arm(source, demands, here, margin_bytes)
            return None
        if self.context.planned.merge is not Merge.COMMIT:
            # A destination that gets full fails the migration, and behind the switch-over nothing is written.
            return None
        destination = await self.context.host(Side.DESTINATION)
        there = await self._spaces(destination, Side.DESTINATION)
        come = {file.path: file.allocated_bytes for seen in there.values() for file in seen.files}
        arrived = [
            space.demand(directory, seen, self._still_to_come(held, come, directory))
            for directory, seen in there.items()
        ]
        return space.shortage(destination.uri, arrived, margin_bytes)

    async def _device_short(self, held: Mapping[str, int], margin_bytes: int) -> Shortage | None:
        """A device at either host that the overlay on it would fill, in the commit."""
        for side in Side:
            for own, one in zip(
                self.context.planned.overlays, self.context.planned.overlays_at(side), strict=True
            ):
                if not one.on_device or one.base_format != "qcow2":
                    continue
                if (side, one.base) not in self._left:
                    self._left[side, one.base] = await self._left_bytes(side, own, one)
                left_bytes, held_bytes = self._left[side, one.base], held.get(own.path, 0)
                if left_bytes < held_bytes + margin_bytes:
                    uri = self.context.request.shown_uri(side)
                    return Shortage(uri, one.base, left_bytes, held_bytes, margin_bytes)
        return None

    async def _left_bytes(self, side: Side, own: Overlay, one: Overlay) -> int:
        """What the base, which stands still, leaves of its device, or its copy of that one."""
        device = await (await self.context.host(side)).storage.stat(one.base)
        storage = (await self.context.host(Side.SOURCE)).storage
        try:
            if own.on_device:
                end_bytes = await image_end(storage, own.base)
            else:
                recorded = self.context.history.bases.of(own.base)
                end_bytes = await end_in_file(storage, own.base, recorded.size_bytes)
        except ImageCorrupt as error:
            raise HostError(str(error), host=self.context.request.shown_uri(Side.SOURCE)) from error
        return (device.size_bytes if device is not None else 0) - end_bytes

    async def _spaces(self, host: Host, side: Side) -> dict[str, Space]:
        """The directories of overlays and bases, with the overlays in them."""
        overlays = self.context.planned.overlays_at(side)
        paths = space.by_directory(overlay.path for overlay in overlays)
        for overlay in overlays:
            if not overlay.on_device:
                paths.setdefault(directory_of(overlay.base), [])
        return {directory: await host.storage.space(directory, found) for directory, found in paths.items()}

    def _growth_bytes_per_s(self, held_bytes: int) -> float:
        now_s = self.context.clock.monotonic_s()
        self._samples.append((now_s, held_bytes))
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= GROWTH_OVER_S:
            self._samples.popleft()
        began_s, began_bytes = self._samples[0]
        # A burst right after the beginning tells little about what follows.
        return (held_bytes - began_bytes) / max(now_s - began_s, GROWTH_OVER_S)

    async def _arm(
        self, source: Host, demands: Sequence[Demand], here: Mapping[str, Space], margin_bytes: int
    ) -> None:
        """Be woken when half of what the overlays may still grow is used up; each byte counts twice."""
        room = {one.directory: one.free_bytes - one.need_bytes - margin_bytes for one in demands}
        size_of = {file.path: file.size_bytes for seen in here.values() for file in seen.files}
        overlays = [overlay for overlay in self.context.planned.overlays if overlay.path in size_of]
        for overlay in overlays:
            paths = (overlay.path,) if overlay.on_device else (overlay.path, overlay.base)
            room_bytes = min(room[directory_of(path)] for path in paths)
            step_bytes = max(STEP_LEAST_BYTES, room_bytes // (4 * len(overlays)))
            with suppress(HostError):  # the net below stays: it looks again after a while
                uuid = self.context.planned.domain_uuid
                await source.set_threshold(uuid, overlay.target, size_of[overlay.path] + step_bytes)

    def _growth_bytes(self, held: Mapping[str, int], side: Side, directory: str) -> int:
        """What the commit makes the bases in this directory grow by."""
        planned = self.context.planned
        pairs = zip(planned.overlays, planned.overlays_at(side), strict=True)
        return sum(
            held.get(own.path, 0)
            for own, one in pairs
            if directory_of(one.base) == directory and not one.on_device
        )

    def _still_to_come(self, held: Mapping[str, int], come: Mapping[str, int], directory: str) -> int:
        """What a destination's directory must take: the rest of the overlays, and their commit."""
        planned = self.context.planned
        pairs = zip(planned.overlays, planned.overlays_at(Side.DESTINATION), strict=True)
        here = [(own, one) for own, one in pairs if directory_of(one.path) == directory]
        rest = sum(max(0, held.get(own.path, 0) - come.get(one.path, 0)) for own, one in here)
        return rest + self._growth_bytes(held, Side.DESTINATION, directory)
