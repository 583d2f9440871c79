"""A base copy that is interrupted goes on where it was: in the same engine, and in one that takes over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from attrs import evolve

from fsm.engine import copied
from fsm.engine.copied import CopyRecorder
from fsm.engine.engine import Engine
from fsm.engine.history import fold
from fsm.engine.result import Result
from fsm.errors import HostUnreachable
from fsm.hypervisor.simulated import SimulatedDisk, files
from fsm.images.blocks import Block
from fsm.images.resumption import Stretch
from fsm.images.transfer import CHUNK_BYTES
from fsm.journal.records import Record
from tests.simulation import DESTINATION, IMAGES, SOURCE, Simulation, check_end, in_loop, simulate

BASE = f"{IMAGES}/web-vda.qcow2"
BLOCKS = 6
GUEST_BLOCK = 4096
# A few blocks of the guest in each block of the file, from near its beginning to near its end.
WRITTEN = tuple(range(0, (BLOCKS - 1) * CHUNK_BYTES // GUEST_BLOCK + 2000, 1500))
DISK = SimulatedDisk("vda", capacity_bytes=BLOCKS * CHUNK_BYTES, written=WRITTEN)


@pytest.fixture(autouse=True)
def every_block_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copied, "RECORD_BYTES", 1)
    monkeypatch.setattr(copied, "WORTH_BYTES", 1)
    monkeypatch.setattr(copied, "MOST_RECORDS", 1 << 40)


async def two_hosts() -> Simulation:
    return await simulate((DISK, SimulatedDisk("vdb")))


def reads(simulation: Simulation, uri: str, since: int = 0) -> list[tuple[int, int]]:
    """The ranges of the base that were read on a host, small looks at its header aside."""
    calls = simulation.world.calls[since:]
    ranges = [call.arguments for call in calls if call.name == "read" and call.host == uri]
    return sorted((offset, length) for path, offset, length in ranges if path == BASE and length > 1 << 20)


def recorded(simulation: Simulation, migration: str) -> set[int]:
    """The blocks of the base that the journal says are copied."""
    history = fold("planned", simulation.journal.records(migration))
    stretches = history.copied.get(BASE, ())
    return {place.offset // CHUNK_BYTES for stretch in stretches for place, _ in stretch.blocks}


def blocks_of(ranges: list[tuple[int, int]]) -> set[int]:
    return {
        at // CHUNK_BYTES for offset, length in ranges for at in range(offset, offset + length, CHUNK_BYTES)
    }


async def die_at_write(simulation: Simulation, nth: int) -> str:
    """Let the engine go at the ``nth`` write into the copy, which does not happen any more."""
    loop, struck = asyncio.get_running_loop(), asyncio.Event()

    def strike() -> BaseException:
        loop.call_soon_threadsafe(struck.set)
        return HostUnreachable("gone", host=DESTINATION, call="write")

    simulation.world.fail("write", host=DESTINATION, nth=nth, error=strike)
    handle = await simulation.engine.start(simulation.request(connections=1))
    await asyncio.wait_for(struck.wait(), timeout=30)
    await handle.detach()
    return handle.migration


async def die_at_record(simulation: Simulation, nth: int) -> str:
    """Let the engine go as soon as the ``nth`` record of the copy is written."""
    died, seen = asyncio.Event(), []

    def on_record(record: Record) -> None:
        seen.append(record.name)
        if seen.count("copied") >= nth:
            died.set()

    handle = await simulation.engine.start(simulation.request(connections=1), on_record=on_record)
    ends = [asyncio.ensure_future(died.wait()), asyncio.ensure_future(handle.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await handle.detach()
    return handle.migration


async def take_over(simulation: Simulation, migration: str) -> Result:
    other = Engine(simulation.journal, simulation.world, clock=simulation.world.clock, deliver=in_loop)
    return await (await other.resume(migration, on_record=simulation.records.append)).wait()


@pytest.mark.parametrize("nth", [1, 2, 8, 20, 31, len(WRITTEN) - 1])
async def test_an_engine_that_takes_over_copies_only_the_rest(nth: int) -> None:
    simulation = await two_hosts()
    migration = await die_at_write(simulation, nth)
    known, since = recorded(simulation, migration), len(simulation.world.calls)
    result = await take_over(simulation, migration)
    assert result.state == "committed", result
    assert blocks_of(reads(simulation, SOURCE, since)) & known == set(), "what was there is read again"
    assert known <= blocks_of(reads(simulation, DESTINATION, since)), "what was there is taken on trust"
    await check_end(simulation, result)


@pytest.mark.parametrize("nth", range(1, BLOCKS + 2))
async def test_an_engine_may_die_at_each_record_of_the_copy(nth: int) -> None:
    simulation = await two_hosts()
    migration = await die_at_record(simulation, nth)
    known, since = recorded(simulation, migration), len(simulation.world.calls)
    result = await take_over(simulation, migration)
    assert result.state == "committed", result
    assert blocks_of(reads(simulation, SOURCE, since)) & known == set()
    await check_end(simulation, result)


async def test_it_is_told_how_much_was_kept() -> None:
    simulation = await two_hosts()
    migration = await die_at_write(simulation, 31)
    known = recorded(simulation, migration)
    assert len(known) >= 2
    result = await take_over(simulation, migration)
    (told,) = [record.data["kept_bytes"] for record in simulation.records if "kept_bytes" in record.data]
    extents = simulation.world.data_extents(SOURCE, BASE)
    assert told == sum(length for at, length in extents if at // CHUNK_BYTES in known)
    assert fold("planned", simulation.journal.records(migration)).kept_bytes == told
    await check_end(simulation, result)


def alter(simulation: Simulation, uri: str, offset: int, content: bytes) -> None:
    with simulation.world.changing() as state:
        files.write(state, state.hosts[uri], BASE, offset, content)


async def test_only_the_block_that_was_altered_meanwhile_is_copied_again() -> None:
    simulation = await two_hosts()
    migration = await die_at_write(simulation, 31)
    known, since = recorded(simulation, migration), len(simulation.world.calls)
    altered = max(known)
    # Where the base has a hole: what is copied again must not leave it there.
    alter(simulation, DESTINATION, altered * CHUNK_BYTES + 20 * GUEST_BLOCK, b"somebody's")
    result = await take_over(simulation, migration)
    assert result.state == "committed"
    assert blocks_of(reads(simulation, SOURCE, since)) & known == {altered}
    content = simulation.world.file_bytes(DESTINATION, BASE)
    assert b"somebody's" not in content
    await check_end(simulation, result)


async def test_of_a_base_that_changed_nothing_is_kept() -> None:
    simulation = await two_hosts()
    migration = await die_at_write(simulation, 31)
    since = len(simulation.world.calls)
    alter(simulation, SOURCE, 3 * CHUNK_BYTES, b"\0")
    result = await take_over(simulation, migration)
    assert result.state == "rolled-back"
    assert "was written to while it was copied" in result.cause
    assert reads(simulation, SOURCE, since) == reads(simulation, DESTINATION, since) == []
    assert BASE not in simulation.world.files(DESTINATION)
    await check_end(simulation, result)


async def test_a_copy_that_somebody_removed_is_made_anew() -> None:
    simulation = await two_hosts()
    migration = await die_at_write(simulation, 31)
    with simulation.world.changing() as state:
        files.remove(state, state.hosts[DESTINATION], BASE)
    result = await take_over(simulation, migration)
    assert result.state == "committed"
    assert not any("kept_bytes" in record.data for record in simulation.records)
    await check_end(simulation, result)


async def test_a_copy_of_another_length_is_left_alone() -> None:
    simulation = await two_hosts()
    migration = await die_at_write(simulation, 31)
    size_bytes = len(simulation.world.file_bytes(DESTINATION, BASE))
    alter(simulation, DESTINATION, size_bytes, b"longer")
    since = len(simulation.world.calls)
    result = await take_over(simulation, migration)
    assert result.state == "rolled-back"
    assert f"was made with {size_bytes}" in result.cause
    assert reads(simulation, SOURCE, since) == []
    await check_end(simulation, result)


async def test_a_write_that_fails_is_tried_again_with_what_is_there() -> None:
    simulation = await two_hosts()
    simulation.world.fail("write", host=DESTINATION, nth=31)
    result = await simulation.migrate(connections=1)
    assert result.state == "committed"
    calls = simulation.world.calls
    failed = next(at for at, call in enumerate(calls) if call.name == "write" and call.outcome != "ok")
    before, after = reads(simulation, SOURCE), reads(simulation, SOURCE, failed)
    assert blocks_of(after) < blocks_of(before)
    assert 0 not in blocks_of(after)
    assert any("kept_bytes" in record.data for record in simulation.records)
    await check_end(simulation, result)


def cut_at_write(simulation: Simulation, nth: int, for_s: float) -> None:
    """The destination can't be reached from the ``nth`` write on, for so long."""
    world = simulation.world

    def cut() -> None:
        world.disconnect(DESTINATION)
        world.clock.after(for_s, lambda: world.reconnect(DESTINATION))

    world.at("write", cut, host=DESTINATION, nth=nth)


