"""Whether libvirt's metadata and the images know of the same internal snapshots. Both are carried."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fsm.engine.checks import Finding
from fsm.errors import HostError, ImageCorrupt
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Overlay
from fsm.images.tables import look_at_image


async def notes(source: Host, overlays: Sequence[Overlay], described: Collection[str]) -> list[Finding]:
    """What one of them knows and the other does not. An image that can't be read is others' to tell of."""
    stored = {}
    for overlay in overlays:
        if overlay.base_format != "qcow2":
            continue
        try:
            image = await look_at_image(source.storage, overlay.base)
        except (HostError, ImageCorrupt):
            return []
        stored[overlay.target] = [snapshot.name for snapshot in image.snapshots]
    return differences(source.uri, stored, described)


def differences(uri: str, stored: Mapping[str, Collection[str]], described: Collection[str]) -> list[Finding]:
    """The same of what each disk's image stores and what libvirt describes."""
    found = []
    anywhere = {name for names in stored.values() for name in names}
    if bare := sorted(set(described) - anywhere):
        message = f"libvirt describes snapshots of which no image has data: {_listed(bare)}"
        found.append(Finding("snapshot-data", uri, message, "they are carried as they are"))
    for target, names in stored.items():
        if unknown := sorted(set(names) - set(described)):
            message = (
                f"disk {target}: its image holds snapshots that libvirt does not know: {_listed(unknown)}"
            )
            found.append(Finding("snapshot-metadata", uri, message, "they come along inside the image"))
    return found


def _listed(names: Sequence[str]) -> str:
    few = ", ".join(map(repr, names[:5]))
    return f"{few} and {len(names) - 5} more" if len(names) > 5 else few
