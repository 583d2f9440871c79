"""Files of one host as volumes of its storage pools."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import libvirt
from lxml import etree

from fsm.errors import NotFound
from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt import pools
from fsm.hypervisor.libvirt.session import Call, is_alive
from fsm.hypervisor.values import FileFacts, Overlay, Space, is_among_devices

T = TypeVar("T")

_SECTOR = 512
_KIB = 1024
_PACKET_BYTES = 262_120  # what one message of libvirt's stream protocol holds


def find(call: Call, path: str) -> Any:
    """The volume at ``path``, None without one. Its pool has looked at the directory just now."""
    directory, name = split(call, path)

    def look(pool: Any) -> Any:
        return _unless_gone(lambda: pool.storageVolLookupByName(name))

    return pools.using(call, directory, look)


def stat(call: Call, path: str) -> FileFacts | None:
    """The file at ``path``, None when there is none."""
    directory, name = split(call, path)

    def look(pool: Any) -> FileFacts | None:
        return _unless_gone(lambda: _facts(pool.storageVolLookupByName(name), path))

    return pools.using(call, directory, look)


def peek(call: Call, path: str, offset: int, length: int) -> bytes:
    """A piece of the file's content, through a stream on the same connection."""
    directory, name = split(call, path)

    def read(look_up: Callable[[], Any]) -> bytes | None:
        volume = _unless_gone(look_up)
        return None if volume is None else _content(call, volume, offset, length)

    content = None
    try:
        content = read(lambda: call.connection.storageVolLookupByPath(path))
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:  # somebody has just released it
            raise
    if content is None:
        content = pools.using(call, directory, lambda pool: read(lambda: pool.storageVolLookupByName(name)))
    if content is None:
        raise call.not_found(f"there is no file {path!r}")
    return content


def _content(call: Call, volume: Any, offset: int, length: int) -> bytes:
    end = min(offset + length, volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])
    parts: list[bytes] = []
    if offset >= end:
        return b""
    stream = call.connection.newStream(0)
    pools.retried(lambda: volume.download(stream, offset, end - offset, 0), pools.VOLUME_PASSING)
    try:
        while (missing := end - offset - sum(map(len, parts))) > 0:
            if not (got := stream.recv(min(missing, _PACKET_BYTES))):
                break
            parts.append(got)
    except BaseException:
        stream.abort()
        raise
    stream.finish()
    return b"".join(parts)


def free_bytes(call: Call, directory: str) -> int:
    """Free space in the directory's file system."""
    _, _, _, available = pools.using(call, directory, lambda pool: pool.info())
    return int(available)


def space(call: Call, directory: str, paths: Sequence[str]) -> Space:
    """Free space of the directory's file system, and files in it."""
    names = {path: split(call, path)[1] for path in paths}

    def one(pool: Any, path: str) -> FileFacts | None:
        return _unless_gone(lambda: _facts(pool.storageVolLookupByName(names[path]), path))

    def look(pool: Any) -> Space:
        found = [one(pool, path) for path in names]
        _, capacity_bytes, _, available_bytes = pool.info()
        files = tuple(facts for facts in found if facts is not None)
        return Space(int(available_bytes), int(capacity_bytes), files)

    return pools.using(call, directory, look)


def create_sparse(call: Call, path: str, size_bytes: int) -> None:
    """Create a raw file of one hole. libvirt refuses a path that exists, known to the pool or not."""
    directory, name = _of_a_file(call, path)
    document = _document(name, "raw", size_bytes)
    pools.using(call, directory, lambda pool: pool.createXML(document, 0))


