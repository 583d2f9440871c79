"""Header and snapshot table of an image that may be in use, looked at through a host's storage."""

from __future__ import annotations

from fsm.errors import ImageCorrupt, NotFound
from fsm.hypervisor.port import Storage
from fsm.images.qcow2 import MAX_SNAPSHOT_TABLE_BYTES, Image, Read, read_header, read_snapshots

_HEAD_BYTES = 64 * 1024
_ENTRY_BYTES = 256
_ATTEMPTS = 3


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
    """The names of a file's internal snapshots; none where it is gone, or was never made in full."""
    try:
        image = await look_at_image(storage, path)
    except (NotFound, ImageCorrupt):
        return frozenset()
    return frozenset(snapshot.name for snapshot in image.snapshots)


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
