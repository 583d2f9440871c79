"""Whether two files hold the same, holes passed over."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fsm.lab import LabError

CHUNK_BYTES = 1024 * 1024


def expect_same(original: Path, copied: Path) -> None:
    """Raise ``LabError`` when the files differ in length or in a byte.

    Only what is data in either of them is read, so that a large file with little in it takes no longer.
    """
    sizes = [path.stat().st_size for path in (original, copied)]
    if sizes[0] != sizes[1]:
        raise LabError(f"{original} and {copied} differ in length: {sizes[0]} and {sizes[1]} bytes")
    with original.open("rb", buffering=0) as one, copied.open("rb", buffering=0) as other:
        for data in (one, other):
            for offset, length in _chunks(data.fileno(), sizes[0]):
                pieces = [os.pread(file.fileno(), length, offset) for file in (one, other)]
                if pieces[0] != pieces[1]:
                    raise LabError(f"{original} and {copied} differ in the {length} bytes from {offset} on")


def _chunks(file: int, size: int) -> Iterator[tuple[int, int]]:
    """The file's data, in order, in pieces that are not too long to be read at once."""
    end = 0
    while (start := _next_data(file, end)) < size:  # bounded: each turn is behind the one before
        end = os.lseek(file, start, os.SEEK_HOLE)
        for offset in range(start, end, CHUNK_BYTES):
            yield offset, min(CHUNK_BYTES, end - offset)


def _next_data(file: int, offset: int) -> int:
    try:
        return os.lseek(file, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data behind ``offset``
            raise
        return os.lseek(file, 0, os.SEEK_END)
