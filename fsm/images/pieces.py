"""A file's data in pieces, each of them copied in one go."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from attrs import frozen

from fsm.hypervisor.shell import Shell
from fsm.images.transfer import MIB

PIECE_BYTES = 4096 * MIB
"""How much data one ``qemu-img`` moves. It tells its progress by hundredths; so they stay small enough to
see that the copy still moves, however large the file is. Each takes 0.1 s to connect."""

MAP_S = 120.0
"""How long a host may take to tell where a file holds data."""


@frozen
class Piece:
    """Bytes of a file that are copied in one go; ``data_bytes`` of them are data, the others hole."""

    offset: int
    length: int
    data_bytes: int


async def data_pieces(shell: Shell, path: str) -> tuple[Piece, ...]:
    """The file's data as pieces of about ``PIECE_BYTES`` each, in order, with the holes between them.

    Holes of the file are left out where a range begins or ends. Raises ``HostError``.
    """
    words = ["qemu-img", "map", "--output=json", "-f", "raw", path]
    told = await shell.ask(f"exec {shlex.join(words)}", timeout_s=MAP_S)
    extents = [(one["start"], one["length"]) for one in json.loads(told) if one["data"]]
    return tuple(_pieces(extents))


def _pieces(extents: Sequence[tuple[int, int]]) -> list[Piece]:
    pieces: list[Piece] = []
    for start, length in extents:
        taken_bytes = 0
        while taken_bytes < length:  # bounded: each turn takes at least a byte of the extent
            if not pieces or pieces[-1].data_bytes >= PIECE_BYTES:
                pieces.append(Piece(start + taken_bytes, 0, 0))
            last = pieces[-1]
            more_bytes = min(length - taken_bytes, PIECE_BYTES - last.data_bytes)
            taken_bytes += more_bytes
            pieces[-1] = Piece(last.offset, start + taken_bytes - last.offset, last.data_bytes + more_bytes)
    return pieces
