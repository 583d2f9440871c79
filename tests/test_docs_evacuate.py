"""The example of an orchestrator, on simulated hosts."""

from __future__ import annotations

import os
import re
import runpy
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import fsm
from fsm.engine import engine
from fsm.hypervisor.simulated import Moment, SimulatedWorld
from fsm.machine.observation import DomainState
from tests.documented import DOCS, blocks

EXAMPLE = DOCS / "examples" / "evacuate.py"
UNEXPECTED, BAD_INPUT, ROLLED_BACK, STUCK, REFUSED = 1, 2, 3, 4, 5
(COMMAND,) = blocks(DOCS / "embedding.md")
A, B, C = (f"sim://{name}/system" for name in "abc")


@pytest.fixture
def world() -> SimulatedWorld:
    """A host with four running domains and one that is shut off, and two that are empty."""
    world = SimulatedWorld()
    for uri in (A, B, C):
        world.add_host(uri)
    for name in ("web", "db", "mail", "cache"):
        world.add_domain(A, name, snapshots={"s1": None})
    world.add_domain(A, "old", state=DomainState.SHUT_OFF)
    return world


@pytest.fixture
def evacuate(world: SimulatedWorld, tmp_path: Path) -> Callable[..., int]:
    """Runs it as a command with a journal of its own."""
    main = runpy.run_path(str(EXAMPLE))["main"]

    def run(*words: str) -> int:
        code: int = main(["--journal", str(tmp_path / "journal.db"), *words], world)
        return code

    return run


def where(world: SimulatedWorld, tmp_path: Path) -> dict[str, list[str]]:
    """The names of the domains on each host."""
    with fsm.SyncEngine.open(tmp_path / "look.db", world) as engine:
        return {uri: [domain.name for domain in engine.domains(uri)] for uri in (A, B, C)}


def test_all_running_domains_go_in_turn(
    world: SimulatedWorld, evacuate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evacuate("--per-host", "2", "--per-link", "1", A, B, C) == 0
    assert where(world, tmp_path) == {A: ["old"], B: ["cache", "mail"], C: ["db", "web"]}
    said, errors = capsys.readouterr()
    assert errors == ""
    assert "old: stays, it is shut-off" in said
    assert "web: waiting" in said
    assert "web: snapshotted -> transferring" in said
    assert re.search(rf"web: committed \(migration \w+ to {C}\)", said)


def test_the_command_as_the_page_shows_it(
    world: SimulatedWorld, evacuate: Callable[..., int], tmp_path: Path
) -> None:
    python, path, *words = COMMAND.split()
    assert (python, DOCS.parent / path) == ("python", EXAMPLE)
    assert evacuate(*(re.sub(r"qemu\+ssh://root@", "sim://", word) for word in words)) == 0
    assert where(world, tmp_path)[A] == ["old"]


def test_what_was_refused_and_rolled_back_is_told_with_what_to_do(
    world: SimulatedWorld, evacuate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.add_domain(A, "temporary", persistent=False)
    web = world.add_domain(A, "webby", snapshots={"s1": None})
    world.at_moment(web, Moment.MEMORY, lambda: world.kill_qemu(B, web))
    assert evacuate(A, B) == ROLLED_BACK
    assert where(world, tmp_path) == {
        A: ["old", "temporary", "webby"],
        B: ["cache", "db", "mail", "web"],
        C: [],
    }
    said, errors = capsys.readouterr()
    assert "temporary: refused (migration " in said
    assert "webby: rolled-back (migration " in said
    assert "transient" in errors
    assert errors.count("what to do: ") == 2
    assert evacuate(A, C) == REFUSED
    assert where(world, tmp_path)[A] == ["old", "temporary"]


def test_a_stuck_one_counts_most_and_the_next_run_goes_on_with_it(
    world: SimulatedWorld,
    evacuate: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "SystemClock", lambda: world.clock)
    web = world.add_domain(A, "webby", snapshots={"s1": None})
    world.at_moment(web, Moment.MEMORY, lambda: world.power_off(B))
    assert evacuate("--per-host", "1", A, B) == STUCK
    said, errors = capsys.readouterr()
    assert "webby: stuck (migration " in said
    assert "can't be reached" in errors
    assert "fsm retry" in errors
    world.power_on(B)
    assert evacuate(A, C) == ROLLED_BACK, "it went on with the one that was stuck"
    assert evacuate(A, C) == 0
    assert where(world, tmp_path)[A] == ["old"]


def test_ctrl_c_rolls_back_and_a_second_run_evacuates(
    world: SimulatedWorld,
    evacuate: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aborted, abort = threading.Event(), fsm.SyncHandle.abort

    def noted(handle: fsm.SyncHandle) -> None:
        abort(handle)
        aborted.set()

    monkeypatch.setattr(fsm.SyncHandle, "abort", noted)
    # The engine is held there until the main thread has been interrupted.
    world.at("make_durable", lambda: (os.kill(os.getpid(), signal.SIGINT), aborted.wait(60)))
    assert evacuate("--per-host", "1", A, B) == UNEXPECTED
    said, errors = capsys.readouterr()
    assert "rolling back" in errors
    assert "rolled-back" in said
    assert where(world, tmp_path)[B] == []
    assert evacuate(A, B) == 0
    assert where(world, tmp_path)[A] == ["old"]


@pytest.mark.parametrize("words", [("--per-host", "0", A, B), (A, "nonsense")])
def test_bad_input(
    evacuate: Callable[..., int], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evacuate(*words) == BAD_INPUT
    assert "what to do: " in capsys.readouterr().err
