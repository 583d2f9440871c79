"""Copying a base: whole, sparse, within its bandwidth, and without a thread left behind."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from fsm.errors import BadInput, HostError, HostUnreachable
from fsm.images import transfer, workers
from fsm.images.base_copy import CopyResult, Throttle, copy_file
from fsm.images.transfer import CHUNK_BYTES, whole_file
from tests.test_images_memory import (
    DESTINATION,
    MIB,
    PAGE,
    PATH,
    SOURCE,
    MemoryChannel,
    MemoryConnector,
    MemoryFile,
    pair,
)

pytestmark = pytest.mark.usefixtures("no_thread_stays")

LARGE_BYTES = 5 * CHUNK_BYTES + 12345


async def copy(connector: MemoryConnector, **options: object) -> CopyResult:
    size_bytes = connector.one.files[PATH].size
    return await copy_file(connector, SOURCE, DESTINATION, PATH, whole_file(size_bytes), **options)


def assert_let_go(connector: MemoryConnector) -> None:
    assert connector.one.open_channels == connector.two.open_channels == 0


@pytest.mark.parametrize("size_bytes", [0, 1, PAGE - 1, CHUNK_BYTES, CHUNK_BYTES + 1, LARGE_BYTES])
@pytest.mark.parametrize("share", [0.0, 0.1])
async def test_every_byte_arrives_and_holes_stay_holes(size_bytes: int, share: float) -> None:
    connector = pair(MemoryFile.random(size_bytes, share))
    result = await copy(connector)
    original, copied = connector.one.files[PATH], connector.two.files[PATH]
    assert copied.pages.keys() == original.pages.keys()
    assert copied.content() == original.content()
    assert result.data_bytes + result.hole_bytes == size_bytes
    assert result.data_bytes == connector.one.read_bytes
    assert_let_go(connector)


@pytest.mark.parametrize(
    ("size_bytes", "connections", "expected"),
    [
        (0, 4, 0),
        (1, 4, 1),
        (CHUNK_BYTES, 4, 1),
        (CHUNK_BYTES + 1, 4, 2),
        (LARGE_BYTES, 4, 4),
        (LARGE_BYTES, 1, 1),
    ],
)
async def test_small_files_take_fewer_connections(size_bytes: int, connections: int, expected: int) -> None:
    connector = pair(MemoryFile(size_bytes))
    result = await copy(connector, connections=connections)
    assert result.connections == connector.one.opened == connector.two.opened == expected


async def test_workers_read_at_the_same_time() -> None:
    connector = pair(MemoryFile(LARGE_BYTES))
    together = threading.Barrier(4, timeout=10)  # broken, and the copy with it, unless four threads come

    def meet(call: str, offset: int) -> None:
        if offset < 4 * CHUNK_BYTES:
            together.wait()

    connector.one.on_packet = meet
    await copy(connector)


async def test_progress_is_told_on_the_loop_and_ends_at_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TICK_S", 0.01)
    connector = pair(MemoryFile.random(LARGE_BYTES))
    connector.one.on_packet = lambda *_: time.sleep(0.0005)
    told: list[tuple[int, int]] = []
    threads = set()

    def progress(data_bytes: int, hole_bytes: int) -> None:
        told.append((data_bytes, hole_bytes))
        threads.add(threading.current_thread())

    result = await copy(connector, progress=progress)
    assert threads == {threading.main_thread()}
    assert told == sorted(set(told))
    assert told[-1] == (result.data_bytes, result.hole_bytes)
    assert len(told) > 2


async def test_a_callback_that_raises_ends_the_copy() -> None:
    def progress(data_bytes: int, hole_bytes: int) -> None:
        raise ValueError("full")

    connector = pair(MemoryFile.random(LARGE_BYTES))
    with pytest.raises(ValueError, match="full"):
        await copy(connector, progress=progress)
    assert_let_go(connector)


@pytest.mark.parametrize(
    ("side", "call"), [("one", "read"), ("two", "write"), ("two", "hole"), ("two", "close")]
)
async def test_the_first_error_in_the_middle_is_raised_as_it_was(side: str, call: str) -> None:
    connector = pair(MemoryFile.random(LARGE_BYTES, 0.5))
    host = getattr(connector, side)
    error = host.error("No space left on device")
    lock, packets = threading.Lock(), [0]

    def fail(made: str, offset: int) -> None:
        with lock:
            packets[0] += made == call
            if made == call and packets[0] == (1 if call == "close" else 100):
                raise error

    host.on_packet = fail
    with pytest.raises(HostError) as raised:
        await copy(connector)
    assert raised.value is error
    assert connector.two.abandoned >= 1
    assert_let_go(connector)


@pytest.mark.parametrize("error", [HostUnreachable("down", host=DESTINATION), BadInput("no such URI")])
async def test_an_error_while_connecting_is_raised(error: Exception) -> None:
    connector = pair(MemoryFile.random(LARGE_BYTES))

    def fail() -> None:
        raise error

    connector.two.on_open = fail
    with pytest.raises(type(error)) as raised:
        await copy(connector)
    assert raised.value is error
    assert_let_go(connector)


async def test_an_error_that_the_channel_hides_is_raised_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connector = pair(MemoryFile.random(LARGE_BYTES, 1.0))
    error = connector.two.error("No space left on device")
    plain = MemoryChannel.read

    def hiding(self: MemoryChannel, *arguments: object) -> None:
        try:
            plain(self, *arguments)
        except HostError:
            raise self.host.error("an error occurred, but the cause is unknown") from None

    def fail(call: str, offset: int) -> None:
        raise error

    monkeypatch.setattr(MemoryChannel, "read", hiding)
    connector.two.on_packet = fail
    with pytest.raises(HostError) as raised:
        await copy(connector)
    assert raised.value is error


async def test_an_original_that_ends_early_is_an_error() -> None:
    connector = pair(MemoryFile.random(LARGE_BYTES))
    with pytest.raises(HostError, match=rf"ends at byte {LARGE_BYTES}, before byte {LARGE_BYTES + 1}"):
        await copy_file(connector, SOURCE, DESTINATION, PATH, whole_file(LARGE_BYTES + 1))


async def test_a_gap_in_what_the_host_sends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gap(self: MemoryChannel, path: str, offset: int, length: int, sink: object) -> None:
        sink.data(offset, b"x" * 10)
        sink.data(offset + 11, b"x" * (length - 11))

    monkeypatch.setattr(MemoryChannel, "read", gap)
    with pytest.raises(HostError, match="came out of turn"):
        await copy(pair(MemoryFile(100)))


class Signal:
    """Set in any thread, awaited on the event loop it was made on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        await asyncio.wait_for(self._event.wait(), 10)


