"""Pure functions on the XML by which libvirt describes an internal snapshot."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fsm.hypervisor.domain_xml import parse, rename, serialize, set_source


def elsewhere(xml: str, paths: Mapping[str, str], name: str = "", devices: Collection[str] = ()) -> str:
    """The XML with other paths of images: those that change, and their new ones.

    Those of the new ones that are among ``devices`` are block devices, the others files. ``name`` is another
    one for the domain. A snapshot describes its domain as it was when it was taken, up to twice: running, and
    for its next start.
    """
    root = parse(xml, "domainsnapshot")
    for where in ("domain", "inactiveDomain"):
        for domain in root.iterfind(where):
            if name:
                rename(domain, name)
            for source in domain.iterfind("devices/disk//source"):
                path = paths.get(source.get("file") or source.get("dev") or "")
                if path is not None and (layer := source.getparent()) is not None:
                    set_source(layer, source, path, on_device=path in devices)
    return serialize(root)
