"""What preflight wants to know of block devices, and the finding for each answer against them.

A block device at the destination is somebody's, with whatever it holds: it is written to only where a user
has named it for that very disk, nobody uses it, and it is empty or the user takes its content on himself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from attrs import define, evolve, field

from fsm.engine import checks, devices
from fsm.engine.checks import MIB, Finding
from fsm.engine.context import Context
from fsm.engine.device_users import users_of
from fsm.engine.devices import Device
from fsm.engine.direct import shell
from fsm.engine.elsewhere import is_mapped
from fsm.engine.plan import Direct, Request, Side
from fsm.engine.space import MARGIN_LEAST_BYTES, held_bytes
from fsm.errors import HostError, ImageCorrupt
from fsm.hypervisor.port import Host
from fsm.hypervisor.shell import Shell
from fsm.hypervisor.values import FileFacts, Overlay
from fsm.images.image_end import end_in_file, image_end

CONTENT = "device-content"
"""The finding by which a user takes on himself that a device is overwritten."""
_HEAD_BYTES = 64 * 1024


@define
class OnDevices:
    """One look at the devices of both hosts.

    ``settled`` is False where something is found that nobody can accept.
    """

    context: Context
    source: Host
    destination: Host
    direct: Direct
    stat: Callable[[Host, Side, str], Awaitable[FileFacts | None]]
    findings: list[Finding] = field(factory=list)
    settled: bool = True

    @property
    def _request(self) -> Request:
        return self.context.request

    async def look(
        self, overlays: tuple[Overlay, ...], bases: Sequence[FileFacts], *, live: bool
    ) -> tuple[tuple[Overlay, ...], bool]:
        """The overlays with the word which copies go onto devices, and ``settled``.

        ``live``: there will be a commit.
        """
        try:
            overlays = await self._placed(overlays, bases)
            if live and self.settled:
                await self._room(overlays, bases)
        except HostError as error:
            self.settled = False
            self.findings.append(Finding("device", error.host, error.message, error.remedy))
        return overlays, self.settled

    async def _placed(self, overlays: tuple[Overlay, ...], bases: Sequence[FileFacts]) -> tuple[Overlay, ...]:
        """The overlays with the word which of the copies go onto a device."""
        sizes = {base.path: base for base in bases}
        way, found, seen = shell(self._request, self.direct, Side.DESTINATION), [], dict[str, str]()
        for overlay in overlays:
            if overlay.shared and overlay.on_device:
                found.append(overlay)
                await self._expect_unused(way, overlay)
                continue
            mapped = is_mapped(self._request, overlay.target)
            path = overlay.arrived.base
            device = await devices.device_at(way, path) if overlay.on_device or mapped else None
            if device is None:
                if path.startswith("/dev/") or (overlay.on_device and not overlay.destination_base):
                    self._refuse(overlay, path, *_MISSING)
                found.append(overlay)
                continue
            # Its path is kept even where it is the base's: it may be of another kind than that.
            found.append(evolve(overlay, destination_base=path, arrives_on_device=True))
            if device.number in seen:
                self._refuse(
                    overlay, path, "path-taken", f"disk {seen[device.number]} goes there too", _OTHER
                )
            seen[device.number] = overlay.target
            if overlay.base in sizes and self._may_be_looked_at(overlay, path, mapped=mapped):
                await self._look(way, found[-1], device, sizes[overlay.base])
        return tuple(found)

    def _may_be_looked_at(self, overlay: Overlay, path: str, *, mapped: bool) -> bool:
        problems = []
        if not mapped:
            problems.append(
                ("device-not-named", "nobody has said that it is to be overwritten", _naming(overlay))
            )
        if not checks.may_be_shown(path):
            problems.append(("device-path", checks.NOT_OPENED, checks.DEEPER))
        if not checks.has_place(self._request):
            problems.append(("overlay-directory", checks.NO_PLACE, "--overlay-directory DIRECTORY"))
        if self.direct.seed_of(overlay.target):
            problems.append(("transport", "a seed can't be put on a block device", "leave the seed out"))
        for problem in problems:
            self._refuse(overlay, path, *problem)
        return not problems

    async def _look(self, way: Shell, overlay: Overlay, device: Device, base: FileFacts) -> None:
        """Whether the base's copy fits onto the device, and may be written there."""
        size_bytes, raw = device.size_bytes, overlay.base_format == "raw"
        if size_bytes < base.size_bytes or (raw and size_bytes != base.size_bytes):
            wanted = f"{base.size_bytes} bytes" + ("" if raw else ", or more")
            why = f"it has {size_bytes} bytes, and the disk needs {wanted}"
            self._refuse(overlay, device.path, "device-size", why, "make one of that size")
            return
        await self._expect_free(way, overlay, device)
        if self.settled:
            await self._expect_other_content(way, overlay, device)

    async def _expect_unused(self, way: Shell, overlay: Overlay) -> None:
        """Nobody at the destination uses the device that both hosts share."""
        device = await devices.device_at(way, overlay.base)
        if device is None:
            self._refuse(overlay, overlay.base, *_MISSING)
        else:
            await self._expect_free(way, overlay, device)

    async def _expect_free(self, way: Shell, overlay: Overlay, device: Device) -> None:
        """Neither the destination itself nor one of its domains uses it."""
        for why in device.busy:
            self._refuse(overlay, device.path, "device-in-use", why, "use another one, or free it")
        await self._expect_no_user(way, overlay, device)

    async def _expect_no_user(self, way: Shell, overlay: Overlay, device: Device) -> None:
        """No domain of the destination has it, under whatever name."""
        users = await users_of(self.destination, way, device.number)
        for name, volume, error in users.untold:
            why = f"domain {name} has volume {volume}, which may lie on it: {error}"
            remedy = "virsh vol-path tells where that is; if elsewhere: --accept device-users"
            self._find(overlay, device.path, "device-users", why, remedy)
        for name, path in users.found:
            why = f"domain {name} uses it, as {path}"
            self._refuse(overlay, device.path, "device-in-use", why, _OTHER)

    async def _expect_other_content(self, way: Shell, overlay: Overlay, device: Device) -> None:
        """It is not the source's own device, and holds nothing that nobody has given up."""
        here = None
        if overlay.on_device:
            here = await devices.device_at(shell(self._request, self.direct, Side.SOURCE), overlay.base)
        identities = {here.identity if here is not None else "", device.identity}
        if await self.stat(self.destination, Side.DESTINATION, device.path) is None:
            self._refuse(overlay, device.path, *_MISSING)
            return
        if here is not None and device.identity and identities == {device.identity}:
            self._refuse(overlay, device.path, "device-shared", _SAME, "name a device of its own")
            return
        taken_on = CONTENT in self._request.accept
        if not taken_on and not await devices.holds_data(way, device):
            return
        if "" in identities and here is not None:
            heads = [
                await host.storage.peek(path, 0, _HEAD_BYTES)
                for host, path in ((self.source, overlay.base), (self.destination, device.path))
            ]
            if heads[0] == heads[1]:
                remedy = f"if it is another one: dd if=/dev/zero of={device.path} bs=1M count=1"
                self._refuse(overlay, device.path, "device-shared", f"{_SAME}, or a copy of it", remedy)
                return
        message = "it is not empty; all that it holds would be lost"
        self._find(overlay, device.path, CONTENT, message, f"if nobody needs that: --accept {CONTENT}")

    async def _room(self, overlays: Iterable[Overlay], bases: Iterable[FileFacts]) -> None:
        """A commit fits onto each device, at both hosts: it can't make one larger."""
        sizes = {base.path: base for base in bases}
        for overlay in overlays:
            base = sizes.get(overlay.base)
            if base is None or overlay.base_format != "qcow2":
                continue
            sides = [(Side.SOURCE, overlay.base, base.size_bytes)] if overlay.on_device else []
            if overlay.arrives_on_device and not overlay.shared:
                there = await self.stat(self.destination, Side.DESTINATION, overlay.arrived.base)
                if there is not None:
                    sides.append((Side.DESTINATION, there.path, there.size_bytes))
            for side, path, size_bytes in sides:
                await self._expect_room(side, path, size_bytes, overlay, base)

    async def _expect_room(
        self, side: Side, path: str, size_bytes: int, overlay: Overlay, base: FileFacts
    ) -> None:
        uri = self._request.shown_uri(side)
        try:
            if overlay.on_device:
                end_bytes = await image_end(self.source.storage, overlay.base)
            else:
                end_bytes = await end_in_file(self.source.storage, overlay.base, base.size_bytes)
        except ImageCorrupt as error:
            raise HostError(str(error), host=self.source.uri, call="image-end") from error
        left_bytes = size_bytes - end_bytes
        if (need_bytes := held_bytes(base) + MARGIN_LEAST_BYTES) > left_bytes:
            what = f"{left_bytes // MIB} MiB behind the image; a commit may need {-(-need_bytes // MIB)} MiB"
            message = f"disk {overlay.target}: the device {path} has {what}"
            missing_mib = -(-(need_bytes - left_bytes) // MIB)
            remedy = f"make it {missing_mib} MiB larger, for example lvextend"
            self.findings.append(Finding("device-space", uri, message, remedy))

    def _refuse(self, overlay: Overlay, path: str, check: str, why: str, remedy: str) -> None:
        """A finding that nobody can accept."""
        self.settled = False
        self._find(overlay, path, check, why, remedy)

    def _find(self, overlay: Overlay, path: str, check: str, why: str, remedy: str) -> None:
        message = f"disk {overlay.target}, {'on' if overlay.shared else 'onto'} the device {path}: {why}"
        self.findings.append(Finding(check, self._request.shown_uri(Side.DESTINATION), message, remedy))


_MISSING = (
    "device-missing",
    "there is no such block device that libvirt shows, and none is ever made",
    "make one there and name it (--disk-map TARGET=/dev/VG/LV), or name a file that is to be made",
)
_SAME = "it may be the very device that the source has"
_OTHER = "use another one: --disk-map"


def _naming(overlay: Overlay) -> str:
    return (
        f"if it is to be: --disk-map {overlay.target}={overlay.arrived.base}; "
        f"or have a file made: --disk-map {overlay.target}=PATH"
    )
