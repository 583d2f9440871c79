"""Copying a base from host to host by NBD: ``qemu-nbd`` at the source, ``qemu-img`` at the destination.

The bytes don't pass through the engine, which only has to be able to run commands on both hosts. Both tools
are wherever QEMU is. The base is exported raw and read-only, so its internal snapshots come along and nothing
can change it (https://qemu.readthedocs.io/en/v7.2.0/tools/qemu-nbd.html).
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from attrs import frozen

from fsm.errors import HostError
from fsm.hypervisor.shell import ANSWER_S, Running, Shell
from fsm.hypervisor.uris import safe_uri
from fsm.images.transfer import MIB, Progress

PIECE_BYTES = 1024 * MIB
"""How much data one ``qemu-img`` moves. It tells its progress by hundredths; so they stay small enough to
see that the copy still moves, however large the file and slow the link is."""

SILENCE_S = 120.0
"""How long a copy may move nothing before it counts as lost: a hundredth of a piece at 0.1 MiB/s."""

PORTS = range(49152, 49216)
"""Where the export listens: libvirt's own ports for migrations, which are open between hosts anyway."""

HELD = "/proc/self/fd/4"
"""The file that a script holds, whatever bears its name by now; see ``holding``."""

_ATTEMPTS = 8
_PERCENT = re.compile(r"\((\d+\.\d+)/100%\)")
_IN_USE = "Address already in use"


@frozen
class Piece:
    """Bytes of a file that are copied in one go; ``data_bytes`` of them are data, the others hole."""

    offset: int
    length: int
    data_bytes: int


@frozen
class NbdRoute:
    """How the destination reaches an export of the source.

    ``address`` is the source's as the destination sees it; the export listens there, or everywhere if
    ``everywhere``. ``tls_directory`` holds QEMU's X.509 files on both hosts (libvirt's default is
    ``/etc/pki/qemu``): both sides prove who they are and the bytes are encrypted; without it they are not.
    """

    source: Shell
    destination: Shell
    address: str
    everywhere: bool = False
    tls_directory: str = ""


def holding(path: str) -> str:
    """The first lines of a script that writes, or relies on nobody writing: it opens the file and locks it.

    A script whose engine has died without its host noticing may still be under way. Behind it the next one
    fails instead of mixing with it; and what it does late it does to the file that it opened, not to one that
    has got that name since and may be a running guest's.
    """
    return f"""\
exec 4<{shlex.quote(path)} || exit
flock --nonblock 4 || {{ echo "another command still holds "{shlex.quote(path)} >&2; exit 1; }}"""


def watched(lines: str) -> str:
    """A script whose ``run COMMAND`` is ended, and the script with it, when its input ends."""
    return f"""\
exec 3<&0 </dev/null
trap 'kill "$job" 2>/dev/null; exit 1' HUP INT TERM
{{ cat <&3; kill -TERM $$; }} >/dev/null 2>&1 4<&- &
watch=$!
exec 3<&-
leave() {{ :; }}
trap 'kill $watch 2>/dev/null; leave' EXIT
run() {{ "$@" & job=$!; wait "$job" || exit; }}
{lines}"""


async def data_pieces(shell: Shell, path: str) -> tuple[Piece, ...]:
    """The file's data as pieces of about ``PIECE_BYTES`` each, in order, with the holes between them.

    Holes of the file are left out where a range begins or ends. Raises ``HostError``.
    """
    words = ["qemu-img", "map", "--output=json", "-f", "raw", path]
    told = await shell.ask(f"exec {shlex.join(words)}", timeout_s=SILENCE_S)
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


async def copy_by_nbd(
    route: NbdRoute,
    path: str,
    size_bytes: int,
    pieces: Sequence[Piece],
    *,
    over_zeros: bool,
    bandwidth_mib_per_s: int = 0,
    progress: Progress | None = None,
) -> None:
    """Copy ``pieces`` of the source's file ``path`` into the file of that path at the destination.

    That file exists and has the original's length, ``size_bytes``. ``over_zeros``: it is known to read as
    zeros there, so that zeros need not be written. ``bandwidth_mib_per_s`` limits what crosses the network;
    0: nothing does. ``progress`` is told of the bytes of data done so far.

    What was written is on the storage, but for what its device still holds (``Storage.make_durable``).

    Raises ``HostError`` when a command fails, ``HostUnreachable`` when a host or the link falls silent. On
    return, on an error and on a cancel neither host is left with a command that runs.
    """
    if not pieces:
        return
    name = secrets.token_hex(8)  # whatever else may listen at that port has another name
    async with _export(route, path, name) as port:
        words = _Copying(route, path, size_bytes, name, port, over_zeros, bandwidth_mib_per_s)
        async with route.destination.running(words.script(pieces)) as copying:
            await _follow(copying, pieces, progress)
            await copying.end()