@pytest.mark.parametrize("for_s", [1.0, 30.0, 250.0])
async def test_a_link_that_comes_back_in_time_costs_no_copy(for_s: float) -> None:
    simulation = await two_hosts()
    cut_at_write(simulation, 31, for_s)
    result = await simulation.migrate(connections=1)
    assert result.state == "committed", result
    assert any("kept_bytes" in record.data for record in simulation.records)
    failures = [record for record in simulation.records if record.error]
    assert len(failures) <= 2
    await check_end(simulation, result)


async def test_a_link_that_stays_away_ends_in_a_rollback() -> None:
    simulation = await two_hosts()
    cut_at_write(simulation, 31, 400.0)
    result = await simulation.migrate(connections=1)
    assert result.state == "rolled-back", result
    await check_end(simulation, result)


async def test_an_abort_does_not_wait_for_the_link() -> None:
    simulation = await two_hosts()
    world = simulation.world
    cut_at_write(simulation, 31, 24.0)
    handle = await simulation.start(connections=1)
    world.clock.after(20.0, handle.abort)
    result = await handle.wait()
    assert result.state == "rolled-back"
    await check_end(simulation, result)


async def test_failures_between_which_the_copy_got_on_are_not_added_up() -> None:
    """Five cuts and three attempts: each of them finds more of the copy made."""
    simulation = await two_hosts()
    world, cuts = simulation.world, []

    def unreachable() -> BaseException:
        cuts.append(1)
        return HostUnreachable("gone", host=DESTINATION, call="write")

    for nth in range(12, 72, 12):  # more than a block has
        world.fail("write", host=DESTINATION, nth=nth, error=unreachable)
    result = await simulation.migrate(connections=1)
    assert len(cuts) == 5
    assert result.state == "committed", result
    await check_end(simulation, result)


