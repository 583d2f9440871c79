"""Disk images inside simulated files.

The bytes are the truth: a qcow2 image has the real header and the real snapshot table, so that whoever copies
the bytes copies the image with its snapshots, and whoever reads headers finds what QEMU would have written.
Only the data's place is simpler than in real life: block ``n`` of the guest stands at a fixed offset and is
allocated when its page is no hole; an internal snapshot holds its own copy of all blocks.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from attrs import frozen

from fsm.hypervisor.simulated import files
from fsm.hypervisor.simulated.state import PAGE, Denied, HostState, Missing, NoSpace, SparseFile, WorldState
from fsm.hypervisor.values import is_among_devices

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_SNAPSHOT = struct.Struct(">QIHHIIQII")
_EXTRA = struct.Struct(">QQQ")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_NO_ICOUNT = 2**64 - 1
_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_TABLE_AT = _CLUSTER
_TABLE_ROOM = 15 * _CLUSTER
_L1_AT = 16 * _CLUSTER
_REFCOUNTS_AT = 24 * _CLUSTER
_REFCOUNT_BLOCK = 25 * _CLUSTER
_DATA_AT = 32 * _CLUSTER
_ROOM = 16 * 1024 * 1024
_DEEPEST_CHAIN = 200


@frozen
class Header:
    """What a qcow2 header tells; for anything else the format is raw and the capacity the file's length."""

    format: str
    capacity_bytes: int
    backing: str | None = None
    backing_format: str = ""


@frozen
class ImageSnapshot:
    """One entry of an image's snapshot table; ``data_at`` is where the copy of its blocks begins."""

    identity: str
    name: str
    data_at: int
    vm_state_bytes: int
    taken_at: int


def header(file: SparseFile) -> Header:
    """Read a file's header."""
    page = file.pages.get(0, b"")
    if file.size < _HEADER.size or not page.startswith(_MAGIC):
        return Header("raw", file.size)
    return _read_header(page)


@lru_cache(maxsize=1024)  # every block that is read or written asks for it
def _read_header(page: bytes) -> Header:
    raw = page.ljust(PAGE, b"\0")
    at, length = _HEADER.unpack_from(raw)[2:4]
    capacity = _HEADER.unpack_from(raw)[5]
    backing = raw[at : at + length].decode() if length else None
    return Header("qcow2", capacity, backing, _backing_format(raw))


