"""Pure functions on the XML by which libvirt describes an internal snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from fsm.hypervisor.domain_xml import parse, rename, serialize, set_attribute


def elsewhere(xml: str, paths: Mapping[str, str], name: str = "") -> str:
    """The XML with other paths of image files: those that change, and their new ones.

    ``name`` is another one for the domain. A snapshot describes its domain as it was when it was taken, up to
    twice: running, and for its next start.
    """
    root = parse(xml, "domainsnapshot")
    for where in ("domain", "inactiveDomain"):
        for domain in root.iterfind(where):
            if name:
                rename(domain, name)
            for source in domain.iterfind("devices/disk//source[@file]"):
                path = source.get("file", "")
                set_attribute(source, "file", paths.get(path, path))
    return serialize(root)
