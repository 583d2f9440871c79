"""Block devices that both hosts share, such as a LUN of a SAN, or a logical volume on one.

A file that appears at the other host proves a file system shared; nothing may be written onto a device for
that. What proves it is the hardware: both hosts follow the device down to the same blocks of the same disks
(``fsm.engine.hardware``). That is asked in preflight, and once more when the base stands still; then what
both read must be alike as well: past their caches, as QEMU does, and through them, as libvirt does.
"""

from __future__ import annotations

import asyncio

from fsm.engine import devices
from fsm.engine.context import Context
from fsm.engine.direct import shell
from fsm.engine.hardware import hardware_of
from fsm.engine.plan import Direct, Side
from fsm.errors import ActionFailed, ImageCorrupt, VerificationFailed
from fsm.hypervisor.shell import Shell
from fsm.hypervisor.values import FileFacts, Overlay
from fsm.images.image_end import image_end
from fsm.images.tables import compare_tables

HEAD_BYTES = 1 << 20
PIECE_BYTES = 1 << 30
UNCACHED = ("none", "directsync")
"""The cache modes by which QEMU reads and writes past its host's caches, of which others know nothing."""


async def why_not_shared(context: Context, direct: Direct, path: str, there: FileFacts) -> str:
    """Why the device at that path is not known to be one for both hosts; empty where it is.

    ``there`` is what libvirt sees at the destination: what the shells show must not be twice the source's.
    At the source the node's time may change with each write of the guest; it is looked at when that is over.
    """
    if why := await _why_two(context, direct, path):
        return why
    return await _why_another_host(_way(context, direct, Side.DESTINATION), path, there)


async def expect_same_device(context: Context, overlay: Overlay) -> None:
    """Both hosts have the very same device, nobody uses it at the destination, and both read the same."""
    try:
        why = await _why_another(context, overlay)
    except (VerificationFailed, ImageCorrupt) as error:
        why = f"the hosts do not read the same of it: {error}"
    if why:
        raise ActionFailed(
            "create-copies",
            f"{context.request.shown_uri(Side.DESTINATION)}: {overlay.base} is not the device that the "
            f"source has, or shows an old state: {why}",
            retryable=False,
            remedy="see where that path leads on both hosts, and who else has the device open there",
        )


async def _why_another(context: Context, overlay: Overlay) -> str:
    direct, path = context.request.direct, overlay.base
    if direct is None:
        return "no command can be run on the hosts"
    hosts = {side: await context.host(side) for side in Side}
    if why := await _why_two(context, direct, path):
        return why
    for side, host in hosts.items():
        seen = await host.storage.stat(path)
        if why := await _why_another_host(_way(context, direct, side), path, seen):
            return why
    device = await devices.device_at(_way(context, direct, Side.DESTINATION), path)
    if device is None or device.busy:
        return "; ".join(device.busy) if device is not None else "it is gone"
    if not await _read_alike(context, direct, path, 0, HEAD_BYTES):
        return "its first MiB is not the same for both"
    source, destination = hosts[Side.SOURCE], hosts[Side.DESTINATION]
    if await compare_tables(source, destination, path, overlay.base_format) is None:
        return ""
    # How much room is left for a commit is told by the reference counts, as that host sees them.
    ends = await asyncio.gather(*(image_end(host.storage, path) for host in (source, destination)))
    return "" if ends[0] == ends[1] else "its image ends in different places"


async def compare_shared_devices(context: Context) -> None:
    """Read every byte of the images on shared devices on both hosts, and fail where one differs.

    In pieces: what an engine that died has left reading on a host soon comes to an end.
    """
    direct = context.request.direct
    for overlay in (one for one in context.planned.overlays if one.shared and one.on_device):
        path, end_bytes = overlay.base, context.history.bases.of(overlay.base).size_bytes
        if overlay.base_format == "qcow2":
            end_bytes = await image_end((await context.host(Side.SOURCE)).storage, path)
        for offset in range(0, end_bytes, PIECE_BYTES):
            length = min(PIECE_BYTES, end_bytes - offset)
            if direct is None or not await _read_alike(context, direct, path, offset, length):
                raise ActionFailed(
                    "copy-bases",
                    f"{context.request.shown_uri(Side.DESTINATION)}: {path} does not read as at the source, "
                    f"between byte {offset} and byte {offset + length}",
                    retryable=False,
                    remedy="see where that path leads on both hosts; the source's image is whole",
                )
            context.progress("verify", offset + length, end_bytes)


async def _read_alike(context: Context, direct: Direct, path: str, offset: int, length: int) -> bool:
    ways = (_way(context, direct, side) for side in Side)
    ours, theirs = await asyncio.gather(*(devices.digest(way, path, offset, length) for way in ways))
    return ours == theirs


async def _why_two(context: Context, direct: Direct, path: str) -> str:
    """Why these may be two devices: by their lengths and by their hardware."""
    lengths, names = [], []
    for side in Side:
        uri, way = context.request.shown_uri(side), _way(context, direct, side)
        if (device := await devices.device_at(way, path)) is None:
            return f"{uri}: there is no such block device"
        hardware = await hardware_of(way, path)
        if not hardware.name:
            return f"{uri}: {hardware.why}, so it can't be told from another one"
        lengths.append(device.size_bytes)
        names.append(hardware.name)
    if names[0] != names[1]:
        return f"it is {names[0]} at the source, and {names[1]} at the destination"
    return "" if lengths[0] == lengths[1] else f"the hosts see {lengths[0]} and {lengths[1]} bytes of it"


async def _why_another_host(way: Shell, path: str, seen: FileFacts | None) -> str:
    """Why a shell may lead to another host than libvirt's."""
    if seen is not None and await devices.named(way, path) == f"{seen.size_bytes} {seen.modified}":
        return ""
    return f"what leads to a shell at {way.uri} sees another {path} than libvirt there"


def _way(context: Context, direct: Direct, side: Side) -> Shell:
    return shell(context.request, direct, side)
