"""The base copy straight from host to host, where the engine may run commands on both."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from fsm.engine import devices
from fsm.engine.checks import Finding
from fsm.engine.context import Context
from fsm.engine.device_users import expect_free
from fsm.engine.plan import Direct, Request, Side
from fsm.errors import ActionFailed, BadInput, HostError
from fsm.hypervisor.shell import Shell, default_prefix
from fsm.hypervisor.values import Base
from fsm.images.nbd_copy import NbdRoute, copy_by_nbd
from fsm.images.pieces import Piece, data_pieces
from fsm.images.seed import differing_pieces, plant

Tell = Callable[[str, int, int], None]
"""Told a phase, and how many bytes of how many are done in it."""

_TOOLS = {Side.SOURCE: ("qemu-nbd", "qemu-img"), Side.DESTINATION: ("qemu-img", "truncate", "flock")}
_SEED_TOOLS = ("split", "sha256sum")


def shell(request: Request, direct: Direct, side: Side) -> Shell:
    """The way to a shell on that host. Raises ``BadInput`` where neither the user nor the URI tells one."""
    told = direct.source_shell if side is Side.SOURCE else direct.destination_shell
    try:
        prefix = tuple(shlex.split(told)) if told else default_prefix(request.uri(side))
    except ValueError as error:
        raise BadInput(f"the {side} shell {told!r} is no command: {error}") from error
    if prefix is None:
        raise BadInput(
            f"{request.shown_uri(side)} does not tell how to run a command there",
            remedy=f"--{side}-shell 'ssh root@HOST'; or --transport streams, which needs none",
        )
    return Shell(request.uri(side), prefix)


def check_direct(request: Request, direct: Direct) -> None:
    """Raise ``BadInput`` for what is wrong whatever the hosts look like."""
    for side in Side:
        shell(request, direct, side)
    for seed in direct.seeds:
        target, _, path = seed.partition("=")
        if not target or not path.startswith("/"):
            raise BadInput(
                f"the seed {seed!r} is no TARGET=PATH", remedy="for example vda=/backup/guest.qcow2"
            )
    if direct.tls_directory and not direct.tls_directory.startswith("/"):
        raise BadInput(f"the TLS directory {direct.tls_directory!r} is no absolute path")


async def findings(request: Request, direct: Direct) -> list[Finding]:
    """What stands in the way on the hosts: no shell, a tool or a seed that is missing."""
    missing = await asyncio.gather(*(_missing(request, direct, side) for side in Side))
    return [
        Finding("transport", request.shown_uri(side), line, "put that right, or --transport streams")
        for side, lines in zip(Side, missing, strict=True)
        for line in lines
    ]


async def _missing(request: Request, direct: Direct, side: Side) -> list[str]:
    wanted = [
        f"command -v {tool} >/dev/null || echo {tool} is not installed" for tool in _tools(direct, side)
    ]
    if side is Side.DESTINATION:
        for seed in direct.seeds:
            path = shlex.quote(seed.partition("=")[2])
            wanted.append(f"[ -f {path} ] || echo there is no file {path}")
    try:
        return (await shell(request, direct, side).ask("\n".join(wanted))).splitlines()
    except HostError as error:
        return [f"no command can be run there: {error.message}"]


def _tools(direct: Direct, side: Side) -> tuple[str, ...]:
    return _TOOLS[side] + (_SEED_TOOLS if direct.seeds else ())


async def copy_directly(context: Context, direct: Direct, base: Base, tell: Tell) -> None:
    """Copy one base. What the destination has of it already, or of its seed, is not sent again."""
    route = await _route(context, direct)
    copy = context.planned.copy_of(base)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_expect_same_file(context, Side.SOURCE, route.source, base))
            both.create_task(_expect_same_file(context, Side.DESTINATION, route.destination, copy))
    except ExceptionGroup as errors:  # the first one ended the other
        raise errors.exceptions[0] from None
    await expect_free(context, route.destination, copy)
    written = await devices.writes(route.source, base.path) if base.on_device else ""
    # Commands know no lease: an engine that has lost its own must not get to them. Comparing takes long.
    may_send = partial(context.note, "send-base", {})
    await may_send()
    pieces, is_empty = await _pieces_to_send(context, direct, route, base, tell)
    total_bytes = sum(one.data_bytes for one in pieces)

    def progress(data_bytes: int, _hole_bytes: int) -> None:
        tell("base copy", data_bytes, total_bytes)

    told = await copy_by_nbd(
        route,
        base.path,
        base.size_bytes,
        pieces,
        over_zeros=is_empty,
        destination_path=copy.path,
        on_device=copy.on_device,
        bandwidth_mib_per_s=context.request.bandwidth_mib_per_s,
        progress=progress,
        before_writing=may_send,
    )
    if told:
        context.outcome["compression"] = told
    if base.on_device and await devices.writes(route.source, base.path) != written:
        raise ActionFailed(
            "copy-bases",
            f"{context.request.shown_uri(Side.SOURCE)}: {base.path} was written to while it was copied",
            retryable=False,
            remedy="find out who committed into it, or wrote it; then migrate again",
        )


async def _pieces_to_send(
    context: Context, direct: Direct, route: NbdRoute, base: Base, tell: Tell
) -> tuple[tuple[Piece, ...], bool]:
    """What is to be sent, and whether it goes into an empty file."""
    copy = context.planned.copy_of(base)
    path = copy.path
    found = await (await context.host(Side.DESTINATION)).storage.stat(path)
    is_empty = found is not None and found.allocated_bytes == 0 and not copy.on_device
    overlays = context.planned.overlays
    seed = next((direct.seed_of(one.target) for one in overlays if one.base == base.path), "")
    if is_empty and not seed:
        return await data_pieces(route.source, base.path), True
    if is_empty:
        await plant(route.destination, seed, path, base.size_bytes)

    def compared(done_bytes: int) -> None:
        tell("compare", min(done_bytes, base.size_bytes), base.size_bytes)

    differing = partial(differing_pieces, destination_path=path, on_device=copy.on_device)
    return await differing(route, base.path, base.size_bytes, compared), False


async def _route(context: Context, direct: Direct) -> NbdRoute:
    request = context.request
    return NbdRoute(
        shell(request, direct, Side.SOURCE),
        shell(request, direct, Side.DESTINATION),
        direct.address or await _name_of_source(context),
        everywhere=not direct.address,
        tls_directory=direct.tls_directory,
    )


async def _name_of_source(context: Context) -> str:
    named = urlsplit(context.request.source_uri).hostname
    return named or (await (await context.host(Side.SOURCE)).identity()).hostname


async def _expect_same_file(context: Context, side: Side, way: Shell, base: Base) -> None:
    """The shell leads to libvirt's host: both see one file, written last at one nanosecond.

    A shell on another machine would write into that one's files. Of a device it is the node's time.
    """
    host, path = await context.host(side), base.path
    known = await host.storage.stat(path)
    try:
        if base.on_device:
            seen = await devices.named(way, path)
        else:
            seen = await way.ask(f"stat -L --format='%s %.9Y' -- {shlex.quote(path)}")
    except HostError as error:
        seen = error.message
    # libvirt tells no fraction of a whole second.
    if known is None or seen.removesuffix(".000000000") != f"{known.size_bytes} {known.modified}":
        libvirt_sees = f"{known.size_bytes} {known.modified}" if known is not None else "no such file"
        raise ActionFailed(
            "copy-bases",
            f"{host.uri}: what leads to a shell there ({shlex.join(way.prefix) or 'this machine'}) sees "
            f"another {path} than libvirt: {seen!r} are its size and time, and {libvirt_sees!r} for libvirt",
            retryable=False,
            remedy=f"let --{side}-shell lead to the very host, or use --transport streams",
        )
