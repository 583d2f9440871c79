"""Two real hosts, a file of the source, and what a copy of it by NBD leaves there."""

from __future__ import annotations

import asyncio
import os
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fsm.hypervisor.shell import Shell
from fsm.images import nbd_copy
from fsm.images.nbd_copy import NbdRoute, Way
from fsm.lab import Lab

MIB = 1024 * 1024
DIRECTORY = "/var/lib/libvirt/images/ba ses"
PATH = f"{DIRECTORY}/a 'base' & more, $(echo).img"
SIZE_BYTES = 200 * MIB + 12801
RUNS = ((0, MIB), (31 * MIB, 34 * MIB), (100 * MIB + 4096, MIB), (SIZE_BYTES - 4097, 4097))
DATA_BYTES = sum(length for _, length in RUNS)


def route(lab: Lab) -> NbdRoute:
    source, destination = lab.hosts
    return NbdRoute(
        Shell(source.uri, source.enter), Shell(destination.uri, destination.enter), source.address
    )


def words(way: NbdRoute, how: Way = Way.DIRECT) -> nbd_copy._Copying:
    """What the scripts of a copy are made from."""
    return nbd_copy._Copying(
        way, PATH, PATH, SIZE_BYTES, "name", over_zeros=True, bandwidth_mib_per_s=0, way=how
    )


@asynccontextmanager
async def begun(shell: Shell, script: str, sign: bytes) -> AsyncIterator[None]:
    """A script that has said so much, of an engine that is killed in the end."""
    engine = await asyncio.create_subprocess_exec(*shell.prefix, "sh", "-s", stdin=PIPE, stdout=PIPE)
    assert engine.stdin is not None
    assert engine.stdout is not None
    engine.stdin.write(f"{{\n{script}\n}}\n".encode())
    try:
        async with asyncio.timeout(20):
            await engine.stdout.readuntil(sign)
        yield
    finally:
        engine.stdin.close()  # what the kernel does for one that is killed
        async with asyncio.timeout(20):
            await engine.wait()


def same(files: tuple[Path, Path]) -> bool:
    return subprocess.run(["cmp", "--", *map(str, files)], check=False).returncode == 0


def commands(lab: Lab, *tools: str) -> list[str]:
    """The processes of these, or of QEMU's tools and of ours, that are on the hosts at present."""
    found = []
    for host in lab.hosts:
        space = os.readlink(f"/proc/{host.holder.pid}/ns/net")
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                mine = os.readlink(entry / "ns/net") == space
            except OSError:
                continue
            name = words[0].rpartition(b"/")[2].decode()
            ours = words[1:2] == [b"-IS"] and not tools
            if mine and (ours or name in (tools or ("qemu-nbd", "qemu-img", "cat"))):
                found.append(entry.name)
    return found
