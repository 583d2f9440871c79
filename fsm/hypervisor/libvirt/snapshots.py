"""Snapshot metadata, and the overlays that libvirt makes by its snapshot call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import libvirt
from lxml import etree

from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt.session import Call
from fsm.hypervisor.values import DiskFacts, Overlay, SnapshotMetadata

_OVERLAY_FLAGS = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
)


def list_snapshots(call: Call, uuid: str) -> tuple[SnapshotMetadata, ...]:
    """All snapshots' metadata, parents before children, otherwise in the order in which they were taken."""
    return _listed(call, uuid, libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE)


def list_public(call: Call, uuid: str) -> tuple[SnapshotMetadata, ...]:
    """The same without what libvirt shows to those alone who may change the domain."""
    return _listed(call, uuid, 0)


def _listed(call: Call, uuid: str, xml_flags: int) -> tuple[SnapshotMetadata, ...]:
    snapshots = call.domain(uuid).listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
    described = [_metadata(snapshot, xml_flags) for snapshot in snapshots]
    depth: dict[str | None, int] = {None: 0}
    for metadata, _ in described:
        depth[metadata.name] = depth[metadata.parent] + 1
    # libvirt lists siblings in the order of a hash table, which is another one at each call.
    described.sort(key=lambda pair: (depth[pair[0].name], pair[1], pair[0].name))
    return tuple(metadata for metadata, _ in described)


def forget_snapshots(call: Call, uuid: str, names: Sequence[str]) -> None:
    """Drop metadata, children first, so that no snapshot is given another parent on the way."""
    domain = call.domain(uuid)
    for snapshot in reversed(domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)):
        if snapshot.getName() in names:
            snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def define_snapshots(call: Call, uuid: str, snapshots: Sequence[SnapshotMetadata]) -> None:
    """Define metadata as given; libvirt replaces what is there already under the same name."""
    domain = call.domain(uuid)
    for snapshot in snapshots:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
        if snapshot.current:
            flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
        domain.snapshotCreateXML(snapshot.xml, flags)


def create_overlays(call: Call, uuid: str, overlays: Sequence[Overlay]) -> None:
    """Put all overlays over their disks at once, unless all are there already."""
    domain = call.domain(uuid)
    active = bool(domain.isActive())
    disks = {disk.target: disk for disk in domain_xml.disks(domain.XMLDesc(0), whole_chain=active)}
    missing = [overlay for overlay in overlays if not _is_on(call, disks, overlay, active=active)]
    if not missing:
        return
    if len(missing) < len(overlays):
        raise call.error(
            "some disks have their overlay and these have none: "
            + ", ".join(overlay.target for overlay in missing),
            remedy="commit the overlays that exist, then begin again",
        )
    domain.snapshotCreateXML(overlay_document(list(disks), overlays), _OVERLAY_FLAGS)


def overlay_document(targets: Sequence[str], overlays: Sequence[Overlay]) -> str:
    """What libvirt is asked for; a disk left out would get an overlay of libvirt's choice."""
    root = etree.Element("domainsnapshot")
    disks = etree.SubElement(root, "disks")
    wanted = {overlay.target: overlay for overlay in overlays}
    for target in targets:
        disk = etree.SubElement(disks, "disk", name=target, snapshot="no")
        if target in wanted:
            disk.set("snapshot", "external")
            etree.SubElement(disk, "driver", type="qcow2")
            domain_xml.set_attribute(etree.SubElement(disk, "source"), "file", wanted[target].path)
    return domain_xml.serialize(root)


def _is_on(call: Call, disks: dict[str, DiskFacts], overlay: Overlay, *, active: bool) -> bool:
    """Whether the disk has its overlay; an error when it stands on neither the overlay nor the base."""
    disk = disks.get(overlay.target)
    if disk is None:
        raise call.not_found(f"the domain has no disk {overlay.target!r}")
    wanted = (overlay.path, overlay.base) if active else (overlay.path,)
    if disk.chain[:2] == wanted:
        return True
    if disk.chain[:1] == (overlay.base,):
        return False
    raise call.error(
        f"disk {overlay.target!r} stands on {list(disk.chain)}, neither on {overlay.base!r} alone "
        f"nor with {overlay.path!r} on it",
        remedy="find out who changed the disk before going on",
    )


def _metadata(snapshot: Any, xml_flags: int) -> tuple[SnapshotMetadata, int]:
    """A snapshot's metadata, and when it was taken."""
    xml = snapshot.getXMLDesc(xml_flags)
    root = domain_xml.parse(xml, "domainsnapshot")
    memory = [element.get("snapshot") for element in root.iterfind("memory")]
    disks = [element.get("snapshot") for element in root.iterfind("disks/disk")]
    metadata = SnapshotMetadata(
        name=snapshot.getName(),
        xml=xml,
        parent=root.findtext("parent/name"),
        current=bool(snapshot.isCurrent()),
        external="external" in memory + disks,
    )
    return metadata, int(root.findtext("creationTime", "0"))
