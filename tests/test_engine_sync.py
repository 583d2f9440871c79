"""The engine for programs without an event loop: everything blocks, nothing hangs, and it ends cleanly."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fsm
from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.engine.sync import SyncEngine, SyncHandle, migrate
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.journal.records import Record
from fsm.journal.sql import open_journal
from tests.simulation import DESTINATION, SOURCE

SNAPSHOTS = {"s1": None, "s2": "s1"}


def request(**changes: object) -> fsm.Request:
    wanted = {"domain": "web", "source_uri": SOURCE, "destination_uri": DESTINATION, **changes}
    return fsm.Request(**wanted)  # type: ignore[arg-type]


@pytest.fixture
def world() -> SimulatedWorld:
    """Two hosts and a domain."""
    world = SimulatedWorld()
    world.add_host(SOURCE)
    world.add_host(DESTINATION)
    world.add_domain(SOURCE, "web", snapshots=SNAPSHOTS)
    return world


@pytest.fixture
def engine(world: SimulatedWorld, tmp_path: Path) -> Iterator[SyncEngine]:
    with SyncEngine.open(tmp_path / "journal.db", world, clock=world.clock) as engine:
        yield engine


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert {thread for thread in threading.enumerate() if thread.name.startswith("fsm")} <= before


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("fsm-engine")}


@pytest.mark.parametrize(("ours", "other"), [(SyncEngine, Engine), (SyncHandle, Handle)])
def test_both_kinds_have_the_same_names_and_parameters(ours: type, other: type) -> None:
    def public(kind: type) -> dict[str, list[str]]:
        apart = {"deliver", "journal", "connector", "spec", "clock", "limits", "log"}
        apart |= {"follow", "inside_callback"}  # the seam between the two
        return {
            name: list(inspect.signature(member).parameters) if callable(member) else []
            for name, member in inspect.getmembers(kind)
            if not name.startswith("_") and name not in apart
        }

    wanted, found = public(other), public(ours)
    # A frozen handle has its id as a field, the other one as a property.
    assert {**found, "migration": []} == {**wanted, "migration": []}


def test_a_migration_is_followed_to_its_end(engine: SyncEngine, world: SimulatedWorld) -> None:
    told: list[Record] = []
    handle = engine.start(request(), on_record=told.append)
    events = list(handle.events)
    result = handle.wait(timeout_s=60)
    assert (result.state, handle.state, handle.ended) == ("committed", "committed", True)
    records = [event for event in events if isinstance(event, fsm.Record)]
    assert records == told
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    assert any(isinstance(event, fsm.Progress) for event in events)
    assert handle.progress is not None
    assert (handle.request, handle.migration) == (request(), result.migration)
    assert list(handle.events)[-1] == records[-1], "who comes late hears it all the same"
    (found,) = engine.domains(DESTINATION)
    assert (found.name, found.state) == ("web", fsm.DomainState.RUNNING)
    assert [header.state for header in engine.migrations()] == ["committed"]
    assert engine.handles == {}


def test_abort_from_the_iteration(engine: SyncEngine, world: SimulatedWorld) -> None:
    reached, aborted = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        aborted.wait(60)

    world.at("make_durable", hold)
    handle = engine.start(request())
    assert reached.wait(60)
    with pytest.raises(TimeoutError):
        handle.wait(timeout_s=0)
    handle.abort()
    aborted.set()
    assert handle.wait().cause == "an abort was asked for"


def test_the_one_shot(world: SimulatedWorld, tmp_path: Path) -> None:
    told: list[str] = []
    result = migrate(request(), tmp_path / "j.db", world, on_record=lambda record: told.append(record.name))
    assert result.state == "committed"
    assert told[-1] == "finish-commit"
    assert threads() == set()


def test_bad_input_is_raised_where_it_is_called(engine: SyncEngine, tmp_path: Path) -> None:
    with pytest.raises(fsm.BadInput):
        engine.start(request(domain=""))
    with pytest.raises(fsm.BadInput):
        engine.ask("nobody", "abort")
    with pytest.raises(fsm.JournalUnavailable):
        SyncEngine.open("/proc/nowhere/journal.db", SimulatedWorld())
    assert threads() == {"fsm-engine"}


def test_closing_lets_go_and_another_engine_goes_on(world: SimulatedWorld, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    with SyncEngine.open(journal, world, limits=fsm.Limits(per_host=1)) as engine:
        world.at("make_durable", lambda: reached.set())
        reached = threading.Event()
        handle = engine.start(request())
        waiter = ThreadPoolExecutor(1)
        waiting = waiter.submit(handle.wait)
        assert reached.wait(60)
    end = waiting.exception(60) or waiting.result()
    assert isinstance(end, fsm.LetGo) or end.state == "committed"
    assert threads() == set()
    assert handle.ended
    waiter.shutdown()
    engine.close()  # once more does nothing
    for use in (lambda: engine.start(request()), handle.wait, handle.detach):
        with pytest.raises(fsm.LetGo):
            use()
    handle.abort()
    with SyncEngine.open(f"sqlite:///{journal}", world, clock=world.clock) as other:
        handles, left = other.resume_all()
        assert left == []
        assert [handle.wait().state for handle in handles] in (["committed"], [])
        assert [header.state for header in other.migrations()] == ["committed"]


def test_detach_lets_go_of_one(engine: SyncEngine, world: SimulatedWorld) -> None:
    world.at("make_durable", lambda: detaching.wait(60))
    detaching = threading.Event()
    handle = engine.start(request())
    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(handle.detach)
        detaching.set()
        done.result(60)
    assert handle.ended
    resumed = engine.resume(handle.migration) if handle.state != "committed" else handle
    assert resumed.wait().state == "committed"


def test_a_callback_can_not_wait_for_its_own_migration(engine: SyncEngine) -> None:
    errors: list[BaseException] = []

    def on_record(record: Record) -> None:
        for handle in engine.handles.values():
            try:
                handle.wait()
            except RuntimeError as error:
                errors.append(error)

    assert engine.migrate(request(), on_record=on_record).state == "committed"
    assert errors


def test_a_callback_may_begin_another_migration(engine: SyncEngine, world: SimulatedWorld) -> None:
    world.add_domain(SOURCE, "next", snapshots=SNAPSHOTS)
    begun: list[SyncHandle] = []

    def on_record(record: Record) -> None:
        if record.dest == "committed" and record.phase == "outcome":
            begun.append(engine.start(request(domain="next")))

    engine.migrate(request(), on_record=on_record)
    assert [handle.wait().state for handle in begun] == ["committed"]


def test_many_threads_share_an_engine(engine: SyncEngine, world: SimulatedWorld) -> None:
    names = [f"d{number}" for number in range(8)]
    for name in names:
        world.add_domain(SOURCE, name, snapshots=SNAPSHOTS)
    with ThreadPoolExecutor(8) as executor:
        results = executor.map(lambda name: engine.migrate(request(domain=name)), names)
        assert [result.state for result in results] == ["committed"] * 8


def test_an_engine_in_a_loop_and_one_in_a_thread_are_the_same(world: SimulatedWorld, tmp_path: Path) -> None:
    """A program may change from the one to the other: they share a journal."""

    async def begin() -> str:
        async with Engine.open(tmp_path / "j.db", world, clock=world.clock) as engine:
            handle = await engine.start(request())
            await handle.detach()
            return handle.migration

    migration = asyncio.run(begin())
    with SyncEngine.open(open_journal(tmp_path / "j.db"), world, clock=world.clock) as engine:
        assert engine.resume(migration).wait().state == "committed"


INTERRUPTED = """
import json, os, signal, sys, threading
import fsm
from fsm.hypervisor.simulated import SimulatedWorld