async def cancel(task: asyncio.Task, within_s: float) -> None:
    began_s = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began_s < within_s


async def test_a_cancel_stops_within_a_packet() -> None:
    connector = pair(MemoryFile.random(LARGE_BYTES, 1.0))
    packets: list[int] = []
    begun = Signal()

    def slow(call: str, offset: int) -> None:
        packets.append(offset)
        if len(packets) >= 20:
            begun.set()
        time.sleep(0.01)

    connector.one.on_packet = slow
    task = asyncio.ensure_future(copy(connector))
    await begun.wait()
    seen = len(packets)
    await cancel(task, 1.0)
    assert len(packets) <= seen + 4
    assert_let_go(connector)


async def test_a_cancel_wakes_those_who_wait_for_bandwidth() -> None:
    connector = pair(MemoryFile.random(LARGE_BYTES, 1.0))
    begun = Signal()
    connector.one.on_packet = lambda *_: begun.set()
    task = asyncio.ensure_future(copy(connector, throttle=Throttle(0.001)))
    await begun.wait()
    await cancel(task, 1.0)
    assert_let_go(connector)


async def test_a_cancel_closes_channels_under_a_call_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "GRACE_S", 0.2)
    connector = pair(MemoryFile.random(PAGE, 1.0))
    entered = Signal()

    def hang(call: str, offset: int) -> None:
        entered.set()
        assert connector.one.closed.wait(10)
        raise connector.one.error("the connection is closed")

    connector.one.on_packet = hang
    task = asyncio.ensure_future(copy(connector))
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()  # once more: the cleaning goes on to its end
    await cancel(task, 2.0)
    assert_let_go(connector)


async def test_a_call_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "GRACE_S", 0.05)
    monkeypatch.setattr(workers, "GIVE_UP_S", 0.05)
    connector = pair(MemoryFile.random(PAGE, 1.0))
    release, entered = threading.Event(), Signal()

    def hang(call: str, offset: int) -> None:
        entered.set()
        assert release.wait(10)

    connector.one.on_packet = hang
    task = asyncio.ensure_future(copy(connector))
    await entered.wait()
    await cancel(task, 1.0)
    stuck = [thread for thread in threading.enumerate() if thread.name.startswith("copy a disk.qcow2")]
    assert [thread.daemon for thread in stuck] == [True]
    release.set()
    stuck[0].join(10)


async def test_one_throttle_holds_for_the_sum_of_all_files() -> None:
    connectors = [pair(MemoryFile.random(20 * MIB, 1.0)) for _ in range(2)]
    throttle = Throttle(80)
    began_s = time.monotonic()
    await asyncio.gather(*(copy(connector, throttle=throttle) for connector in connectors))
    assert time.monotonic() - began_s > 0.4


@pytest.mark.parametrize("call", ["read", "write"])
async def test_a_copy_that_moves_nothing_any_more_ends(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's storage hangs, and its libvirtd still answers."""
    monkeypatch.setattr(workers, "GRACE_S", 0.05)
    monkeypatch.setattr(transfer, "SILENCE_S", 0.3)
    connector = pair(MemoryFile.random(CHUNK_BYTES, 0.1))
    host = connector.one if call == "read" else connector.two

    def hang(one: str, offset: int) -> None:
        if one == call and offset > 0:
            host.closed.wait()
            raise HostError("the channel was closed", host=SOURCE)

    host.on_packet = hang
    async with asyncio.timeout(30):
        with pytest.raises(HostUnreachable, match="nothing was copied"):
            await copy(connector)
    assert_let_go(connector)
