"""Files of a host, its storage pools, and bulk data."""

from __future__ import annotations

import asyncio
import os

import pytest

from fsm.errors import HostError, NotFound
from fsm.hypervisor.port import DataChannel
from fsm.hypervisor.values import Overlay, PoolState
from tests.contract.contract_rig import KIB, MIB, Received, Rig, stat_of

ODD = 'it\'s <a> & "b" é.raw'
SPARSE = {0: b"head" * KIB, 3 * MIB: b"\xa5" * (64 * KIB), 7 * MIB + 512: b"tail" * KIB}
SPARSE_BYTES = 8 * MIB + 4608


async def test_a_file_that_is_not_there(rig: Rig) -> None:
    storage = (await rig.host(rig.source)).storage
    assert await storage.stat(f"{rig.images}/none") is None
    with pytest.raises(NotFound):
        await storage.stat(f"{rig.images}/no directory/none")
    with pytest.raises(NotFound):
        await storage.free_bytes(f"{rig.images}/no directory")
    with pytest.raises(NotFound):
        await storage.create_sparse(f"{rig.images}/no directory/none", MIB)
    with pytest.raises(NotFound):
        await storage.make_durable(f"{rig.images}/none")


@pytest.mark.parametrize("size_bytes", [0, 1, 511, 4 * MIB + 4608, 5 * MIB + 1])
async def test_a_files_length_is_told_to_the_byte(rig: Rig, size_bytes: int) -> None:
    rig.put_file(rig.source, f"{rig.images}/{ODD}", {}, size_bytes)
    facts = await stat_of(await rig.host(rig.source), f"{rig.images}/{ODD}")
    assert (facts.size_bytes, facts.format, facts.backing) == (size_bytes, "raw", None)
    assert facts.allocated_bytes == 0


async def test_a_piece_of_a_file_is_read(rig: Rig) -> None:
    path = f"{rig.images}/{ODD}"
    rig.put_file(rig.source, path, SPARSE, SPARSE_BYTES)
    whole = rig.file_bytes(rig.source, path)
    storage = (await rig.host(rig.source)).storage
    for offset, length in ((0, 104), (4 * KIB - 2, 4), (3 * MIB - 5, 300 * KIB), (SPARSE_BYTES - 3, KIB)):
        assert await storage.peek(path, offset, length) == whole[offset : offset + length]
    assert await storage.peek(path, SPARSE_BYTES + 5, KIB) == b""
    assert await storage.peek(path, 0, 0) == b""
    with pytest.raises(NotFound):
        await storage.peek(f"{rig.images}/none", 0, 4)
    with pytest.raises(NotFound):
        await storage.peek(f"{rig.images}/no directory/none", 0, 4)


async def test_a_qcow2_file_tells_its_capacity_and_what_lies_below(rig: Rig) -> None:
    rig.domain("web", running=False)
    base = f"{rig.images}/web-vda.qcow2"
    host = await rig.host(rig.source)
    facts = await stat_of(host, base)
    assert (facts.path, facts.capacity_bytes, facts.format, facts.backing) == (base, 16 * MIB, "qcow2", None)
    assert facts.size_bytes == len(rig.file_bytes(rig.source, base))
    overlay = Overlay("vda", f"{rig.images}/o'v &.qcow2", base, "qcow2")
    await host.storage.create_overlay(overlay, facts.capacity_bytes)
    above = await stat_of(host, overlay.path)
    assert (above.capacity_bytes, above.format, above.backing) == (16 * MIB, "qcow2", base)


async def test_new_files_are_all_hole_and_never_take_the_place_of_others(rig: Rig) -> None:
    storage = (await rig.host(rig.source)).storage
    path = f"{rig.images}/{ODD}"
    await storage.create_sparse(path, 3 * MIB + 77)
    facts = await storage.stat(path)
    assert facts is not None
    assert (facts.size_bytes, facts.allocated_bytes) == (3 * MIB + 77, 0)
    assert rig.file_bytes(rig.source, path) == bytes(3 * MIB + 77)
    with pytest.raises(HostError):
        await storage.create_sparse(path, MIB)
    rig.put_file(rig.source, f"{rig.images}/theirs", {0: b"theirs"}, 6)
    with pytest.raises(HostError):
        await storage.create_sparse(f"{rig.images}/theirs", MIB)
    assert rig.file_bytes(rig.source, f"{rig.images}/theirs") == b"theirs"


async def test_an_overlay_takes_no_other_files_place_and_needs_its_base(rig: Rig) -> None:
    rig.domain("web", running=False)
    storage = (await rig.host(rig.source)).storage
    base = f"{rig.images}/web-vda.qcow2"
    rig.put_file(rig.source, f"{rig.images}/theirs", {0: b"theirs"}, 6)
    with pytest.raises(HostError):
        await storage.create_overlay(Overlay("vda", f"{rig.images}/theirs", base, "qcow2"), 16 * MIB)
    assert rig.file_bytes(rig.source, f"{rig.images}/theirs") == b"theirs"
    lost = Overlay("vda", f"{rig.images}/new", f"{rig.images}/none", "qcow2")
    with pytest.raises(HostError):
        await storage.create_overlay(lost, 16 * MIB)
    assert not rig.exists(rig.source, lost.path)


