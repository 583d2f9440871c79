"""Comparing a copy with its original byte by byte: whatever differs is found and named."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest

from fsm.errors import HostError, VerificationFailed
from fsm.images.base_copy import Throttle
from fsm.images.transfer import CHUNK_BYTES
from fsm.images.verify import FileDigest, compare_digests
from tests.test_images_memory import (
    DESTINATION,
    MIB,
    PAGE,
    PATH,
    SOURCE,
    MemoryConnector,
    MemoryFile,
    pair,
)

pytestmark = pytest.mark.usefixtures("no_thread_stays")

SIZE_BYTES = 4 * CHUNK_BYTES + 4321


def assert_let_go(connector: MemoryConnector) -> None:
    assert connector.one.open_channels == connector.two.open_channels == 0


def twins(size_bytes: int = SIZE_BYTES, share: float = 0.1) -> MemoryConnector:
    return pair(MemoryFile.random(size_bytes, share), MemoryFile.random(size_bytes, share))


async def digests(connector: MemoryConnector, **options: object) -> FileDigest:
    size_bytes = connector.one.files[PATH].size
    return await compare_digests(connector, SOURCE, DESTINATION, PATH, size_bytes, **options)


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES, SIZE_BYTES])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
async def test_equal_files_have_the_digest_that_is_documented(size_bytes: int, share: float) -> None:
    if size_bytes == SIZE_BYTES and share == 1.0:
        size_bytes = CHUNK_BYTES + 5
    connector = twins(size_bytes, share)
    found = await digests(connector)
    content = connector.one.files[PATH].content()
    parts = [
        hashlib.sha256(content[at : at + CHUNK_BYTES]).digest() for at in range(0, size_bytes, CHUNK_BYTES)
    ]
    assert found == FileDigest(hashlib.sha256(b"".join(parts)).hexdigest(), CHUNK_BYTES, size_bytes)
    assert_let_go(connector)


async def test_zeros_equal_a_hole() -> None:
    connector = twins()
    copied = connector.two.files[PATH]
    for number in range(-(-copied.size // PAGE)):
        copied.pages.setdefault(number, bytes(PAGE))
    await digests(connector)


@pytest.mark.parametrize("offset", [0, 12345, CHUNK_BYTES, 3 * CHUNK_BYTES + 7 * MIB + 1, SIZE_BYTES - 1])
@pytest.mark.parametrize("side", ["one", "two"])
async def test_a_flipped_byte_is_found_where_it_is(offset: int, side: str) -> None:
    connector = twins()
    file = getattr(connector, side).files[PATH]
    file.write(offset, bytes([file.byte(offset) ^ 0x10]))
    with pytest.raises(VerificationFailed) as raised:
        await digests(connector)
    error = raised.value
    assert (error.offset, error.path, error.source, error.destination) == (offset, PATH, SOURCE, DESTINATION)
    for part in (str(offset), PATH, SOURCE, DESTINATION):
        assert part in str(error)
    assert error.remedy
    assert_let_go(connector)


async def test_the_first_of_several_differences_is_named() -> None:
    connector = twins()
    for offset in (4 * CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 7, 2 * CHUNK_BYTES + 9):
        connector.two.files[PATH].write(offset, b"!")
    # The chunk with the first difference comes last of those under way.

    def slow(call: str, offset: int) -> None:
        if offset == 2 * CHUNK_BYTES:
            time.sleep(0.2)

    connector.one.on_packet = slow
    with pytest.raises(VerificationFailed) as raised:
        await digests(connector)
    assert raised.value.offset == 2 * CHUNK_BYTES + 7


async def test_a_lost_page_is_found() -> None:
    connector = twins()
    number = max(connector.two.files[PATH].pages)
    del connector.two.files[PATH].pages[number]
    with pytest.raises(VerificationFailed) as raised:
        await digests(connector)
    assert raised.value.offset in range(number * PAGE, (number + 1) * PAGE)


async def test_a_difference_that_does_not_come_back_is_told_as_such() -> None:
    connector = twins(PAGE, 1.0)
    copied = connector.two.files[PATH]
    good = copied.pages[0]
    copied.pages[0] = bytes(PAGE)
    reads = iter((None, None))

    def heal(call: str, offset: int) -> None:
        if next(reads, "healed"):
            copied.pages[0] = good

    connector.one.on_packet = connector.two.on_packet = heal
    with pytest.raises(VerificationFailed, match="yet a second reading of both agreed") as raised:
        await digests(connector)
    assert raised.value.offset == 0


async def test_a_copy_that_is_too_short_is_an_error() -> None:
    connector = pair(MemoryFile(SIZE_BYTES), MemoryFile(SIZE_BYTES - 1))
    with pytest.raises(HostError, match=f"ends at byte {SIZE_BYTES - 1}") as raised:
        await digests(connector)
    assert raised.value.host == DESTINATION


async def test_progress_counts_both_sides() -> None:
    connector = twins()
    told: list[tuple[int, int]] = []
    await digests(connector, progress=lambda *done: told.append(done))
    assert sum(told[-1]) == 2 * SIZE_BYTES


async def test_an_error_or_a_cancel_in_the_middle_leaves_nothing() -> None:
    connector = twins(share=1.0)
    error = connector.two.error("gone")

    def fail(call: str, offset: int) -> None:
        if offset > CHUNK_BYTES + MIB:
            raise error

    connector.two.on_packet = fail
    with pytest.raises(HostError) as raised:
        await digests(connector)
    assert raised.value is error
    assert_let_go(connector)
    connector.two.on_packet = lambda *_: None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(digests(connector, throttle=Throttle(0.01)), 0.3)
    assert_let_go(connector)
