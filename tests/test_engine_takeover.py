"""Taking a migration over: after a crash at any record, against a living engine, after a lost lease."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attrs import evolve

from fsm.engine.engine import Engine
from fsm.engine.heart import LEASE_S, Heart
from fsm.engine.holder import Holder, is_dead, new_holder
from fsm.engine.plan import Side
from fsm.hypervisor.port import OPENERS
from fsm.hypervisor.simulated import Moment
from fsm.hypervisor.values import MigrationRequest, Tuning
from fsm.journal.port import Leased, LeaseLost
from fsm.journal.records import Lease, Record
from fsm.journal.sql import SqlJournal, open_journal
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

ROOT = Path(__file__).parents[1]


async def _records_of_a_good_migration() -> int:
    simulation = await simulate()
    result = await simulation.migrate()
    return len(simulation.journal.records(result.migration))


RECORDS = asyncio.run(_records_of_a_good_migration())


async def _die_after(simulation: Simulation, count: int) -> str:
    """Drive until ``count`` records are written, then let go at once, as a killed process does."""
    died = asyncio.Event()

    def on_record(_record: Record) -> None:
        simulation.write()
        if _record.sequence >= count:
            died.set()

    handle = await simulation.engine.start(simulation.request(), on_record=on_record)
    await asyncio.wait(
        (asyncio.ensure_future(died.wait()), asyncio.ensure_future(handle.wait())),
        return_when=asyncio.FIRST_COMPLETED,
    )
    await handle.detach()
    return handle.migration


@pytest.mark.parametrize("count", range(1, RECORDS + 1))
async def test_an_abort_after_a_crash_rolls_back_or_goes_on(count: int) -> None:
    simulation = await simulate()
    migration = await _die_after(simulation, count)
    other = Engine(simulation.journal, simulation.world, clock=simulation.world.clock)
    await other.ask(migration, "abort")
    result = await (await other.resume(migration)).wait()
    assert result.state in ("committed", "rolled-back", "refused"), result
    await check_end(simulation, result)


async def test_the_tuning_outlives_the_engine() -> None:
    wanted = Tuning(auto_converge=True, max_downtime_ms=700, compress=True, comp_methods=("mt",))
    simulation = await simulate()
    handle = await simulation.start(tuning=wanted)
    await handle.detach()
    other = Engine(simulation.journal, simulation.world, clock=simulation.world.clock)
    assert (await (await other.resume(handle.migration)).wait()).state == "committed"
    (call,) = (call for call in simulation.world.calls if call.name == "migrate")
    assert isinstance(request := call.arguments[1], MigrationRequest)
    assert request.tuning == wanted


async def test_what_a_living_engine_drives_is_left_to_it() -> None:
    simulation = await simulate()
    handle = await simulation.start()
    with pytest.raises(Leased, match=handle.migration):
        simulation.journal.acquire(handle.migration, "somebody else", is_dead)
    assert (await handle.wait()).state == "committed"
    # What has ended is nobody's any more.
    assert simulation.journal.acquire(handle.migration, "somebody else", is_dead).token == 2


async def test_an_abort_reaches_the_engine_that_drives() -> None:
    simulation = await simulate()
    handle = await simulation.start()
    engine, journal = simulation.engine, simulation.journal

    def ask() -> None:
        """Another process asks; the next heartbeat hands it out."""
        journal.ask(handle.migration, "abort", {})
        for asked in journal.asked():
            engine._driving.driven[asked.migration].ask(asked)

    simulation.world.at_moment(simulation.uuid, Moment.MIRROR, ask)
    result = await handle.wait()
    assert result.state == "rolled-back"
    assert simulation.journal.asked() == []
    await check_end(simulation, result)


async def test_an_engine_whose_lease_was_taken_acts_no_more() -> None:
    simulation = await simulate()
    handle = await simulation.start()
    journal, calls = simulation.journal, simulation.world.calls

    def taken_over() -> None:
        lease = journal.acquire(handle.migration, "somebody else", lambda _holder: True)
        assert lease.token == 2

    simulation.world.at("forget_snapshots", taken_over)
    with pytest.raises(LeaseLost):
        await handle.wait()
    # The call in which it happened may end; the next step is not begun.
    assert "migrate" not in [call.name for call in calls]


async def test_an_engine_that_lets_go_leaves_a_domain_started_for_a_commit_to_the_next() -> None:
    simulation = await simulate()
    world = simulation.world
    world.at("make_durable", lambda: world.power_off_guest(simulation.uuid))
    started = asyncio.Event()
    world.at("start_paused", started.set, when="after")
    handle = await simulation.start()
    await started.wait()
    await handle.detach()
    assert "destroy" not in [call.name for call in world.calls]
    result = await (await simulation.engine.resume(handle.migration)).wait()
    assert result.state == "rolled-back"
    assert world.active_at(simulation.uuid) == []
    await check_end(simulation, result)


async def test_a_heart_that_was_silent_too_long_stops_all_changes() -> None:
    simulation = await simulate()
    now_s = 0.0
    heart = Heart(simulation.journal, now_s=lambda: now_s)
    await heart.start()
    heart.check()
    now_s = LEASE_S
    with pytest.raises(LeaseLost):
        heart.check()
    with pytest.raises(LeaseLost):
        await heart.start()
    await heart.stop()


async def test_a_change_is_checked_at_the_last_moment() -> None:
    """The heart lapses between two calls of one activity: the second is not made."""
    simulation = await simulate()
    handle = await simulation.start()
    heart = simulation.engine._heart
    stopped = lambda: setattr(heart, "now_s", lambda: float("inf"))  # noqa: E731
    simulation.world.at("start_commit", stopped, when="after")
    with pytest.raises(LeaseLost):
        await handle.wait()
    assert [call.name for call in simulation.world.calls].count("start_commit") == 1
    assert "pivot" not in [call.name for call in simulation.world.calls]


@pytest.mark.parametrize("call", ["create_overlays", "complete", "set_threshold", "start_commit"])
async def test_who_has_no_lease_opens_no_storage_pool(call: str) -> None:
    """Whoever took over has put back what was opened, and nobody would put this back."""
    simulation = await simulate()
    handle = await simulation.start()
    heart, calls = simulation.engine._heart, simulation.world.calls
    before: list[str] = []

    def stopped() -> None:
        before.extend(one.name for one in calls)
        heart.now_s = lambda: float("inf")

    complete = call == "complete"
    simulation.world.at("mark" if complete else call, stopped, when="after", nth=2 if complete else 1)
    with pytest.raises(LeaseLost):
        await handle.wait()
    after = [one.name for one in calls[len(before) :]]
    assert not OPENERS.intersection(after), after


def test_the_dead_are_known_and_strangers_are_not() -> None:
    me = new_holder()
    assert Holder.parse(str(me)) == me
    assert not is_dead(str(me))
    with subprocess.Popen(["sleep", "60"]) as child:
        started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        other = evolve(me, pid=child.pid, started=started)
        assert not is_dead(str(other))
        child.kill()
    assert is_dead(str(other))
    assert is_dead(str(evolve(me, pid=os.getpid(), started="1"))), "a recycled pid is another process"
    assert not is_dead(str(evolve(other, boot="another boot"))), "a process of another machine may live"
    assert not is_dead("nonsense")


def _engine_process(journal: Path, sent: str, call: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.stopped_engine", str(journal), sent, call]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _acquire_when_free(journal: SqlJournal, migration: str) -> tuple[Lease, bool]:
    """The lease, and whether it had to be waited for."""
    refused = False
    for _ in range(600):
        try:
            return journal.acquire(migration, str(new_holder()), is_dead), refused
        except Leased:
            refused = True
            time.sleep(0.1)  # a lease runs out by the clock and by nothing else
    raise AssertionError("the lease never ran out")


@pytest.mark.parametrize("call", ["forget_snapshots", "start_commit"])
def test_a_stopped_process_that_wakes_up_after_a_take_over_does_nothing_more(
    tmp_path: Path, call: str
) -> None:
    journal = open_journal(tmp_path / "journal.db")
    with _engine_process(tmp_path / "journal.db", "SIGSTOP", call) as process:
        try:
            assert process.stdout is not None
            migration = process.stdout.readline().strip()
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            lease, refused = _acquire_when_free(journal, migration)
            assert refused, "it is there, though it does not move"
            assert lease.token == 2
            process.send_signal(signal.SIGCONT)
            told = json.loads(process.stdout.readline())
        finally:
            process.kill()
    # What it had begun when it was stopped is beyond anybody's reach; nothing else is begun.
    assert told == {"end": "LeaseLost", "acts": []}
    journal.close()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal.db")
    with _engine_process(tmp_path / "journal.db", "SIGKILL", "forget_snapshots") as process:
        assert process.stdout is not None
        migration = process.stdout.readline().strip()
        process.wait()
    lease, refused = _acquire_when_free(journal, migration)
    assert (lease.token, refused) == (2, False)
    journal.close()


async def _lose_the_destination(simulation: Simulation) -> str:
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.power_off(DESTINATION))
    result = await simulation.migrate()
    assert result.state == "stuck"
    return result.migration


async def test_the_operators_word_that_the_destination_is_off_lets_the_source_be_committed() -> None:
    simulation = await simulate()
    migration = await _lose_the_destination(simulation)
    await simulation.engine.ask(migration, "retry", [Side.DESTINATION])
    result = await (await simulation.engine.resume(migration)).wait()
    assert result.state == "rolled-back"
    assert any(DESTINATION in left for left in result.left_behind), "what stays on a dead host is told"
    assert simulation.world.running_at(simulation.uuid) == [SOURCE]
    assert simulation.world.lost_writes(simulation.uuid, at=SOURCE) == []


async def test_without_that_word_a_retry_commits_nothing() -> None:
    simulation = await simulate()
    migration = await _lose_the_destination(simulation)
    await simulation.engine.ask(migration, "retry")
    result = await (await simulation.engine.resume(migration)).wait()
    assert result.state == "stuck"
    assert "start_commit" not in [call.name for call in simulation.world.calls]


async def test_a_pool_that_a_dead_preflight_has_started_is_stopped_again() -> None:
    """Its engine dies while it looks, and the migration is aborted before anybody looks again."""
    simulation = await simulate()
    world = simulation.world
    world.add_pool(DESTINATION, "/var/lib/libvirt/images", active=False)
    before = world.pools(DESTINATION)
    looked = asyncio.Event()
    world.at("free_bytes", looked.set, host=DESTINATION)
    handle = await simulation.engine.start(simulation.request())
    await asyncio.wait_for(looked.wait(), timeout=30)
    world.fail("release", host=DESTINATION, times=None)  # as a killed engine puts nothing back
    await handle.detach()
    world.faults.clear()
    assert world.pools(DESTINATION) != before, "the test shows nothing"
    simulation.journal.ask(handle.migration, "abort", {})
    other = Engine(simulation.journal, world, clock=world.clock)
    result = await (await other.resume(handle.migration)).wait()
    assert result.state == "refused"
    assert world.pools(DESTINATION) == before
