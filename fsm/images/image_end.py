"""Where a qcow2 image ends on a block device: how much of the device it has not used yet."""

from __future__ import annotations

from struct import unpack

from fsm.errors import ImageCorrupt
from fsm.hypervisor.port import Storage
from fsm.images.qcow2 import Header
from fsm.images.tables import look_at_image

_ENTRY_BYTES = 8
_OFFSET_MASK = 0xFFFFFFFFFFFFFE00


async def image_end(storage: Storage, path: str) -> int:
    """The first byte behind the last cluster of the image that is in use, by its reference counts.

    Clusters before it that are free again don't count. Raises ``ImageCorrupt``, and the host's errors.
    """
    header = (await look_at_image(storage, path)).header
    table_bytes = header.refcount_table_clusters * header.cluster_bytes
    table = await storage.peek(path, header.refcount_table_offset, table_bytes)
    if len(table) < table_bytes:
        raise ImageCorrupt(f"{path} ends within its refcount table")
    blocks = [entry & _OFFSET_MASK for entry in unpack(f">{table_bytes // _ENTRY_BYTES}Q", table)]
    counts_per_block = header.cluster_bytes * 8 >> header.refcount_order
    for index in range(len(blocks) - 1, -1, -1):
        if not blocks[index]:
            continue
        block = await storage.peek(path, blocks[index], header.cluster_bytes)
        if (last := _last_in_use(block, header)) is not None:
            return (index * counts_per_block + last + 1) * header.cluster_bytes
    raise ImageCorrupt(f"{path} has no cluster in use")


async def end_in_file(storage: Storage, path: str, size_bytes: int) -> int:
    """The same of an image in a file of that length, which is not exceeded where the counts tell nothing."""
    try:
        return min(size_bytes, await image_end(storage, path))
    except ImageCorrupt:
        return size_bytes


def _last_in_use(block: bytes, header: Header) -> int | None:
    """The index of the last count that is not zero, within one block of them."""
    used = block.rstrip(b"\0")
    if not used:
        return None
    bits = 1 << header.refcount_order
    if bits >= 8:
        return (len(used) - 1) * 8 // bits
    # Several to a byte, the first one in the lowest bits.
    return (len(used) - 1) * (8 // bits) + (used[-1].bit_length() - 1) // bits
