"""Proofs read off disk images: snapshots kept their content, acknowledged writes are there.

All functions take the image's path and ``enter``, the words that run a command where that path is valid:
``LabHost.enter`` for paths of a lab's host (a chain's backing files are then found too), nothing for paths
of this machine. Images are read with ``-U``, also while a guest runs on them. An acknowledged write is in
the image by then, because the guest's writes are O_DSYNC; for digests of an active layer pause the guest
first.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from fsm.lab.process import run
from fsm.lab.serial import Ack
from fsm.lab.spec import Ring

BLOCK = 4096
_MAGIC = b"FSMRING1"
_HEADER = struct.Struct("<8s24sQQQ")  # as struct header in guest_init.c
_CHUNK = 64 * 1024
_DEFAULT_RING = Ring()


@attrs.frozen
class ImageSnapshot:
    """One entry of the snapshot table of a qcow2 image."""

    id: str
    name: str
    vm_state_bytes: int
    """Size of the saved memory; 0 on disks that do not hold it."""
    seconds: int
    """When it was taken."""


@attrs.frozen
class Block:
    """One valid block of the ring."""

    disk: str
    boot: int
    sequence: int
    guest_ms: int


@attrs.frozen
class Missing:
    """An acknowledged write that the image does not hold."""

    ack: Ack
    slot: int
    found: Block | None
    """What is in its slot instead; None: nothing valid."""


def snapshot_table(image: str | Path, *, enter: Sequence[str] = ()) -> list[ImageSnapshot]:
    """The internal snapshots of an image in the order of its table."""
    return [
        ImageSnapshot(entry["id"], entry["name"], entry["vm-state-size"], entry["date-sec"])
        for entry in _info(image, enter).get("snapshots", [])
    ]


def backing_file(image: str | Path, *, enter: Sequence[str] = ()) -> str | None:
    """The backing file that an image names, None if it stands alone."""
    name: str | None = _info(image, enter).get("backing-filename")
    return name


def _info(image: str | Path, enter: Sequence[str]) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(run([*enter, "qemu-img", "info", "-U", "--output=json", str(image)]))
    return info


def snapshot_digests(image: str | Path, *, enter: Sequence[str] = ()) -> dict[str, str]:
    """Digest of the whole disk content that each internal snapshot holds, by the snapshot's name."""
    digests = {}
    for snapshot in snapshot_table(image, enter=enter):
        # By id: a name may contain what qemu-img's option syntax reserves.
        with _scratch() as raw:
            source = ["-f", "qcow2", "-l", f"snapshot.id={snapshot.id}", str(image)]
            run([*enter, "qemu-img", "convert", "-U", "-O", "raw", *source, str(raw)])
            digests[snapshot.name] = content_digest(raw)
    return digests


def active_digest(image: str | Path, *, image_format: str | None = None, enter: Sequence[str] = ()) -> str:
    """Digest of the content that a guest sees, through the whole backing chain.

    ``image_format`` is needed for a raw disk on which the guest keeps an image of its own.
    """
    with _scratch() as raw:
        source = ["-f", image_format or _format(image, enter), str(image)]
        run([*enter, "qemu-img", "convert", "-U", "-O", "raw", *source, str(raw)])
        return content_digest(raw)


def content_digest(raw: Path) -> str:
    """SHA-256 over size, and offset and bytes of every 64 KiB chunk that is not all zeros.

    So it does not depend on which zeros are allocated, and holes cost no time.
    """
    digest = hashlib.sha256()
    size = raw.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    zeros = bytes(_CHUNK)
    with raw.open("rb", buffering=0) as file:
        for start, end in _data_extents(file.fileno(), size):
            for offset in range(start, end, _CHUNK):
                chunk = os.pread(file.fileno(), _CHUNK, offset)
                if chunk != zeros[: len(chunk)]:
                    digest.update(offset.to_bytes(8, "little"))
                    digest.update(chunk)
    return digest.hexdigest()


def _data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Allocated parts of a file, widened to whole chunks, none of them twice."""
    done = 0
    while done < size:
        try:
            start = os.lseek(fd, done, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        start = max(done, start - start % _CHUNK)
        done = end + -end % _CHUNK
        yield start, min(done, size)


def ring_blocks(
    image: str | Path, ring: Ring = _DEFAULT_RING, *, enter: Sequence[str] = ()
) -> dict[int, Block]:
    """The valid blocks of the ring as the guest would read it now, by slot."""
    skip, end = ring.offset_kib // 4, ring.end_kib // 4
    with _scratch() as raw:
        # qemu-img counts what it skips, unlike dd; a version that did not would merely read more.
        words = [f"if={image}", f"of={raw}", f"bs={BLOCK}", f"skip={skip}", f"count={end}"]
        run([*enter, "qemu-img", "dd", "-U", "-f", _format(image, enter), "-O", "raw", *words])
        found = {}
        with raw.open("rb") as file:
            for slot in range(ring.slots):
                file.seek(slot * ring.stride_kib * 1024)
                block = parse_block(file.read(BLOCK))
                if block is not None and block.sequence % ring.slots == slot:
                    found[slot] = block
        return found


def parse_block(raw: bytes) -> Block | None:
    """Read one block; None unless it is whole and its checksum holds."""
    if len(raw) != BLOCK or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        return None
    magic, disk, boot, sequence, guest_ms = _HEADER.unpack_from(raw)
    if magic != _MAGIC:
        return None
    return Block(disk.rstrip(b"\0").decode(errors="replace"), boot, sequence, guest_ms)


def missing(blocks: dict[int, Block], acks: Iterable[Ack], slots: int) -> list[Missing]:
    """The acks that blocks of one disk's ring do not bear out.

    Every acknowledged block must be in its slot, or a later one that has overwritten it there.
    """
    lost = []
    for ack in acks:
        slot = ack.sequence % slots
        found = blocks.get(slot)
        if found is None or found.disk != ack.disk or not _bears_out(found, ack):
            lost.append(Missing(ack, slot, found))
    return lost


def _bears_out(found: Block, ack: Ack) -> bool:
    return found.sequence > ack.sequence or (found.sequence, found.boot) == (ack.sequence, ack.boot)


def missing_writes(
    image: str | Path,
    acks: Iterable[Ack],
    disk: str,
    ring: Ring = _DEFAULT_RING,
    *,
    enter: Sequence[str] = (),
) -> list[Missing]:
    """The acknowledged writes of one disk that its image (the active layer, read through its chain) lacks."""
    return missing(
        ring_blocks(image, ring, enter=enter), (ack for ack in acks if ack.disk == disk), ring.slots
    )


def _format(image: str | Path, enter: Sequence[str]) -> str:
    return str(_info(image, enter)["format"])


@contextmanager
def _scratch() -> Iterator[Path]:
    """A file that a host reaches too: ``/var/tmp`` is the machine's in every host."""
    with tempfile.TemporaryDirectory(prefix="fsm-proof-", dir="/var/tmp") as directory:
        yield Path(directory) / "raw"
