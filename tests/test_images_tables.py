"""Comparing the tables of a copy with its original's: whatever differs is found and named."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import cast

import pytest

from fsm.errors import HostError, ImageCorrupt, VerificationFailed
from fsm.hypervisor.port import Host
from fsm.images.qcow2 import Image
from fsm.images.tables import compare_tables
from tests.test_images_memory import (
    DESTINATION,
    MIB,
    PATH,
    SOURCE,
    MemoryConnector,
    MemoryFile,
    MemoryHost,
    pair,
)


async def tables(connector: MemoryConnector, image_format: str = "qcow2") -> Image | None:
    source, destination = cast(Host, connector.one), cast(Host, connector.two)
    return await compare_tables(source, destination, PATH, image_format)


@pytest.fixture
def original(tmp_path: Path) -> bytes:
    path = tmp_path / "a.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", str(path), "64M"]
    subprocess.run(make, check=True)
    for name in ("s1", "a snapshot", "s3"):
        subprocess.run(["qemu-img", "snapshot", "-c", name, str(path)], check=True)
    return path.read_bytes()


def images(original: bytes, copy: bytes) -> MemoryConnector:
    return pair(MemoryFile.of(original), MemoryFile.of(copy))


async def test_equal_images_pass_and_are_returned(original: bytes) -> None:
    found = await tables(images(original, original))
    assert found is not None
    assert [snapshot.name for snapshot in found.snapshots] == ["s1", "a snapshot", "s3"]


async def test_a_changed_snapshot_table_is_found(original: bytes) -> None:
    changed = original.replace(b"a snapshot", b"b snapshot")
    assert changed != original
    with pytest.raises(
        VerificationFailed, match=r"snapshot 2 of the table, 'a snapshot', reads .*'b snapshot'"
    ):
        await tables(images(original, changed))


async def test_a_changed_header_is_found_at_its_byte(original: bytes) -> None:
    changed = bytearray(original)
    changed[63] -= 1  # the number of snapshots
    with pytest.raises(VerificationFailed, match="from byte 63 on") as raised:
        await tables(images(original, bytes(changed)))
    assert raised.value.offset == 63


async def test_a_copy_whose_table_was_lost_is_found(original: bytes) -> None:
    table_offset = int.from_bytes(original[64:72], "big")
    changed = original[:table_offset] + bytes(4096) + original[table_offset + 4096 :]
    with pytest.raises(VerificationFailed):
        await tables(images(original, changed))
    with pytest.raises(VerificationFailed, match=r"the copy not: .*does not begin with a qcow2 header"):
        await tables(images(original, bytes(len(original))))


async def test_an_original_that_is_damaged_is_told_with_host_and_path(original: bytes) -> None:
    damaged = original[:4] + b"\xff" + original[5:]
    connector = images(damaged, original)
    connector.one.uri = "qemu+ssh://me:secret@one/"
    with pytest.raises(ImageCorrupt) as raised:
        await tables(connector)
    assert PATH in str(raised.value)
    assert "me@one" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
async def test_another_length_is_found_in_every_format(original: bytes, image_format: str) -> None:
    connector = images(original, original + b"x")
    with pytest.raises(VerificationFailed, match=f"{len(original)} bytes long, the copy {len(original) + 1}"):
        await tables(connector, image_format)
    del connector.two.files[PATH]
    with pytest.raises(VerificationFailed, match="the copy is not there"):
        await tables(connector, image_format)
    del connector.one.files[PATH]
    with pytest.raises(VerificationFailed, match="the original is not there"):
        await tables(connector, image_format)


async def test_raw_files_of_one_length_pass() -> None:
    assert await tables(pair(MemoryFile.random(100), MemoryFile(100)), "raw") is None


async def test_little_is_read(original: bytes) -> None:
    connector = images(original + bytes(100 * MIB) + b"end", original + bytes(100 * MIB) + b"end")
    await tables(connector)
    assert connector.one.read_bytes < 300_000


async def test_an_error_of_a_host_is_let_through(original: bytes) -> None:
    connector = images(original, original)
    error = connector.two.error("gone")

    def fail(call: str, offset: int) -> None:
        raise error

    connector.two.on_packet = fail
    with pytest.raises(HostError) as raised:
        await tables(connector)
    assert raised.value is error


@pytest.mark.parametrize("failing", [SOURCE, DESTINATION])
@pytest.mark.parametrize("call", ["stat", "peek"])
async def test_when_one_host_fails_the_other_is_read_no_further(
    original: bytes, failing: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def asked(host: MemoryHost, *_words: object) -> None:
        if host.uri == failing:
            await began.wait()
            raise host.error("gone")
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(MemoryHost, call, asked)
    with pytest.raises(HostError, match="gone"):
        await tables(images(original, original))
    assert ended.is_set()
