"""What a qcow2 image says of the image below it: pure, like ``fsm.images.qcow2``."""

from __future__ import annotations

from pathlib import PurePosixPath
from struct import Struct

from attrs import frozen

from fsm.errors import ImageCorrupt
from fsm.images.qcow2 import Header, Read, read_header

DEEPEST_CHAIN = 200
"""As in QEMU and libvirt."""

_NAME_AT = Struct(">8xQ")
_EXTENSION = Struct(">II")
_END = 0
_BACKING_FORMAT = 0xE2792ACA


@frozen
class Backing:
    """A backing file as the header above it names it; ``format`` is empty where that names none."""

    name: str
    format: str

    def path(self, above: str) -> str | None:
        """Its absolute path, if the image at ``above`` names it; None where that can't be told.

        QEMU goes from the image's own directory. What leads up from there (``..``) depends on links on the
        way, and a name with a protocol is no path.
        """
        if ":" in self.name.partition("/")[0]:
            return None
        found = PurePosixPath(above).parent / self.name
        return None if ".." in found.parts else str(found)


def read_backing(read: Read) -> tuple[Header, Backing | None]:
    """An image's header and its backing file. Raises ``ImageCorrupt``, and what ``read`` raises."""
    header = read_header(read)
    if header.backing_file is None:
        return header, None
    return header, Backing(header.backing_file, _backing_format(read, header))


def _backing_format(read: Read, header: Header) -> str:
    """Extensions stand between the header and the backing file's name; old images have none at all."""
    at = header.header_bytes
    (end,) = _NAME_AT.unpack(read(0, _NAME_AT.size))
    while at + _EXTENSION.size <= end:  # bounded: it goes up
        kind, length = _EXTENSION.unpack(_exactly(read, at, _EXTENSION.size))
        if kind == _END:
            break
        if at + _EXTENSION.size + length > end:
            raise ImageCorrupt(f"a header extension of {length} bytes at {at} is too long")
        if kind == _BACKING_FORMAT:
            return _exactly(read, at + _EXTENSION.size, length).decode("utf-8", "surrogateescape")
        at += _EXTENSION.size + -(-length // 8) * 8
    return ""


def _exactly(read: Read, offset: int, length: int) -> bytes:
    content = read(offset, length)
    if len(content) < length:
        raise ImageCorrupt("the file ends within its header")
    return content
