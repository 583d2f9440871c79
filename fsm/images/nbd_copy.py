"""Copying a base from host to host by NBD: ``qemu-nbd`` at the source, ``qemu-img`` at the destination.

The bytes don't pass through the engine, which only has to be able to run commands on both hosts. Both tools
are wherever QEMU is. The base is exported raw and read-only, so its internal snapshots come along and nothing
can change it (https://qemu.readthedocs.io/en/v7.2.0/tools/qemu-nbd.html).

Where the beginning shows the link to be slow, the rest is compressed as far as it has to wait for the link
(``fsm.images.relay``); the piece under way begins anew.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import secrets
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto

from attrs import define, evolve, field, frozen

from fsm.errors import HostError, HostUnreachable
from fsm.hypervisor.shell import ANSWER_S, Running, Shell
from fsm.hypervisor.uris import safe_uri
from fsm.hypervisor.values import SECTOR_BYTES
from fsm.images import relay
from fsm.images.pace import Pace
from fsm.images.pieces import Piece
from fsm.images.scripts import HELD, holding, watched
from fsm.images.transfer import Progress

SILENCE_S = 120.0
"""How long a copy may move nothing before it counts as lost: a hundredth of a piece at 0.35 MiB/s."""

PORTS = range(49152, 49216)
"""Where the export listens: libvirt's own ports for migrations, which are open between hosts anyway."""

_ATTEMPTS = 8
_PERCENT = re.compile(r"\((\d+\.\d+)/100%\)")
_IN_USE = "Address already in use"


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


async def copy_by_nbd(
    route: NbdRoute,
    path: str,
    size_bytes: int,
    pieces: Sequence[Piece],
    *,
    over_zeros: bool,
    destination_path: str = "",
    on_device: bool = False,
    bandwidth_mib_per_s: int = 0,
    progress: Progress | None = None,
    before_writing: Callable[[], Awaitable[None]] | None = None,
) -> str:
    """Copy ``pieces`` of the source's file ``path`` into the file of that path at the destination.

    ``destination_path`` is that file's path where it is another one. It exists and has the original's length,
    ``size_bytes``. ``on_device``: it is a block device, perhaps a longer one. ``over_zeros``: it is known to
    read as zeros there, so that zeros need not be written. ``bandwidth_mib_per_s`` limits what crosses the
    network; 0: nothing does. ``progress`` is told of the bytes of data done so far. ``before_writing`` is
    called each time before the file is opened, and raises if that must not be. Returns what there is to tell
    about a slow link: that the rest was compressed, or why it was not.

    What was written is on the storage, but for what its device still holds (``Storage.make_durable``).

    Raises ``HostError`` when a command fails, ``HostUnreachable`` when a host or the link falls silent. On
    return, on an error and on a cancel neither host is left with a command that runs.
    """
    if not pieces:
        return ""
    name = secrets.token_hex(8)  # whatever else may listen at that port has another name
    there = destination_path or path
    words = _Copying(
        route,
        path,
        there,
        size_bytes,
        name,
        over_zeros,
        bandwidth_mib_per_s,
        on_device=on_device,
        before_writing=before_writing,
    )
    told = _Told(progress)
    # What is encrypted can't be compressed.
    pace = None if route.tls_directory else Pace(bandwidth_mib_per_s)
    done = await _copy(words, pieces, told, pace)
    if done == len(pieces):
        return f"the link is slow, but {pace.missing}" if pace is not None and pace.missing else ""
    await _copy(evolve(words, way=Way.RELAYED), pieces[done:], told, None)
    return "the link is slow: what waits is compressed"


async def _missing_for_relay(route: NbdRoute) -> str:
    """Why nothing can be compressed between the two; empty if it can."""
    both = (route.source, route.destination)
    for shell, has_it in zip(both, await asyncio.gather(*map(_has_python, both)), strict=True):
        if not has_it:
            return f"{safe_uri(shell.uri)} has no Python 3.8, which would compress"
    return ""


