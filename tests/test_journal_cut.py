"""A journal that a crash has cut off inside its last record opens without that record, and loses no other.

What a power failure leaves of a file is a part of what was written last; SQLite's write-ahead log holds it,
and a transaction counts only when its last frame is there with the right checksum (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve, frozen

from fsm.hypervisor.simulated import SimulatedWorld, WorldState
from fsm.journal.records import Record
from fsm.journal.sql import open_journal
from tests.lives import AFTER, BEFORE, Life, Point
from tests.simulation import Inline, Simulation, check_end, simulate, without_threads

FRAME_BYTES = 24 + 4096
STRIDE_BYTES = 7


@pytest.fixture(autouse=True)
def _inline() -> Iterator[None]:
    with without_threads():
        yield


@frozen
class Crash:
    """What was there when a record had just been written: the hosts, the journal's files, the records.

    ``whole_bytes`` is the log's length before that record, so all behind it belongs to the record.
    """

    name: str
    world: WorldState
    database: bytes
    log: bytes
    whole_bytes: int
    records: tuple[Record, ...]

    def cut(self, length: int, tail: bytes = b"") -> tuple[bytes, bytes]:
        """The two files, the log cut off after so many bytes, and ``tail`` behind that."""
        return self.database, self.log[:length] + tail


def _log_of(simulation: Simulation) -> Path:
    return Path(f"{simulation.journal_path}-wal")


async def _crashes() -> tuple[Simulation, list[Crash]]:
    """A migration, and a crash behind each of its records."""
    simulation = await simulate()
    found: list[Crash] = []
    length = 0

    def hook(_life: Life, point: Point) -> None:
        nonlocal length
        if point.moment in BEFORE.values():
            length = _log_of(simulation).stat().st_size
        elif point.moment in AFTER.values():
            path = simulation.journal_path
            (header,) = simulation.journal.headers()
            records = tuple(simulation.journal.records(header.migration))
            files = path.read_bytes(), _log_of(simulation).read_bytes()
            world = copy.deepcopy(simulation.world.state)
            found.append(Crash(point.name, world, *files, length, records))

    result = await Life(simulation, hook).run(None)
    assert result is not None
    assert result.state == "committed"
    return simulation, found


Crashed = tuple[Simulation, list[Crash]]


@pytest.fixture(scope="module")
def crashed() -> Crashed:
    """All of them; made once."""
    with without_threads():
        return asyncio.run(_crashes())


def _put(directory: Path, files: tuple[bytes, bytes]) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / "journal.db"
    path.write_bytes(files[0])
    Path(f"{path}-wal").write_bytes(files[1])
    Path(f"{path}-shm").unlink(missing_ok=True)
    return path


def _count(path: Path) -> int:
    """How many records SQLite finds, without a change to the files; it would raise for a damaged one."""
    raw = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        (number,) = raw.execute("SELECT count(*) FROM records NOT INDEXED").fetchone()
    finally:
        raw.close()
        Path(f"{path}-shm").unlink(missing_ok=True)  # an index of the log, made anew by whoever opens it
    return int(number)


def test_cut_at_every_byte_of_the_last_record(crashed: Crashed) -> None:
    simulation, crashes = crashed
    crash = min(crashes, key=lambda one: len(one.log) - one.whole_bytes)
    assert len(crash.log) - crash.whole_bytes >= 2 * FRAME_BYTES
    path = _put(_log_of(simulation).parent / "cut", crash.cut(len(crash.log)))
    assert _count(path) == len(crash.records)
    for length in reversed(range(crash.whole_bytes, len(crash.log))):
        os.truncate(f"{path}-wal", length)
        assert _count(path) == len(crash.records) - 1, length


def test_damage_anywhere_in_the_last_record(crashed: Crashed) -> None:
    simulation, crashes = crashed
    crash = min(crashes, key=lambda one: len(one.log) - one.whole_bytes)
    path = _put(_log_of(simulation).parent / "damaged", crash.cut(len(crash.log)))
    with Path(f"{path}-wal").open("r+b", buffering=0) as log:
        for at in range(crash.whole_bytes, len(crash.log), STRIDE_BYTES):
            os.pwrite(log.fileno(), bytes((crash.log[at] ^ 0xFF,)), at)
            assert _count(path) == len(crash.records) - 1, at
            os.pwrite(log.fileno(), crash.log[at : at + 1], at)
    assert _count(path) == len(crash.records)


@pytest.mark.parametrize("tail", ["zeros", "garbage"])
def test_the_log_has_its_length_but_not_its_content(crashed: Crashed, tail: str) -> None:
    simulation, crashes = crashed
    chance = random.Random(1)  # noqa: S311  # the same garbage every time
    for crash in crashes:
        missing = len(crash.log) - crash.whole_bytes
        for kept in {0, 1, 24, missing // 2, missing - 1}:
            lost = missing - kept
            filling = bytes(lost) if tail == "zeros" else chance.randbytes(lost)
            files = crash.cut(crash.whole_bytes + kept, filling)
            journal = open_journal(_put(_log_of(simulation).parent / tail, files))
            (header,) = journal.headers()
            assert tuple(journal.records(header.migration)) == crash.records[:-1]
            journal.close()


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_another_engine_goes_on_from_what_is_left(crashed: Crashed, part: float) -> None:
    """After any record, whether the cut has taken it or not."""
    simulation, crashes = crashed
    for number, crash in enumerate(crashes):
        directory = _log_of(simulation).parent / str(number)
        length = crash.whole_bytes + int(part * (len(crash.log) - crash.whole_bytes))
        journal = open_journal(_put(directory, crash.cut(length)))
        (header,) = journal.headers()
        assert len(journal.records(header.migration)) == len(crash.records) - (part < 1.0)
        after = evolve(simulation, world=SimulatedWorld(state=copy.deepcopy(crash.world)), journal=journal)
        asyncio.run(_go_on(after, header.migration))
        journal.close()


async def _go_on(simulation: Simulation, migration: str) -> None:
    asyncio.get_running_loop().set_default_executor(Inline())
    result = await Life(simulation).run(migration)
    assert result is not None
    assert result.state in ("committed", "rolled-back"), result
    await check_end(simulation, result)