async def test_a_copy_that_never_gets_on_is_given_up() -> None:
    simulation = await two_hosts()
    simulation.world.fail("write", host=DESTINATION, nth=12, times=None)
    result = await simulation.migrate(connections=1)
    assert result.state == "rolled-back"
    tries = [r for r in simulation.records if (r.name, r.phase) == ("copy-bases", "outcome")]
    assert len(tries) <= 4
    await check_end(simulation, result)


async def test_blocks_that_go_bad_again_and_again_are_no_progress() -> None:
    """A copy that is whole and won't be durable fails for good, though a block is copied anew each time."""
    simulation = await two_hosts()
    world = simulation.world

    def spoil() -> None:
        alter(simulation, DESTINATION, CHUNK_BYTES, b"rotten")

    for nth in range(1, 20):
        world.at("make_durable", spoil, host=DESTINATION, nth=nth)
    world.fail("make_durable", host=DESTINATION, times=None)
    result = await simulation.migrate(connections=1)
    assert result.state == "rolled-back"
    tries = [r for r in simulation.records if (r.name, r.phase) == ("copy-bases", "outcome")]
    assert len(tries) == 3


@pytest.mark.parametrize("harm", ["cut digests", "another place"])
async def test_a_torn_record_keeps_nothing(harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = await two_hosts()
    plain = copied.stretches_of

    def torn(blocks: Sequence[Block]) -> list[Stretch]:
        if harm == "cut digests":
            return [evolve(one, digests=one.digests[:-1]) for one in plain(blocks)]
        return [evolve(one, offset=one.offset + 1) for one in plain(blocks)]

    monkeypatch.setattr(copied, "stretches_of", torn)
    migration = await die_at_write(simulation, 31)
    monkeypatch.undo()
    result = await take_over(simulation, migration)
    assert result.state == "committed"
    assert not any("kept_bytes" in record.data for record in simulation.records)
    await check_end(simulation, result)


async def test_the_records_of_a_large_copy_are_few_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    notes: list[dict[str, object]] = []

    class Notes:
        async def note(self, _name: str, data: dict[str, object]) -> None:
            notes.append(data)

    size_bytes = 100 << 30
    recorder = CopyRecorder(Notes(), "/images/large", size_bytes)  # type: ignore[arg-type]
    for at in range(0, size_bytes, CHUNK_BYTES):
        await recorder.add([Block(at, CHUNK_BYTES, f"{at:032x}", CHUNK_BYTES)])
    await recorder.end()
    sizes = [len(json.dumps(note)) for note in notes]
    assert len(notes) <= copied.MOST_RECORDS
    assert max(sizes) < 1024
    assert sum(sizes) < 120_000