async def _follow(copying: Running, pieces: Sequence[Piece], progress: Progress | None) -> None:
    """Tell the progress; ``HostUnreachable`` when there is none for too long."""
    done_bytes, index = 0, 0
    while (line := await copying.line(SILENCE_S)) is not None:  # bounded: the script's end, or silence
        if line == "done" and index < len(pieces):
            done_bytes += pieces[index].data_bytes
            index += 1
            now_bytes = done_bytes
        elif (percent := _PERCENT.search(line)) and index < len(pieces):
            now_bytes = done_bytes + int(pieces[index].data_bytes * float(percent[1]) / 100)
        else:
            continue
        if progress is not None:
            progress(now_bytes, 0)


@asynccontextmanager
async def _export(route: NbdRoute, path: str, name: str) -> AsyncIterator[int]:
    """The source's file at a port. Ports that somebody else has taken are passed over."""
    ports = secrets.SystemRandom().sample(PORTS, _ATTEMPTS)
    for port in ports[:-1]:
        async with route.source.running(_export_script(route, path, name, port)) as export:
            if await _is_ready(export):
                yield port
                return
    async with route.source.running(_export_script(route, path, name, ports[-1])) as export:
        if not await _is_ready(export):
            raise HostError(
                f"no free port among {', '.join(map(str, ports))}",
                host=safe_uri(route.source.uri),
                call="nbd",
            )
        yield ports[-1]


async def _is_ready(export: Running) -> bool:
    """Whether it listens; False where the port was taken. Raises any other failure."""
    if await export.line(ANSWER_S) == "ready":
        return True
    try:
        await export.end()
    except HostError as error:
        if _IN_USE in error.message:
            return False
        raise
    raise HostError("the export ended at once", host=safe_uri(export.shell.uri), call="nbd")


def _export_script(route: NbdRoute, path: str, name: str, port: int) -> str:
    """Exports until its input ends. ``--fork`` returns when the socket listens: nothing has to poll."""
    words = ["qemu-nbd", "--fork", "--read-only", "--persistent", "--shared=2", "--format=raw"]
    words += [] if route.everywhere else [f"--bind={route.address}"]
    words += [f"--port={port}", f"--export-name={name}"]
    if route.tls_directory:
        credentials = (
            f"tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir={_option(route.tls_directory)}"
        )
        words += ["--object", credentials, "--tls-creds=tls"]
    return f"""\
pid=$(mktemp) || exit
trap 'kill "$(cat "$pid")" 2>/dev/null; rm -f "$pid"' EXIT
trap 'exit 1' HUP INT TERM
{shlex.join(words)} --pid-file="$pid" -- {shlex.quote(path)} || exit
echo ready
cat >/dev/null"""


@frozen
class _Copying:
    """The destination's command."""

    route: NbdRoute
    path: str
    size_bytes: int
    name: str
    port: int
    over_zeros: bool
    bandwidth_mib_per_s: int

    def script(self, pieces: Sequence[Piece]) -> str:
        """Copies range after range, says "done" behind each, and stops when its input ends.

        Whole blocks are written, so the last one may have made the file longer.
        """
        lines = "\n".join(f"run {shlex.join(self._command(one))}; echo done" for one in pieces)
        return watched(f"""\
{holding(self.path)}
leave() {{ truncate --no-create --size={self.size_bytes} {HELD}; }}
{lines}
leave""")

    def _command(self, one: Piece) -> list[str]:
        # Out of order and several at once, as ``qemu-img``'s manual advises for what is not compressed. By
        # cache mode "none" the copy does not fill the page cache that guests need, and is on the storage.
        words = ["qemu-img", "convert", "-p", "-n", "-W", "-m", "8", "-t", "none"]
        words += ["--target-is-zero"] if self.over_zeros else []
        words += ["-r", f"{self.bandwidth_mib_per_s}M"] if self.bandwidth_mib_per_s else []
        source: dict[str, object] = {
            "driver": "nbd",
            "export": self.name,
            "server": {"type": "inet", "host": self.route.address, "port": str(self.port)},
        }
        if directory := self.route.tls_directory:
            words += ["--object", f"tls-creds-x509,id=tls,endpoint=client,dir={_option(directory)}"]
            source["tls-creds"] = "tls"
        target: dict[str, object] = {"driver": "file", "filename": HELD}
        return [*words, *(_part(file, one, self.size_bytes) for file in (source, target))]


def _part(file: dict[str, object], one: Piece, size_bytes: int) -> str:
    part: dict[str, object] = {"driver": "raw", "offset": one.offset, "file": file}
    if one.offset + one.length < size_bytes:
        part["size"] = one.length  # to the end it is left out: QEMU takes multiples of 512 alone
    return f"json:{json.dumps(part)}"


def _option(value: str) -> str:
    """A value in QEMU's comma-separated options."""
    return value.replace(",", ",,")