async def test_removing_what_is_gone_is_no_error(rig: Rig) -> None:
    storage = (await rig.host(rig.source)).storage
    path = f"{rig.images}/{ODD}"
    rig.put_file(rig.source, path, {0: b"x"}, 1)
    await storage.remove(path)
    assert not rig.exists(rig.source, path)
    await storage.remove(path)
    await storage.remove(f"{rig.images}/no directory/none")


async def test_making_durable_changes_no_byte(rig: Rig) -> None:
    rig.domain("web", snapshots={"s1": None}, running=False)
    host = await rig.host(rig.source)
    path = f"{rig.images}/web-vda.qcow2"
    before = rig.file_bytes(rig.source, path)
    assert await host.storage.make_durable(path)
    assert rig.file_bytes(rig.source, path) == before
    rig.put_file(rig.source, f"{rig.images}/{ODD}", SPARSE, SPARSE_BYTES)
    await host.storage.make_durable(f"{rig.images}/{ODD}")
    assert rig.file_bytes(rig.source, f"{rig.images}/{ODD}") == whole(SPARSE, SPARSE_BYTES)


async def test_free_space_shrinks_by_what_is_written(rig: Rig) -> None:
    """On a file system of its own: others write to, and remove from, that of the images."""
    small = rig.small_directory(rig.source, 64)
    storage = (await rig.host(rig.source)).storage
    before = await storage.free_bytes(small)
    rig.put_file(rig.source, f"{small}/big", {0: os.urandom(32 * MIB)}, 32 * MIB)
    assert 32 * MIB <= before - await storage.free_bytes(small) < 33 * MIB
    await storage.release(small, await storage.pool_state(small))


@pytest.mark.parametrize(
    ("theirs", "was"), [(None, PoolState.NONE), (True, PoolState.ACTIVE), (False, PoolState.INACTIVE)]
)
async def test_pools_are_put_back_as_they_were(rig: Rig, theirs: bool | None, was: PoolState) -> None:  # noqa: FBT001
    directory = f"{rig.images}/a 'b' & <c>"
    rig.make_directory(rig.source, directory)
    if theirs is not None:
        rig.add_pool(rig.source, directory, active=theirs)
    before = rig.pools(rig.source)
    storage = (await rig.host(rig.source)).storage
    assert await storage.pool_state(directory) is was
    assert rig.pools(rig.source) == before, "asking changes nothing"
    await storage.create_sparse(f"{directory}/x", MIB)
    assert rig.pools(rig.source) == {directory: True}
    await storage.remove(f"{directory}/x")
    await storage.release(directory, was)
    assert rig.pools(rig.source) == before
    await storage.release(directory, was)
    assert rig.pools(rig.source) == before
    assert await storage.pool_state(directory) is was


@pytest.mark.parametrize("active", [True, False], ids=["active", "inactive"])
async def test_a_pool_is_known_by_its_name(rig: Rig, active: bool) -> None:  # noqa: FBT001
    directory = f"{rig.images}/theirs"
    rig.make_directory(rig.source, directory)
    storage = (await rig.host(rig.source)).storage
    with pytest.raises(NotFound, match="theirs"):
        await storage.pool_directory("theirs")
    rig.add_pool(rig.source, directory, active=active)
    assert await storage.pool_directory("theirs") == directory
    assert rig.pools(rig.source) == {directory: active}


async def test_a_pool_of_ours_does_not_count(rig: Rig) -> None:
    storage = (await rig.host(rig.source)).storage
    await storage.stat(f"{rig.images}/none")
    assert await storage.pool_state(rig.images) is PoolState.NONE
    await storage.release(rig.images, PoolState.NONE)
    assert rig.pools(rig.source) == {}


async def test_reading_tells_data_and_holes(rig: Rig) -> None:
    path = f"{rig.images}/{ODD}"
    rig.put_file(rig.source, path, SPARSE, SPARSE_BYTES)
    got = await read(rig, path, 0, SPARSE_BYTES)
    assert got.content() == whole(SPARSE, SPARSE_BYTES)
    assert got.data_bytes <= 256 * KIB, "holes come as holes"
    assert got.end == SPARSE_BYTES


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 4096),
        (100, 5000),
        (3 * MIB - 10, 64 * KIB + 20),
        (7 * MIB, 9 * MIB),
        (MIB, MIB),
        (SPARSE_BYTES, 10),
    ],
)
async def test_reading_a_range_ends_with_the_file(rig: Rig, offset: int, length: int) -> None:
    path = f"{rig.images}/{ODD}"
    rig.put_file(rig.source, path, SPARSE, SPARSE_BYTES)
    got = await read(rig, path, offset, length)
    wanted = whole(SPARSE, SPARSE_BYTES)[offset : offset + length]
    assert (got.content(offset) if got.end else b"") == wanted


