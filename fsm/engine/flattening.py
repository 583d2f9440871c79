"""Flattening a disk behind its migration, for those who ask for it: ``Request.flatten``.

libvirt's block pull copies what is below the image into it, and then the image names no backing file any
more. It is begun at the destination when all is committed, and nobody waits for its end: the job is
libvirt's.

What an internal snapshot has not changed is read through the backing file that the image's header names.
Behind a pull it would read as zeros, so no image with snapshots is flattened.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from fsm.engine.checks import MIB, Finding
from fsm.engine.context import Context
from fsm.engine.plan import Request, Side
from fsm.engine.space import directory_of
from fsm.errors import HostError, ImageCorrupt
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DomainFacts, FileFacts, Overlay
from fsm.images.tables import look_at_image
from fsm.machine.observation import DomainState

# Tried with 10.0 and 11.1.
_FLUSHES_SINCE = (10, 0, 0)
_LEAVE = "leave --flatten away for it"


async def findings(
    request: Request, source: Host, destination: Host | None, facts: DomainFacts, overlays: Sequence[Overlay]
) -> list[Finding]:
    """What stands against flattening the disks that are to be flattened."""
    if not request.flatten:
        return []
    moving = {overlay.target: overlay for overlay in overlays}
    against = []
    if facts.state is not DomainState.RUNNING:
        message = f"domain {facts.name} is {facts.state}, and libvirt pulls into a running domain alone"
        against.append((message, "let it run, or leave --flatten away"))
    for target in dict.fromkeys(request.flatten):
        if target not in moving:
            message = f"domain {facts.name} has no disk {target!r} that is migrated"
            against.append((message, f"there are: {', '.join(moving)}"))
            continue
        if why := await _why_not(source, facts, moving[target]):
            message, remedy = why
            against.append((f"disk {target} ({moving[target].base}): {message}", remedy))
    found = [Finding("flatten", source.uri, message, remedy) for message, remedy in against]
    return found + (await _unflushed(destination) if destination is not None else [])


async def _unflushed(destination: Host) -> list[Finding]:
    """QEMU 7.2 takes the backing file's name out of the header before it writes out where the data is."""
    version = (await destination.identity()).hypervisor_version
    if version >= _FLUSHES_SINCE:
        return []
    message = (
        f"with QEMU {version[0]}.{version[1]} a flattened image reads as zeros where its QEMU dies between "
        "the end of the pull and the guest's next flush"
    )
    remedy = "keep what is below it: qemu-img rebase -u brings all back; then --accept flatten-flush"
    return [Finding("flatten-flush", destination.uri, message, remedy)]


async def _why_not(source: Host, facts: DomainFacts, overlay: Overlay) -> tuple[str, str] | None:
    if overlay.base_format != "qcow2":
        return f"it is {overlay.base_format}, and stands on no other file", _LEAVE
    if overlay.arrives_on_device:
        return "it arrives on a block device, which does not grow with a pull", _LEAVE
    chain = next(disk.chain for disk in facts.disks if disk.target == overlay.target)
    if facts.state is not DomainState.SHUT_OFF and len(chain) == 1:
        return "it stands on no other file already", _LEAVE
    try:
        names = await _snapshots(source, overlay.base)
    except (HostError, ImageCorrupt) as error:
        return f"it can't be told whether it holds snapshots: {error}", _LEAVE
    if names:
        message = f"it holds the snapshots {names}, which would read zeros where they read what is below it"
        return message, f"delete them (virsh snapshot-delete), or {_LEAVE}"
    return None


async def _snapshots(host: Host, path: str) -> str:
    """The names of an image's internal snapshots, empty where it has none."""
    return ", ".join(snapshot.name for snapshot in (await look_at_image(host.storage, path)).snapshots)


def growth(
    request: Request,
    overlays: Iterable[Overlay],
    bases: Iterable[FileFacts],
    below: Mapping[str, Sequence[FileFacts]],
) -> dict[str, int]:
    """How much the pulls may make the images in each directory of the destination grow.

    What is below may be compressed, and smaller pieces than the image's clusters: only how large its disks
    are is a bound.
    """
    largest = {base.path: base.capacity_bytes for base in bases}
    grown: dict[str, int] = {}
    for overlay in overlays:
        if overlay.target in request.flatten and overlay.base in largest:
            held_bytes = max((file.capacity_bytes for file in below.get(overlay.target, ())), default=0)
            directory = directory_of(overlay.arrived.base)
            grown[directory] = grown.get(directory, 0) + min(held_bytes, largest[overlay.base])
    return grown


def space(need_bytes: int, grown_bytes: int, free_bytes: int, directory: str, uri: str) -> list[Finding]:
    """A directory's file system has room for the pulls as well, where it has any for the migration."""
    if not grown_bytes or not need_bytes <= free_bytes < need_bytes + grown_bytes:
        return []
    message = (
        f"{directory} has {free_bytes // MIB} MiB free; the migration needs {-(-need_bytes // MIB)} MiB, and "
        f"--flatten up to {-(-grown_bytes // MIB)} MiB more"
    )
    remedy = "free space there; where what is below holds far less than its disk: --accept flatten-space"
    return [Finding("flatten-space", uri, message, remedy)]


async def flatten_destination(context: Context) -> None:
    """Begin the block pulls that were asked for, or tell why one was not begun: nothing fails for it."""
    targets = tuple(dict.fromkeys(context.request.flatten))
    if not targets:
        return
    pulling: list[str] = []
    not_flattened: list[str] = []
    context.outcome |= {"pulling": pulling, "not_flattened": not_flattened}
    # Before the first of them is: who comes after a crash takes it for no alteration by somebody else.
    await context.note("flatten-destination", {"flattening": [*targets]})
    name = context.planned.destination_name or context.planned.domain_name
    virsh = f"virsh -c {shlex.quote(context.request.shown_uri(Side.DESTINATION))}"
    arrived = {overlay.target: overlay for overlay in context.planned.overlays_at(Side.DESTINATION)}
    for target in targets:
        disk = f"{shlex.quote(name)} {target}"
        try:
            why = await _begin(context, arrived[target])
        except (HostError, ImageCorrupt) as error:
            why = str(error)
        if why:
            not_flattened.append(f"disk {target}: {why}; to begin it: {virsh} blockpull {disk}")
        else:
            pulling.append(f"disk {target}: {virsh} blockjob {disk}")


async def _begin(context: Context, overlay: Overlay) -> str:
    """Begin the pull into one disk, unless it runs or is over; why it was not begun."""
    host, uuid = await context.host(Side.DESTINATION), context.planned.domain_uuid
    facts = await host.domain(uuid)
    if facts is None or facts.state is not DomainState.RUNNING:
        return f"the domain is {facts.state if facts else 'gone'} there"
    if any(disk.target == overlay.target and disk.chain == (overlay.base,) for disk in facts.disks):
        return ""
    if names := await _snapshots(host, overlay.base):
        return f"its image holds the snapshots {names}, which would read zeros then"
    await host.start_pull(uuid, overlay.target, overlay.base)
    # libvirt takes none while the job runs, and one that came before it loses nothing as long as it runs.
    if names := await _snapshots(host, overlay.base):
        await host.cancel_block_job(uuid, overlay.target)
        return f"its image got the snapshots {names} as it began, so it was cancelled"
    return ""
