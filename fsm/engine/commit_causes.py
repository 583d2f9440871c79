"""Why a commit failed: block job events carry no reason, so it is found by looking around."""

from __future__ import annotations

from fsm.engine.causes import Cause
from fsm.engine.context import Context
from fsm.engine.plan import Side
from fsm.engine.space import MIB, directory_of
from fsm.errors import ActionFailed, FsmError, HostError, HostUnreachable, OutcomeUnknown
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Overlay

# Below this a file system counts as full: QEMU gets no new cluster, libvirt no new file. ext4 tells as free
# what it gives to nobody, up to so much.
FULL_BYTES = 16 * MIB
# libc's words, which QEMU and libvirt pass on.
_FULL_WORDS = ("No space left on device", "Disk quota exceeded")
# QEMU 7.2, where a commit has failed at the moment at which the guest was paused.
_FILTER_LEFT_WORDS = "Need a root block node"
_DENIED_WORDS = ("Permission denied", "Operation not permitted", "Read-only file system")


async def explained(context: Context, side: Side, error: FsmError, activity: str) -> FsmError:
    """The same failure with the cause that can be found and what to do about it.

    An error that has its remedy already, or leaves it open what was done, is returned as it is.
    """
    if error.remedy or isinstance(error, HostUnreachable | OutcomeUnknown):
        return error
    message = error.message if isinstance(error, ActionFailed) else str(error)
    try:
        cause = await _cause(context, side, message)
    except HostError:
        return error
    what = f"{message}; {cause.what}" if cause.what else message
    remedy = f"{cause.remedy}, then: fsm retry {context.migration}"
    return ActionFailed(activity, f"{what}; the guest's data is in the overlay", remedy=remedy)


async def _cause(context: Context, side: Side, message: str) -> Cause:
    host = await context.host(side)
    facts = await host.domain(context.planned.domain_uuid)
    errors = dict(facts.disk_errors) if facts else {}
    for overlay in context.planned.overlays_at(side):
        refused = errors.get(overlay.target) == "no-space" or any(word in message for word in _FULL_WORDS)
        if found := await _full(host, overlay, refused=refused):
            return found
    denied = any(word in message for word in _DENIED_WORDS)
    if "apparmor" in (await host.identity()).security_models:
        remedy = f"allow QEMU on {host.uri} to write to the bases in libvirt's AppArmor abstraction"
        return Cause("AppArmor confines QEMU there", remedy)
    if denied:
        bases = ", ".join(overlay.base for overlay in context.planned.overlays_at(side))
        what = "QEMU may not write to a base"
        return Cause(what, f"let QEMU on {host.uri} write to {bases}: owner, mode, attributes, mount options")
    if _FILTER_LEFT_WORDS in message:
        what = (
            "QEMU has kept a filter of an earlier commit that failed, and this process of it commits no more"
        )
        return Cause(what, f"have the guest shut itself down on {host.uri}; its disks are committed then")
    if errors:
        targets = ", ".join(sorted(errors))
        return Cause(f"I/O errors on {targets}", f"repair the storage of disks {targets} on {host.uri}")
    return Cause("", f"look into libvirt's and QEMU's logs on {host.uri}")


async def _full(host: Host, overlay: Overlay, *, refused: bool) -> Cause | None:
    """Whether the overlay can't be committed for want of space."""
    above, below = directory_of(overlay.path), directory_of(overlay.base)
    seen = {above: await host.storage.space(above, (overlay.path,))}
    held_bytes = sum(file.allocated_bytes for file in seen[above].files)
    if overlay.on_device:
        # Whether it is full is seen before a commit; see ``fsm.engine.commit_space``.
        if refused and seen[above].free_bytes >= FULL_BYTES:
            what = f"there is no space on {overlay.base}, or on what it lies on (a thin pool)"
            return Cause(what, f"make it larger on {host.uri}, for example by lvextend")
    elif below != above:
        seen[below] = await host.storage.space(below, ())
    directory = min(seen, key=lambda one: seen[one].free_bytes)
    free_bytes = seen[directory].free_bytes
    if free_bytes >= FULL_BYTES and not refused:
        return None
    what = f"{directory} has {free_bytes // MIB} MiB free; its overlay holds {-(-held_bytes // MIB)} MiB"
    return Cause(what, f"free space in {directory} on {host.uri}")
