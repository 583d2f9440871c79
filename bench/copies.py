"""The ways to bring a base to another host, and one measured run of each."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from attrs import frozen

from bench.guests import Scene, allocated_bytes
from bench.meter import Meter
from bench.results import Kind, Run
from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.shell import Shell
from fsm.hypervisor.values import PoolState
from fsm.images.base_copy import copy_file
from fsm.images.nbd_copy import NbdRoute, copy_by_nbd, data_pieces
from fsm.images.transfer import whole_file
from fsm.lab import IMAGES, LabError
from fsm.lab.process import clean_environment, run, wait_until

BASE = f"{IMAGES}/bench-base.qcow2"
NBD_PORT = 10809
TIMEOUT_S = 900.0


@frozen
class Copy:
    """One way. ``around`` is what must stand before the clock starts; ``needs`` a command it takes."""

    name: str
    moves: str
    act: Callable[[Scene], None]
    around: Callable[[Scene], AbstractContextManager[None]]
    needs: str = "cp"
    copies_file: bool = False

    def missing(self) -> str:
        """Why it can't take part; empty if it can."""
        return (
            ""
            if shutil.which(self.needs, path=clean_environment()["PATH"])
            else f"{self.needs} is not installed"
        )


def make_base(scene: Scene) -> None:
    """Keep the image of a guest that is not running any more: with data, snapshots and saved memory."""
    try:
        scene.make()
        scene.source.virsh("destroy", scene.spec.name)
        run(
            [
                "cp",
                "--sparse=always",
                "--reflink=never",
                *(str(scene.source.path(one)) for one in (scene.image, BASE)),
            ]
        )
    finally:
        scene.discard()


@contextmanager
def _export(scene: Scene) -> Iterator[None]:
    """The base as raw bytes, read-only, by NBD from the source; an empty file of its size to take it."""
    target = scene.destination.path(BASE)
    with target.open("wb") as file:
        file.truncate(scene.source.path(BASE).stat().st_size)
    export = ["--read-only", "--persistent", "--shared=8", "--format=raw", "--bind", scene.source.address]
    command = [*scene.source.enter, "qemu-nbd", *export, "--port", str(NBD_PORT), BASE]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: _answers(scene), timeout=20, what="qemu-nbd at the source")
            yield
        finally:
            server.kill()


def _answers(scene: Scene) -> bool:
    try:
        run(["qemu-img", "info", _nbd(scene)])
    except LabError:
        return False
    return True


def _nbd(scene: Scene) -> str:
    return f"nbd://{scene.source.address}:{NBD_PORT}"


def _streams(scene: Scene) -> None:
    asyncio.run(_by_streams(scene))


async def _by_streams(scene: Scene) -> None:
    connector = LibvirtConnector()
    uris = (scene.source.uri, scene.destination.uri)
    size = scene.source.path(BASE).stat().st_size
    hosts = [await connector.connect(uri) for uri in uris]
    try:
        await hosts[1].storage.create_sparse(BASE, size)
        await copy_file(connector, *uris, BASE, whole_file(size))
    finally:
        for host in hosts:
            await host.storage.release(IMAGES, PoolState.NONE)
            await host.close()


def _nbd_transport(scene: Scene) -> None:
    source, destination = scene.lab.hosts
    shells = [Shell(host.uri, host.enter) for host in scene.lab.hosts]
    route = NbdRoute(shells[0], shells[1], source.address)
    size_bytes = source.path(BASE).stat().st_size

    async def copy() -> None:
        pieces = await data_pieces(route.source, BASE)
        await copy_by_nbd(route, BASE, size_bytes, pieces, over_zeros=True)

    with destination.path(BASE).open("wb") as file:
        file.truncate(size_bytes)
    asyncio.run(copy())


def _qemu_img(scene: Scene) -> None:
    words = ["-n", "--target-is-zero", "-W", "-m", "8", "-f", "raw", "-O", "raw", _nbd(scene), BASE]
    scene.destination.run(["qemu-img", "convert", *words], timeout=TIMEOUT_S)


def _nbdcopy(scene: Scene) -> None:
    scene.destination.run(["nbdcopy", "--destination-is-zero", _nbd(scene), BASE], timeout=TIMEOUT_S)


def _cp(scene: Scene) -> None:
    files = [str(host.path(BASE)) for host in scene.lab.hosts]
    run(["cp", "--sparse=always", "--reflink=never", "--", *files], timeout=TIMEOUT_S)


REFERENCE = "qemu-img over NBD"
COPIES = (
    Copy(
        "fsm streams",
        "libvirt's storage streams, host to host through this process; connecting and making the file are"
        " included",
        _streams,
        lambda _: nullcontext(),
    ),
    Copy(
        "fsm nbd",
        "qemu-nbd and qemu-img started by this process on both hosts; their start is included, and that the"
        " bytes are written to the disk",
        _nbd_transport,
        lambda _: nullcontext(),
    ),
    Copy(
        REFERENCE,
        "qemu-nbd at the source, qemu-img convert -n at the destination, raw bytes; the server's start is not"
        " counted",
        _qemu_img,
        _export,
        needs="qemu-nbd",
    ),
    Copy("nbdcopy", "qemu-nbd at the source, nbdcopy at the destination", _nbdcopy, _export, needs="nbdcopy"),
    Copy(
        "cp", "cp --sparse=always on this machine, no network", _cp, lambda _: nullcontext(), copies_file=True
    ),
)


def measure(copy: Copy, scene: Scene, *, round_number: int, place: int) -> Run:
    """One copy of the base. Raises ``LabError`` when a byte of it differs."""
    original, copied = (host.path(BASE) for host in scene.lab.hosts)
    source_bytes = allocated_bytes(scene.source, BASE)
    try:
        os.sync()
        load_average = os.getloadavg()[0]
        with copy.around(scene), Meter(scene.lab, own_cpu=True) as meter:
            copy.act(scene)
        run(["cmp", "--", str(original), str(copied)], timeout=TIMEOUT_S)
        return Run(
            contender=copy.name,
            kind=Kind.BASE_COPY,
            round=round_number,
            place=place,
            seconds=meter.seconds,
            command_cpu_s=meter.command_cpu_s,
            hosts_cpu_s=meter.hosts_cpu_s,
            sent_bytes=meter.sent_bytes,
            copied_bytes=source_bytes if copy.copies_file else 0,
            source_image_bytes=source_bytes,
            destination_image_bytes=allocated_bytes(scene.destination, BASE),
            load_average=load_average,
        )
    finally:
        copied.unlink(missing_ok=True)