def _backing_format(raw: bytes) -> str:
    at = _HEADER.size
    while at + _EXTENSION.size <= len(raw):
        kind, length = _EXTENSION.unpack_from(raw, at)
        if kind == 0:
            return ""
        if kind == _BACKING_FORMAT:
            return raw[at + _EXTENSION.size : at + _EXTENSION.size + length].decode()
        at += _EXTENSION.size + -(-length // 8) * 8
    return ""


def create(
    state: WorldState, host: HostState, path: str, capacity_bytes: int, backing: tuple[str, str] | None = None
) -> None:
    """Create an empty qcow2 image, on ``backing`` (path, format) if given."""
    files.create(state, host, path)
    try:
        put(state, host, path, capacity_bytes, backing)
    except NoSpace:
        files.remove(state, host, path)
        raise


def put(
    state: WorldState, host: HostState, path: str, capacity_bytes: int, backing: tuple[str, str] | None = None
) -> None:
    """Make an existing file, or a device, an empty qcow2 image."""
    _write_header(state, host, path, Header("qcow2", capacity_bytes, *(backing or (None, ""))))
    if is_among_devices(path):
        _count(state, host, path, _DATA_AT + _room(capacity_bytes))


def _count(state: WorldState, host: HostState, path: str, end: int) -> None:
    """Write reference counts: all clusters before ``end`` are in use. Only a device needs them, as its end.

    One block of counts is enough for 2 GiB.
    """
    files.write(state, host, path, _REFCOUNTS_AT, _REFCOUNT_BLOCK.to_bytes(8, "big"))
    files.write(state, host, path, _REFCOUNT_BLOCK, b"\0\1" * (end // _CLUSTER))


def _write_header(state: WorldState, host: HostState, path: str, described: Header, count: int = 0) -> None:
    name = (described.backing or "").encode()
    tail = b""
    if described.backing_format:
        word = described.backing_format.encode()
        tail += _EXTENSION.pack(_BACKING_FORMAT, len(word)) + word.ljust(-(-len(word) // 8) * 8, b"\0")
    tail += _EXTENSION.pack(0, 0)
    at = _HEADER.size + len(tail) if name else 0
    l1_size = -(-described.capacity_bytes // (_CLUSTER * _CLUSTER // 8))
    fixed = _HEADER.pack(
        _MAGIC, 3, at, len(name), _CLUSTER_BITS, described.capacity_bytes, 0, l1_size, _L1_AT, _REFCOUNTS_AT,
        1, count, _TABLE_AT if count else 0, 0, 0, 0, 4, _HEADER.size,
    )  # fmt: skip
    files.write_page(state, host, path, 0, fixed + tail + name)


def chain(state: WorldState, host: HostState, path: str, image_format: str) -> tuple[tuple[str, str], ...]:
    """The layers below and including ``path``, as libvirt finds them when it opens an image."""
    layers: list[tuple[str, str]] = []
    while len(layers) < _DEEPEST_CHAIN:
        file = files.find(state, host, path)
        if file is None:
            above = f" as backing file of '{layers[-1][0]}'" if layers else ""
            raise Missing(f"Cannot access storage file '{path}'{above}: No such file or directory")
        layers.append((path, image_format))
        found = header(file)
        if image_format == "raw" or found.backing is None:
            return tuple(layers)
        path, image_format = found.backing, found.backing_format or "raw"
    raise Denied(f"backing chain of '{layers[0][0]}' never ends")


# Blocks


def _first_page(file: SparseFile, image_format: str) -> int:
    return _DATA_AT // PAGE if image_format == "qcow2" and header(file).format == "qcow2" else 0


def blocks(file: SparseFile, image_format: str) -> list[int]:
    """The guest's blocks that this layer holds."""
    first = _first_page(file, image_format)
    capacity = header(file).capacity_bytes if first else file.size
    return [number - first for number in files.numbers_between(file, first, first + -(-capacity // PAGE))]


def offset_of(file: SparseFile, image_format: str, block: int) -> int:
    """Where in the file one block of the guest stands."""
    return (_first_page(file, image_format) + block) * PAGE


def write_block(
    state: WorldState, host: HostState, layer: tuple[str, str], block: int, content: bytes
) -> None:
    """Write one block of the guest into a layer."""
    path, image_format = layer
    file = files.existing(state, host, path)
    first = _first_page(file, image_format)
    files.write_page(state, host, path, first + block, content)


def read_block(state: WorldState, host: HostState, layers: tuple[tuple[str, str], ...], block: int) -> bytes:
    """What the guest reads from a block, without trailing zeros: the first layer that holds it has it."""
    for path, image_format in layers:
        file = files.existing(state, host, path)
        found = file.pages.get(_first_page(file, image_format) + block)
        if found is not None:
            return found
    return b""


# Internal snapshots


def snapshot_table(file: SparseFile) -> tuple[ImageSnapshot, ...]:
    """The internal snapshots of a qcow2 image, in the order of the table."""
    if header(file).format != "qcow2":
        return ()
    count, at = _HEADER.unpack_from(files.read(file, 0, PAGE))[11:13]
    raw = files.read(file, at, _TABLE_ROOM) if count else b""
    found = []
    position = 0
    for _ in range(count):
        data_at, _, id_size, name_size, seconds, _, _, vm_state, extra = _SNAPSHOT.unpack_from(raw, position)
        text = position + _SNAPSHOT.size + extra
        identity = raw[text : text + id_size].decode()
        name = raw[text + id_size : text + id_size + name_size].decode()
        found.append(ImageSnapshot(identity, name, data_at, vm_state, seconds))
        position = -(-(text + id_size + name_size) // 8) * 8
    return tuple(found)


def take_snapshot(
    state: WorldState, host: HostState, path: str, name: str, vm_state: bytes, taken_at: int
) -> None:
    """Put a snapshot of the image as it is now into it; ``vm_state`` is the guest's saved memory."""
    file = files.existing(state, host, path)
    table = snapshot_table(file)
    identity = 1 + max((int(entry.identity) for entry in table), default=0)
    room = _room(header(file).capacity_bytes)
    # The saved memory stands behind the copied blocks, as QEMU puts it behind the disk's end.
    data_at = _DATA_AT + identity * (room + _CLUSTER)
    held = blocks(file, "qcow2")
    first, copy = _DATA_AT // PAGE, data_at // PAGE
    for block in held:
        files.write_page(state, host, path, copy + block, file.pages[first + block])
    if vm_state:
        files.write(state, host, path, data_at + room, vm_state[:_CLUSTER])
    if is_among_devices(path):
        _count(state, host, path, data_at + room + _CLUSTER)
    entry = ImageSnapshot(str(identity), name, data_at, len(vm_state[:_CLUSTER]), taken_at)
    _write_table(state, host, path, (*table, entry))


def _room(capacity_bytes: int) -> int:
    """What is kept free for a disk's blocks, with some for it to grow."""
    return -(-capacity_bytes // _ROOM) * _ROOM


def resize(state: WorldState, host: HostState, layer: tuple[str, str], capacity_bytes: int) -> None:
    """Give an image another virtual size. This model has room for so much where there are snapshots."""
    path, image_format = layer
    file = files.existing(state, host, path)
    if image_format == "raw":
        file.size = capacity_bytes
        return
    table, described = snapshot_table(file), header(file)
    if table and _room(capacity_bytes) != _room(described.capacity_bytes):
        raise Denied(f"no room to resize {path} with its snapshots")
    changed = Header("qcow2", capacity_bytes, described.backing, described.backing_format)
    _write_header(state, host, path, changed, len(table))


def forget_backing(state: WorldState, host: HostState, path: str) -> None:
    """Have an image's header name no backing file any more."""
    file = files.existing(state, host, path)
    alone = Header("qcow2", header(file).capacity_bytes)
    _write_header(state, host, path, alone, len(snapshot_table(file)))


def delete_snapshot(state: WorldState, host: HostState, path: str, name: str) -> None:
    """Remove an entry of the snapshot table; its blocks leak, as after an unclean end of QEMU."""
    table = snapshot_table(files.existing(state, host, path))
    if all(entry.name != name for entry in table):
        raise Missing(f"Snapshot '{name}' does not exist in {path}")
    _write_table(state, host, path, tuple(entry for entry in table if entry.name != name))


def revert(state: WorldState, host: HostState, path: str, name: str) -> None:
    """Make the image's active state that of a snapshot."""
    file = files.existing(state, host, path)
    wanted = snapshot_blocks(file, name)
    first = _DATA_AT // PAGE
    for block in blocks(file, "qcow2"):
        if block not in wanted:
            # A hole would let a backing layer show through; zeros hide it.
            files.write_page(state, host, path, first + block, b"")
    for block, content in wanted.items():
        files.write_page(state, host, path, first + block, content)


def snapshot_blocks(file: SparseFile, name: str) -> dict[int, bytes]:
    """The blocks that a snapshot holds, for a comparison of contents; ``Missing`` when it is not there."""
    entry = next((one for one in snapshot_table(file) if one.name == name), None)
    if entry is None:
        raise Missing(f"Snapshot '{name}' does not exist")
    first = entry.data_at // PAGE
    end = first + -(-header(file).capacity_bytes // PAGE)
    return {number - first: file.pages[number] for number in files.numbers_between(file, first, end)}


def vm_state(file: SparseFile, entry: ImageSnapshot) -> bytes:
    """The saved memory of a snapshot."""
    return files.read(file, entry.data_at + _room(header(file).capacity_bytes), entry.vm_state_bytes)


def _write_table(state: WorldState, host: HostState, path: str, table: tuple[ImageSnapshot, ...]) -> None:
    described = header(files.existing(state, host, path))
    raw = b""
    for entry in table:
        identity, name = entry.identity.encode(), entry.name.encode()
        sizes = (len(identity), len(name))
        vm_state = entry.vm_state_bytes
        raw += _SNAPSHOT.pack(entry.data_at, 1, *sizes, entry.taken_at, 0, 0, vm_state, _EXTRA.size)
        raw += _EXTRA.pack(vm_state, described.capacity_bytes, _NO_ICOUNT) + identity + name
        raw = raw.ljust(-(-len(raw) // 8) * 8, b"\0")
    if len(raw) > _TABLE_ROOM:
        raise Denied(f"too many snapshots in {path}")
    files.write(state, host, path, _TABLE_AT, raw)
    _write_header(state, host, path, described, len(table))
