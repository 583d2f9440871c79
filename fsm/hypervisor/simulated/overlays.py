"""Overlays: put over the disks of a running domain, or of a shut-off one for its next start."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from fsm.hypervisor.simulated import commit, documents, files, images
from fsm.hypervisor.simulated.state import (
    Denied,
    DomainRecord,
    HostState,
    Missing,
    NoSpace,
    WorldState,
    active,
    domain_record,
    idle,
)
from fsm.hypervisor.values import Overlay

Layers = tuple[tuple[str, str], ...]


def layers(state: WorldState, host: HostState, record: DomainRecord, target: str) -> Layers:
    """The layers (path, format) of a disk: those that QEMU has open, else those that it would open."""
    if record.instance is not None:
        if target in record.instance.disks:
            return record.instance.disks[target].layers
    else:
        for disk in documents.disks(record.definition or ""):
            if disk.target == target and disk.source:
                return images.chain(state, host, disk.source, disk.format or "raw")
    raise Missing(f"the domain has no disk {target!r}")


def create(state: WorldState, host: HostState, uuid: str, overlays: Sequence[Overlay]) -> None:
    """Put all overlays over their disks, or none of them."""
    record = domain_record(host, uuid)
    missing = [overlay for overlay in overlays if not _is_on(state, host, record, overlay)]
    if not missing:
        return
    if len(missing) < len(overlays):
        names = ", ".join(overlay.target for overlay in missing)
        raise Denied(f"some disks have their overlay and these have none: {names}")
    for overlay in overlays:
        _may_be_put(state, host, record, overlay)
    made: list[str] = []
    try:
        for overlay in overlays:
            create_image(state, host, record, overlay.target, overlay.path)
            made.append(overlay.path)
    except NoSpace:
        for path in made:
            files.remove(state, host, path)
        raise
    for overlay in overlays:
        put(state, host, record, overlay.target, overlay.path)


def _is_on(state: WorldState, host: HostState, record: DomainRecord, overlay: Overlay) -> bool:
    paths = tuple(path for path, _ in layers(state, host, record, overlay.target))
    if paths[:2] == (overlay.path, overlay.base):
        return True
    if paths[:1] == (overlay.base,):
        return False
    raise Denied(
        f"disk {overlay.target!r} stands on {paths[0]!r}, on neither {overlay.base!r} nor {overlay.path!r}"
    )


def _may_be_put(state: WorldState, host: HostState, record: DomainRecord, overlay: Overlay) -> None:
    instance = record.instance
    idle(instance)
    if instance is not None and instance.disks[overlay.target].busy:
        raise Denied(f"block operation: disk '{overlay.target}' already in active block job")
    if files.find(state, host, overlay.path) is not None:
        raise Denied(
            f"external snapshot file for disk {overlay.target} already exists and is not a block "
            f"device: {overlay.path}"
        )
    files.filesystem(state, host, posixpath.dirname(overlay.path))


def create_image(state: WorldState, host: HostState, record: DomainRecord, target: str, path: str) -> None:
    """Create an empty image on top of a disk."""
    top = layers(state, host, record, target)[0]
    capacity = images.header(files.existing(state, host, top[0])).capacity_bytes
    images.create(state, host, path, capacity, top)


def resize(state: WorldState, host: HostState, uuid: str, target: str, capacity_bytes: int) -> None:
    """Give the active layer of a running domain's disk another size."""
    _, instance = active(host, uuid)
    idle(instance)
    if target not in instance.disks:
        raise Missing(f"the domain has no disk {target!r}")
    disk = instance.disks[target]
    if disk.busy:
        raise Denied("internal error: unable to execute QEMU command 'block_resize': Device is in use")
    images.resize(state, host, disk.layers[0], capacity_bytes)
    state.touch(host, uuid)


def put(state: WorldState, host: HostState, record: DomainRecord, target: str, path: str) -> None:
    """Make an image the active layer of a disk, and of the definition."""
    if record.instance is not None:
        disk = record.instance.disks[target]
        disk.layers = ((path, "qcow2"), *disk.layers)
    commit.follow(record, target, (path, "qcow2"))
    state.touch(host, record.uuid)
