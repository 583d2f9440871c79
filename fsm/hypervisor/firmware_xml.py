"""Pure functions on domain XML: where a domain keeps the variables of its UEFI."""

from __future__ import annotations

from attrs import frozen
from lxml import etree

from fsm.hypervisor import domain_xml
from fsm.hypervisor.domain_xml import parse, serialize

_LIBVIRTS_PLACE = "/var/lib/libvirt/qemu/nvram"


@frozen
class Variables:
    """Where UEFI variables are: a file of this format. ``path`` is empty where ``source_type`` is no file."""

    path: str
    format: str = "raw"
    source_type: str = "file"


def variables(xml: str) -> Variables | None:
    """A domain's UEFI variables, None for a domain without any.

    A definition that leaves the choice of firmware to libvirt may leave their file to it as well: libvirt 9.0
    looks for it at each start, by the domain's name.
    """
    root = parse(xml)
    nvram = root.find("os/nvram")
    if nvram is None:
        chosen = root.find("os[@firmware='efi']") is not None
        if not chosen or root.find("os/loader[@stateless='yes']") is not None:
            return None
        return Variables(_chosen(xml))
    if (kind := nvram.get("type", "file")) != "file":
        return Variables("", source_type=kind)
    return Variables(_named(nvram) or _chosen(xml), nvram.get("format", "raw"))


def variables_file(xml: str) -> str:
    """The path of a domain's UEFI variables, empty where they are in no file."""
    found = variables(xml)
    return found.path if found is not None else ""


def with_variables_named(xml: str) -> str:
    """The XML with their file named, so that it stays the domain's under another name, too."""
    path, root = variables_file(xml), parse(xml)
    nvram, os = root.find("os/nvram"), root.find("os")
    if not path or os is None or (nvram is not None and _named(nvram)):
        return xml
    if nvram is None:
        nvram = etree.SubElement(os, "nvram")
    nvram.text = path
    return serialize(root)


def _named(nvram: etree._Element) -> str:
    source = nvram.find("source")
    return (nvram.text or "").strip() if source is None else source.get("file", "")


def _chosen(xml: str) -> str:
    return f"{_LIBVIRTS_PLACE}/{domain_xml.name(xml)}_VARS.fd"
