"""The ways to bring a base to another host, and one measured run of each."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from attrs import frozen

from bench.guests import allocated_bytes
from bench.meter import Meter
from bench.results import Kind, Run, Where
from bench.sameness import expect_same
from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.shell import Shell
from fsm.hypervisor.values import PoolState
from fsm.images.base_copy import copy_file
from fsm.images.nbd_copy import NbdRoute, copy_by_nbd
from fsm.images.pieces import data_pieces
from fsm.images.transfer import whole_file
from fsm.lab import IMAGES, Lab, LabError, LabHost
from fsm.lab.process import clean_environment, run, wait_until

NBD_PORT = 10809
TIMEOUT_S = 900.0


@frozen
class Base:
    """A file of the source, to be copied to the same path at the destination."""

    lab: Lab
    path: str

    @property
    def source(self) -> LabHost:
        """Where it is."""
        return self.lab.hosts[0]

    @property
    def destination(self) -> LabHost:
        """Where it is to go."""
        return self.lab.hosts[1]

    @property
    def size_bytes(self) -> int:
        """Its length, holes included."""
        return self.source.path(self.path).stat().st_size

    def make_empty_copy(self) -> None:
        """At the destination: one hole of its size."""
        with self.destination.path(self.path).open("wb") as file:
            file.truncate(self.size_bytes)


@frozen
class Copy:
    """One way. ``around`` is what must stand before the clock starts; ``needs`` a command it takes."""

    name: str
    moves: str
    act: Callable[[Base], None]
    around: Callable[[Base], AbstractContextManager[None]]
    needs: str = "cp"
    copies_file: bool = False

    def missing(self) -> str:
        """Why it can't take part; empty if it can."""
        return (
            ""
            if shutil.which(self.needs, path=clean_environment()["PATH"])
            else f"{self.needs} is not installed"
        )


@contextmanager
def _export(base: Base) -> Iterator[None]:
    """The base as raw bytes, read-only, by NBD from the source; an empty file of its size to take it."""
    base.make_empty_copy()
    export = ["--read-only", "--persistent", "--shared=8", "--format=raw", "--bind", base.source.address]
    command = [*base.source.enter, "qemu-nbd", *export, "--port", str(NBD_PORT), base.path]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: _answers(base), timeout=20, what="qemu-nbd at the source")
            yield
        finally:
            server.kill()


def _answers(base: Base) -> bool:
    try:
        run(["qemu-img", "info", _nbd(base)])
    except LabError:
        return False
    return True


def _nbd(base: Base) -> str:
    return f"nbd://{base.source.address}:{NBD_PORT}"


def _streams(base: Base) -> None:
    asyncio.run(_by_streams(base))


async def _by_streams(base: Base) -> None:
    connector = LibvirtConnector()
    uris = (base.source.uri, base.destination.uri)
    hosts = [await connector.connect(uri) for uri in uris]
    try:
        await hosts[1].storage.create_sparse(base.path, base.size_bytes)
        await copy_file(connector, *uris, base.path, whole_file(base.size_bytes))
    finally:
        for host in hosts:
            await host.storage.release(IMAGES, PoolState.NONE)
            await host.close()


def _nbd_transport(base: Base) -> None:
    shells = [Shell(host.uri, host.enter) for host in base.lab.hosts]
    route = NbdRoute(shells[0], shells[1], base.source.address)

    async def copy() -> None:
        pieces = await data_pieces(route.source, base.path)
        await copy_by_nbd(route, base.path, base.size_bytes, pieces, over_zeros=True)

    base.make_empty_copy()
    asyncio.run(copy())


def _qemu_img(base: Base) -> None:
    words = ["-n", "--target-is-zero", "-W", "-m", "8", "-f", "raw", "-O", "raw", _nbd(base), base.path]
    base.destination.run(["qemu-img", "convert", *words], timeout=TIMEOUT_S)


def _nbdcopy(base: Base) -> None:
    base.destination.run(["nbdcopy", "--destination-is-zero", _nbd(base), base.path], timeout=TIMEOUT_S)


def _nbdcopy_flushed(base: Base) -> None:
    words = ["--destination-is-zero", "--flush", _nbd(base), base.path]
    base.destination.run(["nbdcopy", *words], timeout=TIMEOUT_S)


def _cp(base: Base) -> None:
    files = [str(host.path(base.path)) for host in base.lab.hosts]
    run(["cp", "--sparse=always", "--reflink=never", "--", *files], timeout=TIMEOUT_S)


STREAMS = "fsm streams"
NBD = "fsm nbd"
QEMU_IMG = "qemu-img over NBD"
NBDCOPY = "nbdcopy"
NBDCOPY_FLUSHED = "nbdcopy --flush"
CP = "cp"
COPIES = (
    Copy(
        STREAMS,
        "libvirt's storage streams, host to host through this process; connecting and making the file are"
        " included",
        _streams,
        lambda _: nullcontext(),
    ),
    Copy(
        NBD,
        "qemu-nbd and qemu-img started by this process on both hosts; their start is included, and that the"
        " bytes are written to the disk",
        _nbd_transport,
        lambda _: nullcontext(),
    ),
    Copy(
        QEMU_IMG,
        "qemu-nbd at the source, qemu-img convert -n at the destination, raw bytes; the server's start is not"
        " counted",
        _qemu_img,
        _export,
        needs="qemu-nbd",
    ),
    Copy(NBDCOPY, "qemu-nbd at the source, nbdcopy at the destination", _nbdcopy, _export, needs="nbdcopy"),
    Copy(
        NBDCOPY_FLUSHED,
        "the same, and that the bytes are written to the disk",
        _nbdcopy_flushed,
        _export,
        needs="nbdcopy",
    ),
    Copy(
        CP, "cp --sparse=always on this machine, no network", _cp, lambda _: nullcontext(), copies_file=True
    ),
)


def measure(copy: Copy, base: Base, where: Where) -> Run:
    """One copy of the base. Raises ``LabError`` when a byte of it differs."""
    original, copied = (host.path(base.path) for host in base.lab.hosts)
    source_bytes = allocated_bytes(base.source, base.path)
    try:
        os.sync()
        load_average = os.getloadavg()[0]
        with copy.around(base), Meter(base.lab, own_cpu=True) as meter:
            copy.act(base)
        expect_same(original, copied)
        return Run(
            contender=copy.name,
            kind=Kind.BASE_COPY,
            where=where,
            seconds=meter.seconds,
            command_cpu_s=meter.command_cpu_s,
            hosts_cpu_s=meter.hosts_cpu_s,
            sent_bytes=meter.sent_bytes,
            copied_bytes=source_bytes if copy.copies_file else 0,
            source_image_bytes=source_bytes,
            destination_image_bytes=allocated_bytes(base.destination, base.path),
            load_average=load_average,
        )
    finally:
        copied.unlink(missing_ok=True)
