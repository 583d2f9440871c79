"""Header and snapshot table of an image, looked at and compared through the hosts' storage."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from fsm.errors import ImageCorrupt, NotFound, VerificationFailed
from fsm.hypervisor.port import Host, Storage
from fsm.hypervisor.uris import safe_uri
from fsm.images.qcow2 import MAGIC, MAX_SNAPSHOT_TABLE_BYTES, Image, Read, read_header, read_snapshots

_HEAD_BYTES = 64 * 1024
_ENTRY_BYTES = 256
_ATTEMPTS = 3

_Found = TypeVar("_Found")


async def look_at_image(storage: Storage, path: str) -> Image:
    """The qcow2 image at ``path`` as it is now; QEMU writes its table out at once when a snapshot is taken.

    A table that is just being moved may read as damaged, so such a one is read again. Raises ``ImageCorrupt``
    when it stays so, and the host's errors.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return await _look(storage, path)
        except ImageCorrupt:
            continue
    return await _look(storage, path)


async def snapshots_in(storage: Storage, path: str) -> frozenset[str]:
    """The names of a file's internal snapshots; none where it is gone, or never became an image.

    Raises ``ImageCorrupt`` for an image whose snapshots nobody can tell.
    """
    try:
        image = await look_at_image(storage, path)
    except NotFound:
        return frozenset()
    except ImageCorrupt:
        if await storage.peek(path, 0, len(MAGIC)) == MAGIC:
            raise
        return frozenset()
    return frozenset(snapshot.name for snapshot in image.snapshots)


async def compare_tables(
    source: Host,
    destination: Host,
    path: str,
    image_format: str,
    *,
    destination_path: str = "",
    on_device: bool = False,
) -> Image | None:
    """Compare the lengths of the two files and, of a qcow2 image, header and snapshot table.

    ``destination_path`` is the copy's where it is not the original's. ``on_device``: the copy is on a block
    device, which may be longer. The first cluster (header, its extensions, the backing file's name) is
    compared byte for byte. Returns the image's header and snapshots, None for another format.

    Raises ``VerificationFailed`` when they differ, ``ImageCorrupt`` when the original can't be understood,
    and the hosts' errors.
    """
    there = destination_path or path
    differ = partial(
        VerificationFailed, path=path, source=safe_uri(source.uri), destination=safe_uri(destination.uri)
    )
    ours, theirs = await _both(source.storage.stat(path), destination.storage.stat(there))
    if ours is None:
        raise differ("the original is not there")
    if theirs is None:
        raise differ("the copy is not there")
    if ours.size_bytes != theirs.size_bytes and not (on_device and ours.size_bytes < theirs.size_bytes):
        raise differ(f"the original is {ours.size_bytes} bytes long, the copy {theirs.size_bytes}")
    if image_format != "qcow2":
        return None
    original, copy = await _both(_tables(source.storage, path), _tables(destination.storage, there))
    if isinstance(original, ImageCorrupt):
        raise ImageCorrupt(
            f"{safe_uri(source.uri)}: {path!r}: {original}",
            remedy="look at the original with 'qemu-img check'; it was not changed",
        ) from original
    if isinstance(copy, ImageCorrupt):
        raise differ(f"the original can be read, the copy not: {copy}") from copy
    _demand_equal(differ, original, copy)
    return original[0]


async def _both(
    ours: Coroutine[Any, Any, _Found], theirs: Coroutine[Any, Any, _Found]
) -> tuple[_Found, _Found]:
    try:
        async with asyncio.TaskGroup() as group:
            one, other = group.create_task(ours), group.create_task(theirs)
    except ExceptionGroup as errors:  # the first one ended the other
        raise errors.exceptions[0] from None
    return one.result(), other.result()


async def _tables(storage: Storage, path: str) -> tuple[Image, bytes] | ImageCorrupt:
    """What an image's tables say, and its first cluster."""
    try:
        image = await look_at_image(storage, path)
    except ImageCorrupt as error:
        return error
    return image, await storage.peek(path, 0, image.header.cluster_bytes)


def _demand_equal(
    differ: partial[VerificationFailed], original: tuple[Image, bytes], copy: tuple[Image, bytes]
) -> None:
    (our_image, our_head), (their_image, their_head) = original, copy
    if our_head != their_head:
        offset = first_difference(our_head, their_head)
        raise differ(f"their headers differ from byte {offset} on", offset=offset)
    pairs = zip(our_image.snapshots, their_image.snapshots, strict=True)
    for index, (ours, theirs) in enumerate(pairs, start=1):
        if ours != theirs:
            raise differ(f"snapshot {index} of the table, {ours.name!r}, reads {theirs} in the copy")


def first_difference(ours: bytes, theirs: bytes) -> int:
    """The index of the first byte that differs; the shorter's length where one is the other's beginning."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((at for at, (our, their) in pairs if our != their), min(len(ours), len(theirs)))


async def _look(storage: Storage, path: str) -> Image:
    head = await storage.peek(path, 0, _HEAD_BYTES)
    header = read_header(_reader(0, head))
    if not header.snapshot_count:
        return Image(header, ())
    # Entries have no fixed length: read more until the table ends within what was read.
    length = header.snapshot_count * _ENTRY_BYTES
    while length < MAX_SNAPSHOT_TABLE_BYTES:  # bounded: it doubles
        table = await storage.peek(path, header.snapshots_offset, length)
        try:
            return Image(header, read_snapshots(_reader(header.snapshots_offset, table), header))
        except ImageCorrupt:
            if len(table) < length:  # the file ends there
                raise
        length *= 2
    raise ImageCorrupt("the snapshot table is longer than QEMU takes")


def _reader(start: int, content: bytes) -> Read:
    def read(offset: int, length: int) -> bytes:
        at = max(0, offset - start)
        return content[at : at + length]

    return read
