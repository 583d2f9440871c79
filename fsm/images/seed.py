"""Sending only what differs from what the destination has: an older copy, or a copy that was interrupted.

Both hosts digest their file chunk by chunk with tools that every Linux has, side by side; only digests cross
the network. A chunk counts as equal when its SHA-256 is.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Sequence

from fsm.errors import HostError
from fsm.hypervisor.shell import Shell
from fsm.hypervisor.uris import safe_uri
from fsm.images.nbd_copy import SILENCE_S, NbdRoute
from fsm.images.pieces import PIECE_BYTES, Piece
from fsm.images.scripts import HELD, holding, watched
from fsm.images.transfer import MIB

CHUNK_BYTES = 16 * MIB
"""What is compared, and sent, as one. Smaller ones would send less and start ``qemu-img`` more often."""

_DIGEST = f"split --bytes={CHUNK_BYTES} --filter=sha256sum --"

SLOWEST_BYTES_PER_S = 10 * MIB
"""What a copy within a host is expected to do at the least: it tells nothing until its end."""

Told = Callable[[int], None]
"""Told how many bytes have been compared so far."""


async def plant(shell: Shell, seed: str, path: str, size_bytes: int) -> None:
    """Make the content of ``seed`` that of the existing file ``path``, which keeps its length and owner.

    Where the file system can, the blocks are shared and nothing is copied. Stopped on the way it has its
    length as well. Raises ``HostError``.
    """
    script = watched(f"""\
{holding(path)}
leave() {{ truncate --no-create --size={size_bytes} {HELD}; }}
run cp --reflink=auto --sparse=auto --no-preserve=all -- {shlex.quote(seed)} {HELD}
leave""")
    await shell.ask(script, timeout_s=SILENCE_S + size_bytes / SLOWEST_BYTES_PER_S)


async def differing_pieces(
    route: NbdRoute,
    path: str,
    size_bytes: int,
    told: Told | None = None,
    *,
    destination_path: str = "",
    on_device: bool = False,
) -> tuple[Piece, ...]:
    """Where the file of that path at the source and the one at the destination are not equal, in order.

    ``destination_path`` is the latter's where it is another one. ``on_device``: it is a block device, which
    may be longer; what it has behind the source's end does not count.

    Raises ``HostError`` and ``HostUnreachable``.
    """
    held = holding(destination_path or path)
    both = [
        asyncio.ensure_future(_digests(route.source, f"exec {_DIGEST} {shlex.quote(path)}", told)),
        asyncio.ensure_future(_digests(route.destination, f"{held}\nexec {_DIGEST} {HELD}", None)),
    ]
    try:
        one, other = await asyncio.gather(*both)
    finally:
        for digesting in both:
            digesting.cancel()
        await asyncio.wait(both)
    expected = -(-size_bytes // CHUNK_BYTES)
    if on_device:
        other = other[:expected]
    for shell, found in ((route.source, one), (route.destination, other)):
        if len(found) != expected:
            raise HostError(
                f"{path} has {len(found)} chunks where {expected} were expected: its length is another",
                host=safe_uri(shell.uri),
                call="digest",
            )
    return tuple(_differing(one, other, size_bytes))


def _differing(one: Sequence[str], other: Sequence[str], size_bytes: int) -> list[Piece]:
    pieces: list[Piece] = []
    for index, (left, right) in enumerate(zip(one, other, strict=True)):
        if left == right:
            continue
        start = index * CHUNK_BYTES
        length = min(CHUNK_BYTES, size_bytes - start)
        last = pieces[-1] if pieces else None
        whole = last.length + length if last is not None and last.offset + last.length == start else 0
        if last is not None and 0 < whole <= PIECE_BYTES:
            pieces[-1] = Piece(last.offset, whole, whole)
        else:
            pieces.append(Piece(start, length, length))
    return pieces


async def _digests(shell: Shell, script: str, told: Told | None) -> list[str]:
    found: list[str] = []
    async with shell.running(script) as digesting:
        while (line := await digesting.line(SILENCE_S)) is not None:  # bounded: by the file's end
            found.append(line.partition(" ")[0])
            if told is not None:
                told(len(found) * CHUNK_BYTES)
        await digesting.end()
    return found
