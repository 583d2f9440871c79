"""Internal snapshots: their data in the images, their metadata at the host, as with libvirt."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from fsm.hypervisor.simulated import documents, files, images, instances
from fsm.hypervisor.simulated.state import (
    Denied,
    DomainRecord,
    HostState,
    Missing,
    WorldState,
    active,
    domain_record,
    idle,
)
from fsm.hypervisor.values import Overlay, SnapshotMetadata

_FIRST_TAKEN_AT = 1_700_000_000


def listed(host: HostState, uuid: str) -> tuple[SnapshotMetadata, ...]:
    """All metadata, parents before children."""
    record = domain_record(host, uuid)
    return tuple(
        attrs.evolve(record.snapshots[name], current=name == record.current)
        for name in _parents_first(record)
    )


def public(host: HostState, uuid: str) -> tuple[SnapshotMetadata, ...]:
    """All metadata without passwords."""
    return tuple(
        attrs.evolve(metadata, xml=documents.without_passwords(metadata.xml))
        for metadata in listed(host, uuid)
    )


def _parents_first(record: DomainRecord) -> list[str]:
    children: dict[str | None, list[str]] = {}
    for name, metadata in record.snapshots.items():
        children.setdefault(metadata.parent, []).append(name)
    ordered: list[str] = []
    level: list[str | None] = [None]
    for _ in range(len(record.snapshots) + 1):
        names = [name for parent in level for name in children.get(parent, ())]
        ordered += names
        level = list(names)
    return ordered


def forget(state: WorldState, host: HostState, uuid: str, names: Sequence[str]) -> None:
    """Drop metadata alone; children of a dropped snapshot become those of its parent."""
    record = domain_record(host, uuid)
    idle(record.instance)
    for name in reversed(_parents_first(record)):
        if name in names:
            _drop(record, name)
    state.touch(host, uuid)


def _drop(record: DomainRecord, name: str) -> None:
    gone = record.snapshots.pop(name)
    for child, metadata in record.snapshots.items():
        if metadata.parent == name:
            record.snapshots[child] = attrs.evolve(metadata, parent=gone.parent)
    if record.current == name:
        record.current = gone.parent


def define(state: WorldState, host: HostState, uuid: str, snapshots: Sequence[SnapshotMetadata]) -> None:
    """Define metadata from its XML, as ``virDomainSnapshotCreateXML`` with REDEFINE does."""
    record = domain_record(host, uuid)
    idle(record.instance)
    for given in snapshots:
        metadata, described = documents.snapshot_from(given.xml)
        if described and described != uuid:
            raise Denied(f"invalid argument: definition for snapshot {metadata.name} must use uuid {uuid}")
        if metadata.parent is not None and metadata.parent not in record.snapshots:
            raise Denied(f"invalid argument: parent {metadata.parent} for snapshot {metadata.name} not found")
        record.snapshots[metadata.name] = metadata
        if given.current:
            record.current = metadata.name
    state.touch(host, uuid)


# What operators do


def take(state: WorldState, host: HostState, uuid: str, name: str, description: str = "") -> None:
    """Take an internal snapshot of a running domain: into the active layer of every disk, overlay or not."""
    record, instance = active(host, uuid)
    if name in record.snapshots:
        raise Denied(f"operation failed: domain snapshot {name} already exists")
    idle(instance)
    disks = instances.writable(instance)
    for disk in disks:
        if disk.layers[0][1] != "qcow2":
            raise Denied(
                f"unsupported configuration: internal snapshot for disk {disk.target} unsupported for "
                f"storage type {disk.layers[0][1]}"
            )
        if disk.busy:
            raise Denied("Requested operation is not valid: domain has active block job")
    taken_at = _FIRST_TAKEN_AT + len(record.snapshots)
    memory = f"memory of {record.name} at {name}".encode()
    for number, disk in enumerate(disks):
        # QEMU puts the saved memory into the first image only.
        images.take_snapshot(state, host, disk.layers[0][0], name, memory if number == 0 else b"", taken_at)
    held = {disk.target for disk in disks}
    record.snapshots[name] = documents.snapshot(
        name=name,
        parent=record.current,
        description=description,
        taken_at=taken_at,
        targets={target: target in held for target in instance.disks},
        domain=documents.live(instance),
    )
    record.current = name
    state.touch(host, uuid)


def revert(state: WorldState, host: HostState, uuid: str, name: str) -> None:
    """Revert a running domain to an internal snapshot; ``Missing`` when an image does not hold it."""
    record, instance = active(host, uuid)
    if name not in record.snapshots:
        raise Missing(f"Domain snapshot not found: no domain snapshot with matching name '{name}'")
    disks = instances.writable(instance)
    for disk in disks:
        images.snapshot_blocks(files.existing(state, host, disk.layers[0][0]), name)
    for disk in disks:
        images.revert(state, host, disk.layers[0][0], name)
    record.current = name
    state.acknowledged.pop(uuid, None)
    state.touch(host, uuid)


def save(state: WorldState, host: HostState, overlay: Overlay, name: str, path: str) -> None:
    """Make an image of a snapshot in an overlay: what its guest saw through all layers, and its memory."""
    file = files.existing(state, host, overlay.path)
    entry = next((one for one in images.snapshot_table(file) if one.name == name), None)
    if entry is None:
        raise Missing(f"Snapshot '{name}' does not exist")
    below = images.chain(state, host, overlay.base, overlay.base_format)
    held = {
        block: images.read_block(state, host, below, block)
        for layer, layer_format in below
        for block in images.blocks(files.existing(state, host, layer), layer_format)
    }
    held.update(images.snapshot_blocks(file, name))
    images.create(state, host, path, images.header(file).capacity_bytes)
    for block, content in held.items():
        images.write_block(state, host, (path, "qcow2"), block, content)
    memory = images.vm_state(file, entry)
    images.take_snapshot(state, host, path, name, memory, entry.taken_at)


def delete(state: WorldState, host: HostState, uuid: str, name: str) -> None:
    """Delete an internal snapshot from the images, and its metadata."""
    record, instance = active(host, uuid)
    if name not in record.snapshots:
        raise Missing(f"Domain snapshot not found: no domain snapshot with matching name '{name}'")
    for disk in instances.writable(instance):
        images.delete_snapshot(state, host, disk.layers[0][0], name)
    _drop(record, name)
    state.touch(host, uuid)
