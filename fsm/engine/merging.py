"""How the overlays are merged at the destination.

By mirror wherever it can be: it is done with the switch-over, and nothing is left to commit behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fsm.engine.checks import Finding
from fsm.engine.plan import MergeChoice
from fsm.errors import HostError, ImageCorrupt
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Overlay
from fsm.images.qcow2 import Header
from fsm.images.tables import look_at_image
from fsm.machine.observation import Merge

_REMEDY = "migrate with --merge commit"


async def choose(
    source: Host, overlays: Sequence[Overlay], wanted: MergeChoice
) -> tuple[Merge, str, list[Finding]]:
    """The way, why it is this one, and what stands against merging by mirror where that was asked about."""
    if wanted is MergeChoice.COMMIT:
        return Merge.COMMIT, "asked for", []
    against = await against_mirror(source, overlays)
    if wanted is MergeChoice.MIRROR:
        return Merge.MIRROR, "asked for", against
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