async def _has_python(shell: Shell) -> bool:
    asked = "import sys, zlib; sys.exit(sys.version_info < (3, 8))"
    return await shell.ask(f"python3 -IS -c {shlex.quote(asked)} >/dev/null 2>&1 && echo yes; true") == "yes"


async def _copy(words: _Copying, pieces: Sequence[Piece], told: _Told, pace: Pace | None) -> int:
    """Copy until all is done, or ``pace`` tells to go another way; how many pieces are done."""
    async with _export(words) as port:
        if words.before_writing is not None:
            await words.before_writing()
        async with words.route.destination.running(words.script(pieces, port)) as copying:
            done = await _follow(copying, words, pieces, told, pace)
            if pace is not None and pace.is_slow and not pace.missing:
                return done
            await copying.end()
    if done < len(pieces):
        raise HostError(
            f"the copy of {words.path} ended after {done} of {len(pieces)} pieces",
            host=safe_uri(words.route.destination.uri),
            call="nbd",
        )
    return done


@define
class _Told:
    """Tells the progress, of all the scripts of a copy."""

    progress: Progress | None
    done_bytes: int = 0
    _told_bytes: int = field(default=0, init=False)

    def now(self, more_bytes: int) -> None:
        # A piece that begins anew takes nothing back.
        self._told_bytes = max(self._told_bytes, self.done_bytes + more_bytes)
        if self.progress is not None:
            self.progress(self._told_bytes, 0)


async def _follow(
    copying: Running, words: _Copying, pieces: Sequence[Piece], told: _Told, pace: Pace | None
) -> int:
    """Tell the progress; how many pieces are done. ``HostUnreachable`` when there is none for too long."""
    index = 0
    while (line := await copying.line(SILENCE_S)) is not None:  # bounded: the script's end, or silence
        if index == len(pieces):
            continue
        if line == "done":
            told.done_bytes += pieces[index].data_bytes
            index += 1
            told.now(0)
            if pace is not None:
                pace.begins()
        elif percent := _PERCENT.search(line):
            done_bytes = int(pieces[index].data_bytes * float(percent[1]) / 100)
            told.now(done_bytes)
            if pace is not None and pace.shows_slow(done_bytes, asyncio.get_running_loop().time()):
                pace.missing = await _missing_for_relay(words.route)
                if not pace.missing:
                    return index
    return index


@asynccontextmanager
async def _export(words: _Copying) -> AsyncIterator[int]:
    """The source's file at a port. Ports that somebody else has taken are passed over."""
    source = words.route.source
    ports = secrets.SystemRandom().sample(PORTS, _ATTEMPTS)
    for port in ports:
        async with source.running(_export_script(words, port)) as export:
            if await _is_ready(export):
                async with _blamed(export):
                    yield port
                return
    raise HostError(f"no free port among {', '.join(map(str, ports))}", host=safe_uri(source.uri), call="nbd")


@asynccontextmanager
async def _blamed(export: Running) -> AsyncIterator[None]:
    """What fails because the export has failed is told in the export's words."""
    try:
        yield
    except HostUnreachable:
        raise
    except HostError:
        with suppress(HostUnreachable):
            await export.dismiss()
        raise


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


def _export_script(words: _Copying, port: int) -> str:
    """Exports until its input ends, and has ended with it.

    ``--fork`` returns when the socket listens, and what it leaves behind holds a lock that its end frees:
    nothing has to poll. One that does not end when it is told to is killed, within the script's ``GRACE_S``.
    """
    route = words.route
    address = "" if route.everywhere else route.address
    command = ["qemu-nbd", "--fork", "--read-only", "--persistent", "--shared=2", "--format=raw"]
    command += [f"--export-name={words.name}"]
    if words.way is Way.RELAYED:
        where = '--socket="$own/nbd"'
        rest = f"""{PROGRAM}
{relayed("serve", address, port)} "$own/nbd" || {{
echo the relay at the source ended >&2; exit 1; }}"""
    else:
        where = shlex.join([*([f"--bind={address}"] if address else []), f"--port={port}"])
        rest = "echo ready\ncat >/dev/null"
    if route.tls_directory:
        credentials = (
            f"tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir={_option(route.tls_directory)}"
        )
        command += ["--object", credentials, "--tls-creds=tls"]
    return f"""\
own=$(mktemp -d) || exit
exec 5>"$own/lock" && flock 5 || exit
leave() {{
exec 5>&-
for sign in TERM KILL; do
kill -$sign "$(cat "$own/pid" 2>/dev/null)" 2>/dev/null
flock --timeout 2 "$own/lock" true && break
done
rm -rf "$own"
}}
trap leave EXIT
trap 'exit 1' HUP INT TERM
{shlex.join(command)} {where} --pid-file="$own/pid" -- {shlex.quote(words.path)} || exit
{rest}"""


