"""Bulk data over the storage streams of a real libvirtd."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import pytest

from fsm.errors import HostError, NotFound
from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import PoolState
from fsm.lab import LabHost
from tests.lab_rig import NEEDS_LAB
from tests.libvirt_helpers import Received, digest

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.libvirt_fixtures"]

MIB = 1 << 20
ROOT = "/var/lib/libvirt"


def patches(seed: int, size: int) -> list[tuple[int, bytes]]:
    """Runs of data with holes between them, in whole blocks so that the file system keeps the holes."""
    chance = random.Random(seed)  # noqa: S311
    found, position = [], 0
    while True:
        position += 4096 * chance.choice((1, 2, 16, 64, 300))
        data = chance.randbytes(4096 * chance.choice((1, 3, 16, 64, 65, 200)))
        if position + len(data) > size:
            return found
        found.append((position, data))
        position += len(data)


def sparse_file(path: Path, size: int, seed: int = 1) -> None:
    with path.open("wb") as file:
        for offset, data in patches(seed, size):
            file.seek(offset)
            file.write(data)
        file.truncate(size)


class Forward:
    """A sink that writes into another file."""

    def __init__(self, connector: LibvirtConnector, uri: str, path: str) -> None:
        self.channel = connector.open_channel(uri)
        self.writer = self.channel.writer(path)

    def data(self, offset: int, chunk: bytes) -> None:
        self.writer.data(offset, chunk)

    def hole(self, offset: int, length: int) -> None:
        self.writer.hole(offset, length)


def copy_range(uri: str, paths: tuple[str, str], offset: int, length: int, errors: list[Exception]) -> None:
    connector = LibvirtConnector()
    try:
        sink = Forward(connector, uri, paths[1])
        source = connector.open_channel(uri)
        source.read(paths[0], offset, length, sink)
        sink.writer.close()
        sink.channel.close()
        source.close()
    except Exception as error:  # noqa: BLE001 - raised in the test's own thread
        errors.append(error)


@pytest.mark.parametrize("size", [16 * MIB, 16 * MIB + 12_345])
async def test_parallel_ranges_make_an_equal_and_equally_sparse_file(
    alpha: LabHost, host: Host, box: str, size: int
) -> None:
    sparse_file(alpha.path(f"{box}/from"), size)
    await host.storage.stat(f"{box}/from")
    await host.storage.create_sparse(f"{box}/to", size)
    step = 1_000_000  # ranges that begin and end inside runs and holes
    errors: list[Exception] = []
    threads = [
        threading.Thread(
            target=copy_range, args=(host.uri, (f"{box}/from", f"{box}/to"), offset, step, errors)
        )
        for offset in range(0, size, step)
    ]
    for group in range(0, len(threads), 4):
        for thread in threads[group : group + 4]:
            thread.start()
        for thread in threads[group : group + 4]:
            await asyncio.to_thread(thread.join)
    assert errors == []
    source, copy = alpha.path(f"{box}/from"), alpha.path(f"{box}/to")
    assert digest(copy) == digest(source)
    assert copy.stat().st_blocks <= source.stat().st_blocks + 8 * len(threads)
    assert copy.stat().st_blocks < size // 512 * 3 / 4
    await host.storage.release(box, PoolState.NONE)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (4095, 2), (0, 2 * MIB), (5000, MIB), (2 * MIB - 5, 100), (2 * MIB, 5), (3 * MIB, 5), (7, 0)],
)
async def test_ranges(alpha: LabHost, host: Host, box: str, offset: int, length: int) -> None:
    sparse_file(alpha.path(f"{box}/from"), 2 * MIB)
    await host.storage.stat(f"{box}/from")
    received = Received(start=offset)
    channel = LibvirtConnector().open_channel(host.uri)
    channel.read(f"{box}/from", offset, length, received)
    channel.close()
    assert received.content == alpha.path(f"{box}/from").read_bytes()[offset : offset + length]
    await host.storage.release(box, PoolState.NONE)


async def test_a_file_of_one_hole(alpha: LabHost, host: Host, box: str) -> None:
    await host.storage.create_sparse(f"{box}/from", 300 * MIB)
    received = Received()
    channel = LibvirtConnector().open_channel(host.uri)
    channel.read(f"{box}/from", MIB, 200 * MIB, Received(start=MIB, content=bytearray()))
    channel.read(f"{box}/from", 0, 10, received)
    channel.close()
    assert received.holes == [(0, 10)]
    await host.storage.release(box, PoolState.NONE)


async def test_missing_files(host: Host, box: str) -> None:
    channel = LibvirtConnector().open_channel(host.uri)
    with pytest.raises(NotFound, match="there is no file"):
        channel.read(f"{box}/none", 0, 1, Received())
    with pytest.raises(NotFound, match="there is no file"):
        channel.writer(f"{box}/none")
    channel.close()
    await host.storage.release(box, PoolState.NONE)


async def test_a_sink_may_stop_the_transfer(alpha: LabHost, host: Host, box: str) -> None:
    alpha.path(f"{box}/from").write_bytes(b"x" * 8 * MIB)

    class Stop(Received):
        def data(self, offset: int, chunk: bytes) -> None:
            if offset > MIB:
                raise ZeroDivisionError

    channel = LibvirtConnector().open_channel(host.uri)
    with pytest.raises(ZeroDivisionError):
        channel.read(f"{box}/from", 0, 8 * MIB, Stop())
    received = Received()
    channel.read(f"{box}/from", 0, 8 * MIB, received)  # the channel is as good as before
    assert received.content == b"x" * 8 * MIB
    channel.close()
    await host.storage.release(box, PoolState.NONE)


async def test_a_closed_channel(alpha: LabHost, host: Host, box: str) -> None:
    alpha.path(f"{box}/from").write_bytes(b"x" * 64 * MIB)
    channel = LibvirtConnector().open_channel(host.uri)
    begun = threading.Event()

    class Slow(Received):
        def data(self, offset: int, chunk: bytes) -> None:
            begun.set()

    errors: list[Exception] = []

    def read() -> None:
        try:
            for _ in range(100):
                channel.read(f"{box}/from", 0, 64 * MIB, Slow())
        except HostError as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    await asyncio.to_thread(begun.wait, 10)
    channel.close()
    channel.close()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [HostError]
    await host.storage.release(box, PoolState.NONE)


async def test_a_full_file_system(alpha: LabHost, host: Host) -> None:
    alpha.mount_small("/var/lib/libvirt/small", 16)
    await host.storage.create_sparse("/var/lib/libvirt/small/a", 64 * MIB)
    assert await host.storage.free_bytes("/var/lib/libvirt/small") < 16 * MIB
    channel = LibvirtConnector().open_channel(host.uri)
    writer = channel.writer("/var/lib/libvirt/small/a")

    def fill() -> None:
        for offset in range(0, 64 * MIB, 262_120):
            writer.data(offset, b"x" * 262_120)
        writer.close()

    with pytest.raises(HostError, match="No space left on device"):
        fill()
    writer.abandon()
    writer.abandon()
    channel.close()
    await host.storage.remove("/var/lib/libvirt/small/a")
    await host.storage.release("/var/lib/libvirt/small", PoolState.NONE)


async def test_large_chunks_and_jumps(alpha: LabHost, host: Host, box: str) -> None:
    await host.storage.create_sparse(f"{box}/a", 4 * MIB)
    channel = LibvirtConnector().open_channel(host.uri)
    writer = channel.writer(f"{box}/a")
    writer.data(10, b"a" * MIB)
    writer.data(10 + MIB, b"b" * 10)
    writer.data(3 * MIB, b"c" * 100)  # a jump without a hole told
    writer.close()
    writer.close()
    channel.close()
    expected = bytes(10) + b"a" * MIB + b"b" * 10
    expected += bytes(3 * MIB - len(expected)) + b"c" * 100
    expected += bytes(4 * MIB - len(expected))
    assert alpha.path(f"{box}/a").read_bytes() == expected
    await host.storage.release(box, PoolState.NONE)


async def test_a_transfer_survives_the_release_of_its_pool(alpha: LabHost, host: Host, box: str) -> None:
    """Another engine may be done with the directory while this one is not."""
    await host.storage.create_sparse(f"{box}/a", 4 * MIB)
    channel = LibvirtConnector().open_channel(host.uri)
    writer = channel.writer(f"{box}/a")
    writer.data(0, b"a" * 4096)
    await host.storage.release(box, PoolState.NONE)
    writer.data(4096, b"b" * 4096)
    writer.hole(8192, 4096)
    writer.data(12288, b"c" * 4096)
    writer.close()
    channel.close()
    content = alpha.path(f"{box}/a").read_bytes()[:16384]
    assert content == b"a" * 4096 + b"b" * 4096 + bytes(4096) + b"c" * 4096
    await host.storage.release(box, PoolState.NONE)
