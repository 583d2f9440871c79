"""What the domains of a lab are described as, read and changed as an operator would."""

from __future__ import annotations

from collections.abc import Callable

from lxml import etree

from fsm.lab import LabHost


def definition(host: LabHost, domain: str) -> str:
    """What the domain's next start will use, in one spelling.

    libvirt notes after a pivot that a disk has nothing below it, and lists controllers in its own order.
    """
    xml = host.virsh("dumpxml", "--domain", domain, "--inactive", "--security-info")
    root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
    for disk in root.iterfind("devices/disk"):
        for chain in disk.findall("backingStore"):
            if len(chain) == 0:
                disk.remove(chain)
    for devices in root.iterfind("devices"):
        devices[:] = sorted(devices, key=lambda device: etree.tostring(device, method="c14n"))
    return etree.tostring(root, method="c14n").decode()


def redefine(host: LabHost, domain: str, edit: Callable[[etree._Element], None]) -> None:
    """Change a domain's definition."""
    root = etree.fromstring(host.virsh("dumpxml", "--domain", domain, "--inactive", "--security-info"))
    edit(root)
    host.virsh("define", "/dev/stdin", stdin=etree.tostring(root, encoding="unicode"))


def part_of(root: etree._Element, where: str) -> etree._Element:
    """One element of a domain's XML, which must be there."""
    found = root.find(where)
    assert found is not None
    return found


def disk_of(root: etree._Element, target: str) -> etree._Element:
    """One disk of a domain's XML."""
    return next(
        disk for disk in root.iterfind("devices/disk") if disk.find(f"target[@dev='{target}']") is not None
    )
