"""The XML that a simulated libvirtd prints, and what it reads out of the XML that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from attrs import field, frozen
from lxml import etree

from fsm.hypervisor import domain_xml, markers
from fsm.hypervisor.simulated.state import Instance, LiveDisk
from fsm.hypervisor.values import DiskFacts, Marker, SnapshotMetadata, is_among_devices

_KIB = 1024
_MIB = 1024 * _KIB


@frozen
class SimulatedDisk:
    """A disk for ``SimulatedWorld.add_domain``.

    ``path`` None means ``/var/lib/libvirt/images/DOMAIN-TARGET.FORMAT``; an empty one an empty drive.
    ``backing`` is a path below it and that file's format. ``written`` blocks hold data at the beginning.
    """

    target: str
    path: str | None = None
    capacity_bytes: int = 8 * _MIB
    format: str = "qcow2"
    device: str = "disk"
    read_only: bool = False
    shareable: bool = False
    backing: tuple[str, str] | None = None
    cache: str = ""
    written: tuple[int, ...] = field(default=(0, 1), converter=tuple)


@lru_cache(maxsize=4096)
def disks(xml: str) -> tuple[DiskFacts, ...]:
    """``domain_xml.disks`` with a memory: the same text is asked for at every observation."""
    return domain_xml.disks(xml, whole_chain=False)


@lru_cache(maxsize=4096)
def marker(xml: str) -> Marker | None:
    """``markers.read`` with a memory."""
    return markers.read(xml)


@lru_cache(maxsize=4096)
def memory_bytes(xml: str) -> int:
    """The domain's memory."""
    element = domain_xml.parse(xml).find("memory")
    if element is None or not element.text:
        return 0
    units = {"b": 1, "bytes": 1, "KiB": _KIB, "k": _KIB, "MiB": _MIB, "M": _MIB, "GiB": 1024 * _MIB}
    return int(element.text) * units.get(element.get("unit", "KiB"), _KIB)


def definition(
    *,
    name: str,
    uuid: str,
    memory_mib: int,
    machine: str,
    disks: Sequence[tuple[SimulatedDisk, str]],
    **boot: str,
) -> str:
    """A domain definition as libvirt prints one; ``boot`` holds paths by element name (kernel, initrd)."""
    domain = etree.Element("domain", type="qemu")
    _add(domain, "name", name)
    _add(domain, "uuid", uuid)
    _add(domain, "memory", str(memory_mib * 1024), unit="KiB")
    _add(domain, "currentMemory", str(memory_mib * 1024), unit="KiB")
    _add(domain, "vcpu", "1", placement="static")
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine=machine)
    for tag, path in boot.items():
        _add(system, tag, path)
    _add(domain, "clock", offset="utc")
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _add(domain, event, action)
    devices = _add(domain, "devices")
    _add(devices, "emulator", "/usr/bin/qemu-system-x86_64")
    for disk, path in disks:
        _add_disk(devices, disk, path)
    return domain_xml.serialize(domain)


def _add_disk(devices: etree._Element, disk: SimulatedDisk, path: str) -> None:
    element = _add(devices, "disk", type="file", device=disk.device)
    _add(element, "driver", name="qemu", type=disk.format, **({"cache": disk.cache} if disk.cache else {}))
    if path:
        _lay(element, _add(element, "source"), path)
    _add(element, "target", dev=disk.target, bus="virtio" if disk.device == "disk" else "sata")
    if disk.device == "disk":
        _add(element, "serial", disk.target)
    if disk.shareable:
        _add(element, "shareable")
    if disk.read_only or disk.device == "cdrom":
        _add(element, "readonly")


def live(instance: Instance) -> str:
    """The XML of a running domain: its definition with backing chains and block jobs as they are now."""
    root = domain_xml.parse(instance.xml)
    for element in root.iterfind("devices/disk"):
        target = element.find("target")
        disk = instance.disks.get(target.get("dev", "") if target is not None else "")
        if disk is not None:
            _show_layers(element, disk)
    return domain_xml.serialize(root)


def _show_layers(element: etree._Element, disk: LiveDisk) -> None:
    for tag in ("backingStore", "mirror"):
        for old in element.findall(tag):
            element.remove(old)
    (path, image_format), *below = disk.layers
    driver, source = element.find("driver"), element.find("source")
    if driver is not None:
        driver.set("type", image_format)
    if source is None:
        return
    _lay(element, source, path)
    at = element.index(source) + 1
    parent = etree.Element("backingStore")
    element.insert(at, parent)
    for lower, lower_format in below:
        parent.set("type", "file")
        _add(parent, "format", type=lower_format)
        _lay(parent, _add(parent, "source"), lower)
        parent = _add(parent, "backingStore")
    if disk.commit is not None:
        ready = {"ready": "yes"} if disk.commit.ready else {}
        mirror = etree.Element("mirror", {"type": "file", "job": "active-commit", **ready})
        _add(mirror, "format", type=dict(disk.layers)[disk.commit.base])
        _lay(mirror, _add(mirror, "source"), disk.commit.base)
        element.insert(at + 1, mirror)


def _lay(disk: etree._Element, source: etree._Element, path: str) -> None:
    domain_xml.set_source(disk, source, path, on_device=is_among_devices(path))


def snapshot(
    *,
    name: str,
    parent: str | None,
    description: str,
    taken_at: int,
    targets: Mapping[str, bool],
    domain: str,
) -> SnapshotMetadata:
    """Metadata of an internal snapshot; ``targets`` tells of each disk whether the snapshot holds it."""
    root = etree.Element("domainsnapshot")
    _add(root, "name", name)
    if description:
        _add(root, "description", description)
    _add(root, "state", "running")
    if parent is not None:
        _add(_add(root, "parent"), "name", parent)
    _add(root, "creationTime", str(taken_at))
    _add(root, "memory", snapshot="internal")
    disks = _add(root, "disks")
    for target, held in targets.items():
        _add(disks, "disk", name=target, snapshot="internal" if held else "no")
    root.append(domain_xml.parse(domain))
    return SnapshotMetadata(name, domain_xml.serialize(root), parent)


def snapshot_from(xml: str) -> tuple[SnapshotMetadata, str]:
    """Metadata read from its XML as libvirt reads it, and the UUID of the domain described there."""
    root = domain_xml.parse(xml, root="domainsnapshot")
    kinds = [
        element.get("snapshot") for where in ("memory", "disks/disk") for element in root.iterfind(where)
    ]
    metadata = SnapshotMetadata(
        root.findtext("name") or "", xml, root.findtext("parent/name"), external="external" in kinds
    )
    return metadata, (root.findtext("domain/uuid") or "").lower()


def without_passwords(xml: str) -> str:
    """Metadata as a client sees it that may only read."""
    root = domain_xml.parse(xml, root="domainsnapshot")
    for graphics in root.iter("graphics"):
        if graphics.get("passwd") is not None:
            del graphics.attrib["passwd"]
    return domain_xml.serialize(root)


def _add(parent: etree._Element, tag: str, text: str | None = None, /, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, tag, attributes)
    element.text = text
    return element