PROGRAM = f"relay={shlex.quote(inspect.getsource(relay))}"
"""What a script has to begin with that uses ``relayed``: hosts need nothing of ours."""


def relayed(role: str, address: str, port: int) -> str:
    """A command that is one end of a relay."""
    return f'python3 -IS -c "$relay" {shlex.join([role, address, str(port)])}'


class Way(Enum):
    """How a copy goes: straight, or through a relay that compresses what waits."""

    DIRECT = auto()
    RELAYED = auto()


@frozen
class _Copying:
    """What both hosts' commands are made from."""

    route: NbdRoute
    path: str
    destination_path: str
    size_bytes: int
    name: str
    over_zeros: bool
    bandwidth_mib_per_s: int
    way: Way = Way.DIRECT
    on_device: bool = False
    before_writing: Callable[[], Awaitable[None]] | None = None

    def script(self, pieces: Sequence[Piece], port: int) -> str:
        """The destination's. Copies range after range, says "done" behind each; stops when its input ends.

        Whole blocks are written, so the last one may have made the file longer. A device keeps its length.
        """
        around = relayed("fetch", self.route.address, port) if self.way is Way.RELAYED else ""
        lines = "\n".join(f"run {around} {shlex.join(self._command(one, port))}; echo done" for one in pieces)
        leave = ":" if self.on_device else f"truncate --no-create --size={self.size_bytes} {HELD}"
        return watched(f"""\
{holding(self.destination_path)}
leave() {{ {leave}; }}
{PROGRAM if self.way is Way.RELAYED else ""}
{lines}
leave""")

    def _command(self, one: Piece, port: int) -> list[str]:
        # Out of order and several at once, as ``qemu-img``'s manual advises for what is not compressed. By
        # cache mode "none" the copy does not fill the page cache that guests need, and is on the storage.
        words = ["qemu-img", "convert", "-p", "-n", "-W", "-m", "8", "-t", "none"]
        words += ["--target-is-zero"] if self.over_zeros else []
        words += ["-r", f"{self.bandwidth_mib_per_s}M"] if self.bandwidth_mib_per_s else []
        server = {"type": "inet", "host": self.route.address, "port": str(port)}
        if self.way is Way.RELAYED:
            server = {"type": "fd", "str": "0"}
        source: dict[str, object] = {"driver": "nbd", "export": self.name, "server": server}
        if directory := self.route.tls_directory:
            words += ["--object", f"tls-creds-x509,id=tls,endpoint=client,dir={_option(directory)}"]
            source["tls-creds"] = "tls"
        target: dict[str, object] = {"driver": "host_device" if self.on_device else "file", "filename": HELD}
        # To the end it is left out: QEMU takes multiples of 512 alone. A device may go on behind the end.
        length = one.length if one.offset + one.length < self.size_bytes else None
        whole_sectors = -(-one.length // SECTOR_BYTES) * SECTOR_BYTES if self.on_device else length
        return [*words, _part(source, one, length), _part(target, one, whole_sectors)]


def _part(file: dict[str, object], one: Piece, length: int | None) -> str:
    part: dict[str, object] = {"driver": "raw", "offset": one.offset, "file": file}
    if length is not None:
        part["size"] = length
    return f"json:{json.dumps(part)}"


def _option(value: str) -> str:
    """A value in QEMU's comma-separated options."""
    return value.replace(",", ",,")
