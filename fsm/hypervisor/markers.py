"""The marker as XML: an element of a namespace of our own in the domain's ``<metadata>``.

Snapshot metadata repeats the domain's description in every snapshot, so it is packed with a window that is
larger than one description: 200 snapshots of 40 KiB take 36 KiB (zlib, whose window is 32 KiB, takes 6 MiB).
libvirt carries 4 MiB of metadata, through a migration as well.
"""

from __future__ import annotations

import json
import lzma
from base64 import b64decode, b64encode
from collections.abc import Collection, Sequence
from typing import Any

from attrs import frozen
from lxml import etree

from fsm.errors import BadInput
from fsm.hypervisor import domain_xml
from fsm.hypervisor.values import Base, Marker, Overlay, SnapshotMetadata
from fsm.machine.observation import Merge

NAMESPACE = "urn:migration-fsm:marker"
KEY = "fsm"
MOST_PACKED_BYTES = 2 << 20
"""libvirt's messages carry 4 MiB; the rest of the description must fit in as well."""

_FORMAT = "1"
# Who knows only the one above must not adopt what has other names at the destination: it would take the files
# there that bear the source's paths for its copies.
_ELSEWHERE_FORMAT = "2"
# Nor what lies on block devices: it would remove those that bear the copies' names.
_DEVICE_FORMAT = "3"
_FORMATS = (_FORMAT, _ELSEWHERE_FORMAT, _DEVICE_FORMAT)
_TAG = f"{{{NAMESPACE}}}migration"
_MOST_UNPACKED_BYTES = 256 << 20
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 3, "dict_size": 4 << 20}]


def element(marker: Marker, *, alone: bool) -> str:
    """The marker's element as libvirt takes it, which puts it into the namespace itself.

    ``alone``: the definition had no metadata at all before.
    """
    root = _element(marker, alone=alone)
    for part in root.iter("*"):
        part.tag = etree.QName(part).localname
    etree.cleanup_namespaces(root)
    return domain_xml.serialize(root)


def read(xml: str) -> Marker | None:
    """The marker in a domain's XML, None without one. One that can't be understood has a ``problem``."""
    found = _find(domain_xml.parse(xml))
    if found is None:
        return None
    if (version := found.get("format", "")) not in _FORMATS:
        known = ", ".join(map(repr, _FORMATS))
        return Marker(found.get("id", ""), problem=f"its format is {version!r}, none of {known}")
    try:
        return _read(found)
    except ValueError as error:
        return Marker(found.get("id", ""), problem=str(error))


def stands_alone(xml: str) -> bool:
    """Whether a definition has no metadata besides a marker, and had none before that."""
    root = domain_xml.parse(xml)
    found = _find(root)
    metadata = root.find("metadata")
    if found is None:
        return metadata is None
    return found.get("alone") == "yes" and metadata is not None and len(metadata) == 1


def marked(xml: str, marker: Marker) -> str:
    """The domain's XML with this marker, instead of any other."""
    alone = stands_alone(xml)
    root = domain_xml.parse(unmarked(xml))
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.Element("metadata")
        uuid = root.find("uuid")
        root.insert(0 if uuid is None else root.index(uuid) + 1, metadata)
    metadata.append(_element(marker, alone=alone))
    return domain_xml.serialize(root)


def unmarked(xml: str) -> str:
    """The domain's XML as it was before it was marked."""
    alone = stands_alone(xml)
    root = domain_xml.parse(xml)
    metadata, found = root.find("metadata"), _find(root)
    if metadata is not None and found is not None:
        metadata.remove(found)
        if alone:
            root.remove(metadata)
    return domain_xml.serialize(root)


def _find(root: etree._Element) -> etree._Element | None:
    return root.find(f"metadata/{_TAG}")


def _element(marker: Marker, *, alone: bool) -> etree._Element:
    root = etree.Element(_TAG, nsmap={KEY: NAMESPACE})
    is_elsewhere = marker.destination_name or any(overlay.destination_base for overlay in marker.overlays)
    version = _ELSEWHERE_FORMAT if is_elsewhere else _FORMAT
    if any(overlay.on_device or overlay.arrives_on_device for overlay in marker.overlays):
        version = _DEVICE_FORMAT
    _set(root, format=version, id=marker.migration, owner=marker.owner, merge=marker.merge.value)
    if alone:
        _set(root, alone="yes")
    if marker.started_paused:
        _set(root, started_paused="yes")
    for tag, uri, host in (
        ("source", marker.source_uri, marker.source_host),
        ("destination", marker.destination_uri, marker.destination_host),
    ):
        _set(_child(root, tag), uri=uri, host=host)
    if marker.destination_name:
        _set(_child(root, "renamed"), name=marker.destination_name)
    _set(_child(root, "journal"), location=marker.journal)
    for overlay in marker.overlays:
        names = {"target": overlay.target, "overlay": overlay.path}
        disk = _child(root, "disk")
        _set(disk, **names, base=overlay.base, format=overlay.base_format)
        if overlay.shared:
            _set(disk, shared="yes")
        if overlay.destination_base:
            _set(disk, destination_base=overlay.destination_base)
        if overlay.on_device:
            _set(disk, on_device="yes")
        if overlay.arrives_on_device:
            _set(disk, arrives_on_device="yes")
    for path, image_format in marker.below:
        _set(_child(root, "below"), path=path, format=image_format)
    for base in marker.bases:
        sizes = {"size": base.size_bytes, "allocated": base.allocated_bytes, "capacity": base.capacity_bytes}
        copy = _child(root, "copy")
        _set(copy, path=base.path, format=base.format, **{name: str(size) for name, size in sizes.items()})
        _set(copy, growable="yes" if base.growable else "no", modified=base.modified)
        if base.below:
            _set(copy, below="yes")
        if base.on_device:
            _set(copy, on_device="yes")
    if marker.snapshots:
        _child(root, "snapshots").text = marker.snapshots
    return root