async def test_a_sinks_error_stops_the_transfer(rig: Rig) -> None:
    class Full(Exception):
        pass

    class Refusing(Received):
        def data(self, offset: int, chunk: bytes) -> None:
            raise Full

    path = f"{rig.images}/{ODD}"
    rig.put_file(rig.source, path, SPARSE, SPARSE_BYTES)
    with open_channel(rig, rig.source) as channel:
        with pytest.raises(Full):
            await asyncio.to_thread(channel.read, path, 0, SPARSE_BYTES, Refusing())
        got = Received()
        await asyncio.to_thread(channel.read, path, 0, 4096, got)
        assert got.content() == whole(SPARSE, SPARSE_BYTES)[:4096]


async def test_writing_keeps_holes_and_the_files_length(rig: Rig) -> None:
    host = await rig.host(rig.source)
    path = f"{rig.images}/{ODD}"
    await host.storage.create_sparse(path, SPARSE_BYTES)

    def write() -> None:
        with open_channel(rig, rig.source) as channel:
            writer = channel.writer(path)
            at = 0
            for offset, chunk in SPARSE.items():
                writer.hole(at, offset - at)
                writer.data(offset, chunk)
                at = offset + len(chunk)
            writer.hole(at, SPARSE_BYTES - at)
            writer.close()

    await asyncio.to_thread(write)
    assert rig.file_bytes(rig.source, path) == whole(SPARSE, SPARSE_BYTES)
    facts = await stat_of(host, path)
    assert facts.size_bytes == SPARSE_BYTES
    assert facts.allocated_bytes <= 256 * KIB


async def test_writers_far_apart_do_not_cut_each_other_off(rig: Rig) -> None:
    host = await rig.host(rig.source)
    path = f"{rig.images}/{ODD}"
    size = 64 * MIB
    await host.storage.create_sparse(path, size)

    def write(number: int) -> None:
        with open_channel(rig, rig.source) as channel:
            writer = channel.writer(path)
            for step in range(4):
                offset = number * 16 * MIB + step * 2 * MIB
                writer.data(offset, bytes([number + 1]) * MIB)
                writer.hole(offset + MIB, MIB)
            writer.close()

    await asyncio.gather(*(asyncio.to_thread(write, number) for number in range(4)))
    content = rig.file_bytes(rig.source, path)
    assert len(content) == size
    for number in range(4):
        for step in range(4):
            offset = number * 16 * MIB + step * 2 * MIB
            assert content[offset : offset + MIB] == bytes([number + 1]) * MIB
            assert content[offset + MIB : offset + 2 * MIB] == bytes(MIB)


async def test_transfers_of_files_that_are_not_there(rig: Rig) -> None:
    with open_channel(rig, rig.source) as channel:
        with pytest.raises(NotFound):
            await asyncio.to_thread(channel.read, f"{rig.images}/none", 0, 1, Received())
        with pytest.raises(NotFound):
            await asyncio.to_thread(channel.writer, f"{rig.images}/none")


async def test_a_closed_channel_transfers_nothing(rig: Rig) -> None:
    path = f"{rig.images}/{ODD}"
    rig.put_file(rig.source, path, SPARSE, SPARSE_BYTES)
    channel = rig.connector.open_channel(rig.source)
    channel.close()
    channel.close()
    with pytest.raises(HostError):
        channel.read(path, 0, 10, Received())


async def test_an_abandoned_writer_raises_nothing(rig: Rig) -> None:
    host = await rig.host(rig.source)
    path = f"{rig.images}/{ODD}"
    await host.storage.create_sparse(path, MIB)

    def write() -> None:
        with open_channel(rig, rig.source) as channel:
            writer = channel.writer(path)
            writer.data(0, b"x" * 4096)
            writer.abandon()
            writer.abandon()

    await asyncio.to_thread(write)
    assert (await stat_of(host, path)).size_bytes == MIB


class open_channel:  # noqa: N801 - a context manager
    """A channel that is closed at the end."""

    def __init__(self, rig: Rig, uri: str) -> None:
        self._channel = rig.connector.open_channel(uri)

    def __enter__(self) -> DataChannel:
        return self._channel

    def __exit__(self, *_: object) -> None:
        self._channel.close()


async def read(rig: Rig, path: str, offset: int, length: int) -> Received:
    """Read a range of a file at the source."""
    got = Received()
    with open_channel(rig, rig.source) as channel:
        await asyncio.to_thread(channel.read, path, offset, length, got)
    return got


def whole(data: dict[int, bytes], size_bytes: int) -> bytes:
    """A sparse file's content."""
    content = bytearray(size_bytes)
    for offset, chunk in data.items():
        content[offset : offset + len(chunk)] = chunk
    return bytes(content)
