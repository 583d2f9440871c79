"""The copy through libvirt's own storage streams, between two real hosts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm.errors import VerificationFailed
from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.values import PoolState
from fsm.images.base_copy import Throttle, copy_file
from fsm.images.tables import compare_tables
from fsm.images.transfer import CHUNK_BYTES, whole_file
from fsm.images.verify import compare_digests
from fsm.lab import Lab

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces"),
]

MIB = 1024 * 1024
DIRECTORY = "/var/lib/libvirt/images/ba ses"
PATH = f"{DIRECTORY}/a 'base' & more.img"
SIZE_BYTES = 200 * MIB + 12800
RUNS = ((0, MIB), (31 * MIB, 34 * MIB), (100 * MIB + 4096, MIB), (SIZE_BYTES - 4096, 4096))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSM_LAB_DIR", str(tmp_path_factory.mktemp("labs")))
        with Lab.up(guest=False) as made:
            yield made


@pytest.fixture
def files(lab: Lab) -> Iterator[tuple[Path, Path]]:
    """The original, sparse, and where its copy goes, as this test reaches them."""
    original, copied = (host.path(PATH) for host in lab.hosts)
    for path in (original, copied):
        path.parent.mkdir(exist_ok=True)
    with original.open("wb") as file:
        file.truncate(SIZE_BYTES)
        for offset, length in RUNS:
            file.seek(offset)
            file.write(os.urandom(length))
    yield original, copied
    for path in (original, copied):
        path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Storages:
    """Makes the empty copy, and puts the hosts' pools back at the end."""

    def __init__(self, lab: Lab) -> None:
        self.connector = LibvirtConnector()
        self.uris = (lab.hosts[0].uri, lab.hosts[1].uri)

    async def __aenter__(self) -> Storages:
        self.hosts = [await self.connector.connect(uri) for uri in self.uris]
        await self.hosts[1].storage.create_sparse(PATH, SIZE_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        for host in self.hosts:
            await host.storage.release(DIRECTORY, PoolState.NONE)
            await host.close()


async def test_a_sparse_file_arrives_whole_and_sparse(lab: Lab, files: tuple[Path, Path]) -> None:
    original, copied = files
    async with Storages(lab) as storages:
        told: list[tuple[int, int]] = []
        result = await copy_file(
            storages.connector,
            *storages.uris,
            PATH,
            whole_file(SIZE_BYTES),
            progress=lambda *done: told.append(done),
        )
        assert digest(copied) == digest(original)
        assert copied.stat().st_blocks == original.stat().st_blocks
        assert result.data_bytes + result.hole_bytes == SIZE_BYTES
        assert result.data_bytes <= sum(length for _, length in RUNS) + len(RUNS) * 8192
        assert told[-1] == (result.data_bytes, result.hole_bytes)
        assert await compare_tables(*storages.hosts, PATH, "raw") is None
        found = await compare_digests(storages.connector, *storages.uris, PATH, SIZE_BYTES)
        with original.open("rb") as file:
            parts = b"".join(
                hashlib.sha256(file.read(CHUNK_BYTES)).digest() for _ in range(0, SIZE_BYTES, CHUNK_BYTES)
            )
        assert found.sha256 == hashlib.sha256(parts).hexdigest()
        with copied.open("r+b") as file:
            file.seek(50 * MIB + 3)
            byte = file.read(1)
            file.seek(50 * MIB + 3)
            file.write(bytes([byte[0] ^ 1]))
        with pytest.raises(VerificationFailed) as raised:
            await compare_digests(storages.connector, *storages.uris, PATH, SIZE_BYTES)
        assert raised.value.offset == 50 * MIB + 3


async def test_a_cancelled_copy_leaves_no_thread(lab: Lab, files: tuple[Path, Path]) -> None:
    async with Storages(lab) as storages:
        before = set(threading.enumerate())
        begun = asyncio.Event()
        copying = asyncio.ensure_future(
            copy_file(
                storages.connector,
                *storages.uris,
                PATH,
                whole_file(SIZE_BYTES),
                throttle=Throttle(4),
                progress=lambda *_: begun.set(),
            )
        )
        await asyncio.wait_for(begun.wait(), 30)
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(copying, 5)
        assert [
            thread for thread in set(threading.enumerate()) - before if thread.name.startswith("copy")
        ] == []
        # Once more from the beginning, over what is there already.
        await copy_file(storages.connector, *storages.uris, PATH, whole_file(SIZE_BYTES))
        assert digest(files[1]) == digest(files[0])
