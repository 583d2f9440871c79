"""How the overlays are merged at the destination.

By mirror wherever it can be: it is done with the switch-over, and nothing is left to commit behind it. But
what the streams have written is on stable storage only when something syncs it, and where nothing can before
(``Storage.make_durable``) QEMU does so within the switch-over of a mirror, while the guest stands still.
"""

from __future__ import annotations

from collections.abc import Sequence

from fsm.engine.checks import MIB, Finding
from fsm.engine.plan import MergeChoice, Request
from fsm.errors import HostError, ImageCorrupt
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DomainFacts, FileFacts, Overlay
from fsm.images.qcow2 import Header
from fsm.images.tables import look_at_image
from fsm.machine.observation import DomainState, Merge

LONG_FLUSH_BYTES = 256 * MIB
"""A GiB to flush made the guest's longest silence 0.5 s instead of 0.25; with this it was as ever."""
_REMEDY = "migrate with --merge commit"


async def choose(
    source: Host,
    facts: DomainFacts,
    overlays: Sequence[Overlay],
    bases: Sequence[FileFacts],
    request: Request,
) -> tuple[Merge, str, list[Finding]]:
    """The way, why it is this one, and what stands against merging by mirror where that was asked about."""
    if facts.state is DomainState.SHUT_OFF:
        return Merge.NONE, "the domain is shut off", []
    if request.merge is MergeChoice.COMMIT:
        return Merge.COMMIT, "asked for", []
    against = await against_mirror(source, overlays)
    if request.merge is MergeChoice.MIRROR:
        return Merge.MIRROR, "asked for", against
    if request.direct is None:
        against += _long_flushes(source, bases)
    if against:
        return Merge.COMMIT, "; ".join(finding.message for finding in against), against
    return Merge.MIRROR, "nothing stands against it", []


async def against_mirror(source: Host, overlays: Sequence[Overlay]) -> list[Finding]:
    """A finding for each disk whose base can't be merged so, or can't be looked at."""
    whys = [(overlay, await _why_not(source, overlay)) for overlay in overlays]
    return [
        Finding("merge", source.uri, f"disk {overlay.target} ({overlay.base}): {why}", _REMEDY)
        for overlay, why in whys
        if why
    ]


def _long_flushes(source: Host, bases: Sequence[FileFacts]) -> list[Finding]:
    """A finding for each base whose copy would be flushed in the switch-over for so long that it is felt."""
    why = "its copy could be flushed only in the switch-over of a mirror, while the guest stands still"
    return [
        Finding("merge", source.uri, f"{base.path} ({base.allocated_bytes // MIB} MiB): {why}", _REMEDY)
        for base in bases
        if base.allocated_bytes > LONG_FLUSH_BYTES
        # What libvirt resizes, to the size that it has, is flushed then; it does neither of these.
        if base.format == "raw" or base.allocated_bytes > base.capacity_bytes
    ]


async def _why_not(source: Host, overlay: Overlay) -> str:
    if overlay.shared:
        return "both hosts share it, and QEMU lets no second host write to it while the source has it open"
    if overlay.base_format != "qcow2":
        return ""  # a raw disk's content is the guest's, whatever it looks like
    try:
        return _what_forbids((await look_at_image(source.storage, overlay.base)).header)
    except (HostError, ImageCorrupt) as error:
        return f"it can't be told whether the migration may write into its copy: {error}"


def _what_forbids(base: Header) -> str:
    if base.has_bitmaps:
        return "QEMU migrates its persistent bitmaps, and does not accept that its copy has them already"
    return ""
