"""What a guest of the lab is to look like, and its domain XML."""

from __future__ import annotations

from typing import Literal

import attrs
from lxml import etree

from fsm.lab.host import BOOT, IMAGES, SERIAL

DomainState = Literal["running", "paused", "shut off"]


@attrs.frozen(kw_only=True)
class Ring:
    """Where and how often the guest writes its numbered blocks on each disk.

    A stride above 4 KiB spreads the slots, so that each write touches a qcow2 cluster of its own: more to
    merge.
    """

    offset_kib: int = 1024
    slots: int = 1024
    stride_kib: int = 4
    interval_ms: int = 20

    @property
    def end_kib(self) -> int:
        """The first KiB behind the ring."""
        return self.offset_kib + self.slots * self.stride_kib


@attrs.frozen(kw_only=True)
class DiskSpec:
    """One disk of a guest.

    ``data_mib`` of it, right behind the ring, hold incompressible bytes made from ``seed``.
    """

    target: str
    size_mib: int = 64
    data_mib: int = 0
    format: Literal["qcow2", "raw"] = "qcow2"
    device: Literal["disk", "cdrom"] = "disk"
    path: str | None = None
    """Default: ``GUEST-TARGET.FORMAT`` in the image directory."""
    on_device: bool = False
    """The path leads to a block device, which is there already."""
    empty: bool = False
    """A drive without a medium."""
    readonly: bool = False
    shareable: bool = False
    everywhere: bool | None = None
    """The image is put on both hosts. Default: of cdroms and read-only disks, which no migration copies."""
    cluster_size: int | None = None
    options: tuple[str, ...] = ()
    """More creation options for ``qemu-img -o``, such as ``lazy_refcounts=on``."""
    bus: str | None = None
    cache: str | None = None
    """Default: "none", where the images' file systems have O_DIRECT."""
    seed: int = 1

    @property
    def on_both_hosts(self) -> bool:
        """Whether the other host gets the image too."""
        return self.device == "cdrom" or self.readonly if self.everywhere is None else self.everywhere

    @property
    def written(self) -> bool:
        """Whether the guest writes to it: it has a driver for virtio disks only."""
        return self.device == "disk" and not self.readonly and not self.empty and self.bus in (None, "virtio")

    def image(self, guest: str) -> str:
        """The path of the image inside the hosts."""
        return self.path or f"{IMAGES}/{guest}-{self.target}.{self.format}"


@attrs.frozen
class SnapshotSpec:
    """One internal snapshot. The list of a guest's snapshots is in the order of taking them."""

    name: str
    parent: str | None = None
    description: str = ""


@attrs.frozen(kw_only=True)
class GuestSpec:
    """A guest: what ``Lab.define_guest`` makes."""

    name: str = "guest"
    disks: tuple[DiskSpec, ...] = (DiskSpec(target="vda"),)
    snapshots: tuple[SnapshotSpec, ...] = ()
    live_snapshots: bool = True
    """Taken while the guest runs, with its memory; otherwise while it is shut off, of the disks only."""
    current: str | None = None
    """Revert to this snapshot at the end. Default: the one taken last stays the current one."""
    state: DomainState = "running"
    memory_mib: int = 128
    vcpus: int = 1
    ring: Ring = Ring()
    poweroff_s: int = 0
    """The guest switches itself off after so many seconds; 0: never."""
    dirty_mib: int = 0
    """So much of its memory the guest writes over and over, as fast as it can."""
    extra_devices: str = ""
    """XML put into ``<devices>`` as it is."""

    @property
    def written_targets(self) -> tuple[str, ...]:
        """The disks on which the guest writes."""
        return tuple(disk.target for disk in self.disks if disk.written)


def serial_path(guest: str) -> str:
    """Where a guest's serial port is written inside each host."""
    return f"{SERIAL}/{guest.replace('/', '_')}.log"


INITRD = f"{BOOT}/fsm-guest.img"


def domain_xml(spec: GuestSpec, kernel: str, *, direct_io: bool) -> str:
    """The domain XML of a guest."""
    domain = etree.Element("domain", type="qemu")
    _text(domain, "name", spec.name)
    _text(domain, "memory", str(spec.memory_mib), unit="MiB")
    _text(domain, "vcpu", str(spec.vcpus))
    system = etree.SubElement(domain, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="pc")
    _text(system, "kernel", kernel)
    _text(system, "initrd", INITRD)
    _text(system, "cmdline", _command_line(spec))
    etree.SubElement(etree.SubElement(domain, "features"), "acpi")
    etree.SubElement(domain, "clock", offset="utc")
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(domain, event, action)
    devices = etree.SubElement(domain, "devices")
    for disk in spec.disks:
        devices.append(_disk(spec, disk, direct_io=direct_io))
    serial = etree.SubElement(devices, "serial", type="file")
    etree.SubElement(serial, "source", path=serial_path(spec.name), append="on")
    etree.SubElement(serial, "target", port="0")
    etree.SubElement(devices, "controller", type="usb", model="none")
    etree.SubElement(devices, "memballoon", model="none")
    if spec.extra_devices:
        devices.extend(etree.fromstring(f"<devices>{spec.extra_devices}</devices>"))
    return etree.tostring(domain, encoding="unicode", pretty_print=True)


def _command_line(spec: GuestSpec) -> str:
    ring = spec.ring
    return (
        # An emulated guest has nothing to protect, and boots a fifth faster without mitigations.
        f"console=ttyS0 loglevel=4 panic=-1 mitigations=off fsm.interval_ms={ring.interval_ms} "
        f"fsm.offset_kib={ring.offset_kib} fsm.slots={ring.slots} fsm.stride_kib={ring.stride_kib} "
        f"fsm.poweroff_s={spec.poweroff_s} fsm.dirty_mib={spec.dirty_mib}"
    )


def _disk(spec: GuestSpec, disk: DiskSpec, *, direct_io: bool) -> etree._Element:
    bus = disk.bus or ("virtio" if disk.device == "disk" else "ide")
    kind, key = ("block", "dev") if disk.on_device else ("file", "file")
    element = etree.Element("disk", type=kind, device=disk.device)
    # A cdrom's image may be on a file system without O_DIRECT; nothing is written to it anyway.
    cache = {"cache": "none", "discard": "unmap"} if direct_io and disk.device == "disk" else {}
    if disk.cache is not None:
        cache["cache"] = disk.cache
    etree.SubElement(element, "driver", {"name": "qemu", "type": disk.format, **cache})
    if not disk.empty:
        etree.SubElement(element, "source", {key: disk.image(spec.name)})
    etree.SubElement(element, "target", dev=disk.target, bus=bus)
    if bus == "virtio":
        _text(element, "serial", disk.target)  # by which the guest names the disk, whatever the PCI order is
    if disk.readonly:
        etree.SubElement(element, "readonly")
    if disk.shareable:
        etree.SubElement(element, "shareable")
    return element


def _text(parent: etree._Element, tag: str, text: str, **attributes: str) -> None:
    etree.SubElement(parent, tag, attributes).text = text