def create_overlay(call: Call, overlay: Overlay, capacity_bytes: int) -> None:
    """Create an empty qcow2 file on its base."""
    directory, name = _of_a_file(call, overlay.path)
    # libvirt hands the capacity on in KiB, rounded up. Without one the overlay gets its base's exact size.
    capacity = None if capacity_bytes % _KIB else capacity_bytes
    root = domain_xml.parse(_document(name, "qcow2", capacity), "volume")
    backing = etree.SubElement(root, "backingStore")
    etree.SubElement(backing, "path").text = overlay.base
    etree.SubElement(backing, "format", type=overlay.base_format)
    document = domain_xml.serialize(root)
    pools.using(call, directory, lambda pool: pool.createXML(document, 0))
    made = stat(call, overlay.path)
    # QEMU counts in sectors: a raw base with a broken last one is seen with a whole one.
    if made is None or made.capacity_bytes != -(-capacity_bytes // _SECTOR) * _SECTOR:
        remove(call, overlay.path)
        raise call.error(
            f"{overlay.path!r} was made for {made and made.capacity_bytes} bytes, not for {capacity_bytes}; "
            "it was removed again",
            remedy=f"compare the size of {overlay.base!r} with the size of the domain's disk",
        )


def make_durable(call: Call, path: str) -> bool:
    """Resize a qcow2 file to the size it has: qemu-img rewrites a few equal bytes and syncs it all.

    Streams are not synced by libvirt and it has no call for it. qemu-img refuses the resize for some images
    (an old version with snapshots), libvirt for those that take more space than their capacity.
    """
    volume = find(call, path)
    facts = None if volume is None else _unless_gone(lambda: _facts(volume, path))
    if facts is None:
        raise call.not_found(f"there is no file {path!r}")
    if facts.format != "qcow2":
        return False
    try:
        pools.retried(lambda: volume.resize(facts.capacity_bytes, 0), pools.VOLUME_PASSING)
    except libvirt.libvirtError:
        if not is_alive(call.connection):
            raise
        return False
    return True


def remove(call: Call, path: str) -> None:
    """Remove the file at ``path``, if there is one."""
    _of_a_file(call, path)
    try:
        volume = find(call, path)
    except NotFound:  # not even its directory exists
        return
    facts = None if volume is None else _unless_gone(lambda: _facts(volume, path))
    if facts is None:
        return
    if facts.format == "dir":
        raise call.error(f"{path!r} is a directory; it was not removed")
    pools.retried(lambda: _unless_gone(lambda: volume.delete(0)), pools.VOLUME_PASSING)


def _unless_gone(question: Callable[[], T]) -> T | None:
    """The answer, None when the volume does not exist (any more)."""
    try:
        return question()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return None
        raise


def split(call: Call, path: str) -> tuple[str, str]:
    """Directory and name of a file; an error for what libvirt's storage driver does not see."""
    directory, name = os.path.split(path)
    if not os.path.isabs(path) or not name:
        raise call.error(f"{path!r} is no absolute path of a file")
    pools.expect_shown(call, path, "rename the file while the domain is shut off")
    return directory, name


def _of_a_file(call: Call, path: str) -> tuple[str, str]:
    """The same for what is to be made or removed: a pool removes the name of a device as that of a file."""
    if is_among_devices(pools.normalised(path)):
        raise call.error(f"{path!r} is among the host's devices: nothing is made or removed there")
    return split(call, path)


def _facts(volume: Any, path: str) -> FileFacts:
    root = domain_xml.parse(volume.XMLDesc(0), "volume")
    kind = root.find("target/format")
    return FileFacts(
        path=path,
        size_bytes=int(root.findtext("physical", root.findtext("capacity", "0"))),
        allocated_bytes=int(root.findtext("allocation", "0")),
        capacity_bytes=int(root.findtext("capacity", "0")),
        format=kind.get("type", "raw") if kind is not None else "raw",
        backing=root.findtext("backingStore/path"),
        modified=root.findtext("target/timestamps/mtime", ""),
    )


def _document(name: str, image_format: str, capacity_bytes: int | None) -> str:
    volume = etree.Element("volume")
    etree.SubElement(volume, "name").text = name
    if capacity_bytes is not None:
        etree.SubElement(volume, "capacity", unit="bytes").text = str(capacity_bytes)
    etree.SubElement(volume, "allocation", unit="bytes").text = "0"
    target = etree.SubElement(volume, "target")
    etree.SubElement(target, "format", type=image_format)
    if image_format == "qcow2":
        # libvirt's default is the old version, which can't express zeroed clusters: they would be allocated.
        etree.SubElement(target, "compat").text = "1.1"
    permissions = etree.SubElement(target, "permissions")
    etree.SubElement(permissions, "mode").text = "0600"
    return domain_xml.serialize(volume)