def _child(parent: etree._Element, tag: str) -> etree._Element:
    return etree.SubElement(parent, f"{{{NAMESPACE}}}{tag}")


def _set(target: etree._Element, /, **values: str) -> None:
    for key, value in values.items():
        domain_xml.set_attribute(target, key.replace("_", "-"), value)


def _read(root: etree._Element) -> Marker:
    source, destination = _one(root, "source"), _one(root, "destination")
    renamed = root.find(f"{{{NAMESPACE}}}renamed")
    return Marker(
        migration=_get(root, "id"),
        owner=_get(root, "owner"),
        source_uri=_get(source, "uri"),
        destination_uri=_get(destination, "uri"),
        source_host=_get(source, "host"),
        destination_host=_get(destination, "host"),
        journal=_get(_one(root, "journal"), "location"),
        merge=Merge(_get(root, "merge")),
        overlays=tuple(
            Overlay(
                target=_get(disk, "target"),
                path=_get(disk, "overlay"),
                base=_get(disk, "base"),
                base_format=_get(disk, "format"),
                shared=disk.get("shared") == "yes",
                destination_base=disk.get("destination-base", ""),
                on_device=disk.get("on-device") == "yes",
                arrives_on_device=disk.get("arrives-on-device") == "yes",
            )
            for disk in root.iterfind(f"{{{NAMESPACE}}}disk")
        ),
        bases=tuple(
            Base(
                path=_get(copy, "path"),
                format=_get(copy, "format"),
                size_bytes=int(_get(copy, "size")),
                allocated_bytes=int(_get(copy, "allocated")),
                capacity_bytes=int(_get(copy, "capacity")),
                growable=copy.get("growable") == "yes",
                modified=copy.get("modified", ""),
                below=copy.get("below") == "yes",
                on_device=copy.get("on-device") == "yes",
            )
            for copy in root.iterfind(f"{{{NAMESPACE}}}copy")
        ),
        below=tuple(
            (_get(file, "path"), _get(file, "format")) for file in root.iterfind(f"{{{NAMESPACE}}}below")
        ),
        snapshots=(root.findtext(f"{{{NAMESPACE}}}snapshots") or "").strip(),
        started_paused=root.get("started-paused") == "yes",
        destination_name="" if renamed is None else _get(renamed, "name"),
    )


def _one(root: etree._Element, tag: str) -> etree._Element:
    found = root.find(f"{{{NAMESPACE}}}{tag}")
    if found is None:
        raise ValueError(f"it has no <{tag}>")
    return found


def _get(found: etree._Element, key: str) -> str:
    value = found.get(key)
    if value is None:
        raise ValueError(f"<{etree.QName(found).localname}> has no {key}")
    return value


# Snapshot metadata


@frozen
class Unpacked:
    """Snapshot metadata out of a marker; ``withheld`` names those whose description had secrets."""

    snapshots: tuple[SnapshotMetadata, ...]
    withheld: frozenset[str]


def pack(snapshots: Sequence[SnapshotMetadata], withheld: Collection[str] = ()) -> str:
    """Metadata, which must be without secrets, as text for a marker."""
    entries = [
        {
            "name": snapshot.name,
            "xml": snapshot.xml,
            "parent": snapshot.parent,
            "current": snapshot.current,
            "withheld": snapshot.name in withheld,
        }
        for snapshot in snapshots
    ]
    packed = lzma.compress(json.dumps(entries).encode(), filters=_FILTERS)
    return b64encode(packed).decode()


def unpack(text: str) -> Unpacked:
    """What ``pack`` made. Raises ``BadInput``; what unpacks to more than a host can have is refused."""
    try:
        data = lzma.LZMADecompressor().decompress(b64decode(text, validate=True), _MOST_UNPACKED_BYTES)
        entries: list[dict[str, Any]] = json.loads(data)
        return Unpacked(
            tuple(
                SnapshotMetadata(entry["name"], entry["xml"], entry["parent"], current=entry["current"])
                for entry in entries
            ),
            frozenset(entry["name"] for entry in entries if entry["withheld"]),
        )
    except (ValueError, lzma.LZMAError, KeyError, TypeError) as error:
        raise BadInput(f"the snapshots in the marker can't be read: {error}") from error
