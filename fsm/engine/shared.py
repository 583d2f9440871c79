"""Which bases both hosts share: files of a file system that both see, coherent or not, and block devices.

Such a base is neither copied nor removed. Only one host may have it open for writing at any time: until the
switch-over and after a rollback that is the source, and the destination for the commit, which begins when the
source is known to have no instance of the domain any more. Everything else is done as with a copied base.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from attrs import evolve

from fsm.engine.checks import Finding
from fsm.engine.context import Context
from fsm.engine.elsewhere import is_mapped
from fsm.engine.plan import Request, Side, StorageChoice
from fsm.engine.removal import leave
from fsm.engine.shared_devices import UNCACHED, expect_same_device, why_not_shared
from fsm.errors import ActionFailed, HostError
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DomainFacts, FileFacts, Overlay

# A file system that is not coherent may show a new file late. NFS looks anew whenever a directory is opened,
# but where it is mounted with nocto it keeps what it knows for up to a minute (acdirmax in nfs(5)). Whoever
# says that the storage is shared is believed to be worth the wait.
_LOOKS = {StorageChoice.AUTO: 3, StorageChoice.SHARED: 60}
_LOOK_AGAIN_S = 1.0
_NOT_SEEN = "what the source puts beside it does not appear there"


async def looked_at(
    context: Context,
    source: Host,
    destination: Host,
    overlay: Overlay,
    stat: Callable[[Host, str], Awaitable[FileFacts | None]],
) -> tuple[Overlay, str]:
    """The overlay with the word whether both hosts share its base, and why they do not. One mapped is copied.

    ``stat`` looks at a file of the destination, and gives None as well where not even its directory exists.
    """
    if overlay.destination_base or (overlay.on_device and is_mapped(context.request, overlay.target)):
        return overlay, ""
    there = await stat(destination, overlay.base)
    if overlay.on_device:
        why = "there is no such block device"
        if there is not None and (direct := context.request.direct) is not None:
            why = await why_not_shared(context, direct, overlay.base, there)
    else:
        seen = there is not None and await is_shared(context, source, destination, overlay.base)
        why = "" if seen else _NOT_SEEN
    return evolve(overlay, shared=not why, arrives_on_device=overlay.on_device and not why), why


async def is_shared(context: Context, source: Host, destination: Host, beside: str) -> bool:
    """Whether an empty file that the source makes beside an image appears at the destination.

    Nothing else tells two hosts' files apart while a guest writes: a copy has the same path, and may have the
    same length, header and time. The file has a name of its own and is removed again.
    """
    path = f"{beside}.fsm-{context.migration}.probe"
    there: list[str] = context.outcome.setdefault("probes", [*context.history.probes])
    there += [path] if path not in there else []
    # Before it is made: an engine that takes over must know what to remove.
    await context.note("probe-sharing", {"probes": [*there]})
    if await source.storage.stat(path) is None:
        await source.storage.create_sparse(path, 0)
    try:
        for _ in range(_LOOKS[context.request.storage]):
            if await destination.storage.stat(path) is not None:
                return True
            await context.clock.wait(context.abort, _LOOK_AGAIN_S)
        return False
    finally:
        await source.storage.remove(path)
        there.remove(path)


async def remove_probes(context: Context) -> None:
    """Remove what an engine that died while it looked has left at the source, or tell of it."""
    for path in context.history.probes:
        try:
            await (await context.host(Side.SOURCE)).storage.remove(path)
        except HostError:
            # An empty file harms nobody; no migration fails for it.
            leave(context, f"{context.request.shown_uri(Side.SOURCE)}: {path}, if it is there at all")


def findings(
    facts: DomainFacts, overlays: Iterable[Overlay], request: Request, whys: Mapping[str, str]
) -> list[Finding]:
    """What stands against the sharing that was found, or against its lack; ``whys`` says why it was not."""
    cache = {disk.target: disk.cache for disk in facts.disks}
    found = []
    for overlay in overlays:
        disk = f"disk {overlay.target} ({overlay.base})"
        if overlay.shared and (message := _against_cache(cache.get(overlay.target, ""), overlay)):
            remedy = "choose another cache mode: " + (" or ".join(UNCACHED) if overlay.on_device else "none")
            found.append(Finding("disk-cache", request.shown_uri(Side.SOURCE), f"{disk}: {message}", remedy))
        elsewhere = bool(overlay.destination_base)
        if not overlay.shared and not elsewhere and request.storage is StorageChoice.SHARED:
            message = f"{disk}: {whys.get(overlay.target) or 'it is to be copied'}: it is not shared"
            remedy = "mount the same file system on both hosts, or migrate with --storage copy"
            if overlay.on_device:
                remedy = "see what both hosts tell of it; or copy it onto another device: --disk-map"
            found.append(Finding("not-shared", request.shown_uri(Side.DESTINATION), message, remedy))
    return found


def notes(overlays: Iterable[Overlay], request: Request, whys: Mapping[str, str]) -> list[Finding]:
    """Why a device is not taken for one that both hosts share, where nobody has said that it is."""
    uri = request.shown_uri(Side.DESTINATION)
    told = [one for one in overlays if one.on_device and whys.get(one.target)]
    return [
        Finding("not-shared", uri, f"disk {one.target} ({one.base}): {whys[one.target]}: it is not shared")
        for one in (told if request.storage is StorageChoice.AUTO else ())
    ]


def _against_cache(mode: str, overlay: Overlay) -> str:
    if overlay.on_device and mode not in UNCACHED:
        shown = f"cache mode {mode!r}" if mode else "QEMU's own cache mode"
        return f"with {shown} each host may keep blocks that the other has written since"
    if mode == "unsafe":
        return "with cache mode 'unsafe' QEMU never says what has reached the shared storage"
    return ""


async def expect_same_files(context: Context) -> None:
    """Both hosts see each shared base alike, now that it stands still: to the byte long, to the ns old.

    A link may lead from a shared directory to a file that is not.
    """
    destination = await context.host(Side.DESTINATION)
    for overlay in (one for one in context.planned.overlays if one.shared):
        if overlay.on_device:
            await expect_same_device(context, overlay)
            continue
        base = context.history.bases.of(overlay.base)
        found = await destination.storage.stat(base.path)
        if found is None or (found.size_bytes, found.modified) != (base.size_bytes, base.modified):
            raise ActionFailed(
                "create-copies",
                f"{destination.uri}: {base.path} is not the file that the source has, or shows an old state",
                retryable=False,
                remedy="see where that path leads on both hosts, and how the file system is mounted there",
            )
