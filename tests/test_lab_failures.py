"""A migration that somebody stops: an interrupt aborts it, and one that is let go of can be taken over."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.faults.scene import COMMIT, SLOW, WEB, Scene, copying, memory_moves, new_scene
from tests.lab_rig import NEEDS_LAB, Event, check_kept, check_untouched, watched

pytestmark = NEEDS_LAB

COMMITTED, LET_GO, ROLLED_BACK = 0, 1, 3


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with new_scene(tmp_path_factory.mktemp("labs")) as scene:
        yield scene


@pytest.mark.parametrize("moment", [copying, memory_moves], ids=["copy", "memory"])
def test_one_interrupt_aborts_cleanly(scene: Scene, moment: Callable[[Event], bool]) -> None:
    rig, before, source = scene.rig, scene.ready(), scene.source
    with watched(rig, WEB) as watch, rig.migrating(WEB.name, source, *SLOW, *COMMIT) as running:
        assert running.until(moment), running.events[-5:]
        running.send(signal.SIGINT)
        code, _ = running.finish()
    assert code == ROLLED_BACK, running.errors.read_text()
    check_kept(rig, WEB, before, source, watch.acks)
    check_untouched(rig, before, rig.other(source))
    assert rig.unfinished() == []


def test_sigterm_lets_go_and_resume_takes_over(scene: Scene) -> None:
    rig, before, source = scene.rig, scene.ready(), scene.source
    with watched(rig, WEB) as watch:
        with rig.migrating(WEB.name, source, *SLOW, *COMMIT) as running:
            assert running.until(memory_moves)
            running.send(signal.SIGTERM)
            code, last = running.finish()
        assert code == LET_GO
        assert "fsm resume" in last["text"]
        (migration,) = rig.unfinished()
        resumed = rig.fsm("resume", migration)
    assert resumed.returncode in (COMMITTED, ROLLED_BACK), resumed.stderr
    at = source if resumed.returncode == ROLLED_BACK else rig.other(source)
    check_kept(rig, WEB, before, at, watch.acks)