world = SimulatedWorld()
for uri in ("sim://alpha/system", "sim://beta/system"):
    world.add_host(uri)
world.add_domain("sim://alpha/system", "web", snapshots={"s1": None})
released = threading.Event()
# Held in the engine's thread until the main one has been interrupted.
world.at("make_durable", lambda: (os.kill(os.getpid(), signal.SIGINT), released.wait(60)))
request = fsm.Request("web", source_uri="sim://alpha/system", destination_uri="sim://beta/system")
seen = {}
try:
    with fsm.SyncEngine.open(sys.argv[1], world, clock=world.clock) as engine:
        handle = engine.start(request)
        try:
            for _ in (handle.events if sys.argv[2] == "events" else [handle.wait()]):
                pass
        finally:
            released.set()
except KeyboardInterrupt:
    seen["interrupted"] = True
seen["threads"] = [one.name for one in threading.enumerate() if one.name.startswith("fsm")]
with fsm.SyncEngine.open(sys.argv[1], world, clock=world.clock) as engine:
    for handle in engine.resume_all()[0]:
        handle.wait()
    seen["state"] = [header.state for header in engine.migrations()]
print(json.dumps(seen))
"""


@pytest.mark.parametrize("where", ["wait", "events"])
def test_ctrl_c_lets_go_and_leaves_no_thread(tmp_path: Path, where: str) -> None:
    words = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "journal.db"), where]
    finished = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert json.loads(finished.stdout) == {"interrupted": True, "threads": [], "state": ["committed"]}


def test_a_program_that_forgets_to_close_it_ends_all_the_same(tmp_path: Path) -> None:
    words = "import fsm, sys\nfrom fsm.hypervisor.simulated import SimulatedWorld\n"
    words += "engine = fsm.SyncEngine.open(sys.argv[1], SimulatedWorld())\nprint('opened')"
    finished = subprocess.run(
        [sys.executable, "-c", words, str(tmp_path / "j.db")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (0, "opened\n")
