"""One cell: migrate, do harm in the state, remove its cause, go on until the end, and look what is left."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from attrs import define, evolve, field, frozen

from fsm.errors import FsmError
from fsm.journal.records import Phase, Step
from fsm.journal.sql import open_journal
from fsm.lab import Guest, LabError, LabHost, SerialWatch
from tests.faults.aftermath import Aftermath, look_after
from tests.faults.cells import Cell
from tests.faults.harm import HARMS, Place, TooLate, make_unwritable, make_writable, resume_guest
from tests.faults.scene import (
    SLOW,
    WEB,
    Scene,
    begun,
    committing,
    copying,
    entered,
    is_held,
    memory_moves,
    new_scene,
)
from tests.lab_rig import Event, Rig, Running, by_nbd

RIGHT, WRONG, SKIPPED = "right", "wrong", "skipped"
TRIES = 3
"""How often a cell is tried whose fault came too late for its state."""
RESUMES = 3
"""How often `fsm resume` is run until the migration is final."""
PATIENCE_S = 20.0
"""How long a fault without a duration stays, should the engine not end before."""

FINAL = ("committed", "rolled-back", "refused")
MOMENTS = {
    "planned": begun("preflight"),
    "snapshotted": copying,
    "transferring": memory_moves,
    "committing-dest": committing,
    "rolling-back-source": committing,
    "stuck": entered("stuck"),
}


@frozen
class Row:
    """One line of the table. Times are None where they do not apply.

    ``why`` tells what is wrong, why the cell was skipped, or what help a right one needed.
    """

    cell: Cell
    verdict: str
    why: str = ""
    ended: str = ""
    aftermath: Aftermath | None = None
    stall_ms: float | None = None
    stall_resolution_ms: float | None = None
    takeover_s: float | None = None
    seconds: float = 0.0
    causes: tuple[str, ...] = ()


@define
class Story:
    """What is learnt while a cell runs."""

    takeover_s: float | None = None
    hung: bool = False
    advised: str = ""
    harmed_at: datetime | None = None
    causes: list[str] = field(factory=list)


class Stage(AbstractContextManager["Stage"]):
    """Runs cells one after the other on one lab, and on a new one where a cell wants it or has spoilt it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lab = ExitStack()
        self._scene: Scene | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lab.close()

    def run(self, cell: Cell) -> Row:
        """The cell's row; of one that ended wrong its history is told."""
        if cell.why_not:
            return Row(cell, SKIPPED, cell.why_not)
        if self._scene is None or cell.fault.fresh:
            self._lab.close()
            directory = self._lab.enter_context(tempfile.TemporaryDirectory(prefix="fsm-faults-"))
            self._scene = self._lab.enter_context(new_scene(Path(directory)))
        scene = self._scene
        try:
            row = _run(scene, cell)
        except (FsmError, subprocess.TimeoutExpired) as error:
            row = Row(cell, WRONG, f"could not be run: {error}")
        if row.verdict == WRONG:
            self._tell(history(scene.rig))
            self._scene = None
        return row


def _run(scene: Scene, cell: Cell) -> Row:
    for _ in range(TRIES):
        try:
            return _attempt(scene, cell)
        except TooLate as error:
            late = str(error)
    return Row(cell, WRONG, f"never hit: {late}")


def _attempt(scene: Scene, cell: Cell) -> Row:
    began = time.monotonic()
    before = scene.ready()
    source, story = scene.source, Story()
    with SerialWatch(*scene.rig.lab.serial_logs(WEB.name)) as watch:
        try:
            _migrate(cell, scene.rig, source, story)
        finally:  # also where the fault came too late: the next attempt needs the guest in one place
            _finish(scene.rig, story)
        ended = _state(scene.rig)
        after = look_after(scene.rig, WEB, before, watch.acks)
        if after.running:
            at = next(host for host in scene.rig.lab.hosts if host.name == after.hosts[0])
            Guest(at, WEB.name, WEB).wait_for_writes(timeout=PATIENCE_S)
    _check_hit(scene.rig, cell, story)
    why = judge(cell, source.name, scene.rig.other(source).name, ended, after)
    if story.hung:
        why = "; ".join(filter(None, ("the command came to no end", why)))
    gap = watch.longest_gap()
    stalled = not cell.stops_guest
    return Row(
        cell=cell,
        verdict=WRONG if why else RIGHT,
        why=why or story.advised,
        ended=ended,
        aftermath=after,
        stall_ms=gap.ms if stalled else None,
        stall_resolution_ms=gap.resolution_ms if stalled else None,
        takeover_s=story.takeover_s,
        seconds=time.monotonic() - began,
        causes=tuple(story.causes),
    )


def judge(cell: Cell, source: str, destination: str, ended: str, after: Aftermath) -> str:
    """What is wrong about an end; empty when nothing is."""
    at = destination if ended == "committed" else source
    faults = [
        (ended not in cell.must_end, f"ended in {ended}"),
        (after.hosts != (at,), f"the domain is on {' and '.join(after.hosts) or 'no host'}"),
        (after.instances != (0 if cell.stops_guest else 1), f"{after.instances} instances"),
        (after.running == cell.stops_guest, "it runs" if after.running else "it does not run"),
        (after.acknowledged == 0, "no write was acknowledged"),
        (after.writes_lost > 0, f"{after.writes_lost} writes lost"),
        (after.snapshots_lost > 0, f"{after.snapshots_lost} snapshots lost"),
        (bool(after.leftovers), f"left behind: {', '.join(after.leftovers)}"),
        (bool(after.wrong), f"changed: {', '.join(after.wrong)}"),
    ]
    return "; ".join(text for holds, text in faults if holds)


# -- the migration and the fault


def _migrate(cell: Cell, rig: Rig, source: LabHost, story: Story) -> None:
    """Migrate until the command ends, with the fault on the way."""
    point = cell.failpoint
    program = evolve(rig, program=point.program()) if point else rig
    words = [*SLOW, f"--merge={cell.merge}", *(by_nbd(rig, source) if cell.transport == "nbd" else ())]
    with program.migrating(WEB.name, source, *words) as running:
        place = Place(rig, source, rig.other(source), running)
        with _commit_fails(cell, place):
            _lead_to(cell, running)
            if cell.fault.kills_at is None:
                _until(running, is_held if point else MOMENTS[cell.state])
                _disturb(cell, place, story)
            code, result = running.finish()
            if cell.fault.kills_at is not None and code != -signal.SIGKILL:
                raise LabError(f"the command never came to its failpoint: it ended with {code}")
    story.hung = code == -signal.SIGKILL and not cell.fault.name.startswith("engine")
    story.causes.append(result.get("cause") or running.errors.read_text().strip())


@contextmanager
def _commit_fails(cell: Cell, place: Place) -> Iterator[None]:
    """On the way to ``stuck``: the commit at the destination can't write to a base there."""
    if cell.state != "stuck":
        yield
        return
    _until(place.engine, memory_moves)
    make_unwritable(place)
    try:
        yield
    finally:
        make_writable(place)


def _lead_to(cell: Cell, running: Running) -> None:
    """What makes a migration come to the state at all."""
    if cell.state == "rolling-back-source":
        _until(running, memory_moves)
        running.send(signal.SIGINT)


def _until(running: Running, wanted: Callable[[Event], bool]) -> None:
    if running.until(wanted) is None:
        raise LabError(f"the migration never came so far: {running.events[-3:]} {running.errors.read_text()}")


def _disturb(cell: Cell, place: Place, story: Story) -> None:
    """Do harm; remove its cause when its time is over, whatever the migration does meanwhile."""
    harm = HARMS[cell.fault.name]
    causes = [harm.undo]
    causes += [make_writable] if cell.state == "stuck" else []
    causes += [resume_guest] if cell.outlasts_migration else []
    cure = Cure(lambda: [undo(place) for undo in causes])
    harm.do(place)
    story.harmed_at = datetime.now(UTC)
    lasts_s = cell.fault.lasts_s
    timer = threading.Timer(PATIENCE_S if lasts_s is None else lasts_s, cure.apply)
    timer.start()
    if cell.failpoint is not None:
        place.engine.go_on()
    if lasts_s is None:
        place.engine.until(entered("stuck"))
        cure.apply()
    elif cell.state != "stuck" and place.engine.until(entered("stuck")):
        story.advised = harm.advised(place)
    place.engine.until(lambda _event: False)
    timer.join() if lasts_s else timer.cancel()
    cure.apply()


class Cure:
    """Removes a fault's cause, once, from whichever thread comes first."""

    def __init__(self, undo: Callable[[], object]) -> None:
        self._undo = undo
        self._lock = threading.Lock()
        self._done = False

    def apply(self) -> None:
        """Do it, or wait until the other thread has."""
        with self._lock:
            if not self._done:
                self._undo()
                self._done = True


def _finish(rig: Rig, story: Story) -> None:
    """Resume until the migration is final; what it takes until the first decision is measured."""
    for _ in range(RESUMES):
        if _state(rig) in FINAL:
            return
        (migration,) = rig.unfinished()
        began = datetime.now(UTC)
        done = rig.fsm("resume", migration, "--json")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        if story.takeover_s is None:
            story.takeover_s = _first_decision_s(events, began)
        story.causes.append((events[-1].get("cause") if events else "") or done.stderr.strip())


def _first_decision_s(events: list[Event], began: datetime) -> float | None:
    for event in events:
        if event["event"] == "record" and event["phase"] == Phase.INTENT:
            return (datetime.fromisoformat(event["at"]) - began).total_seconds()
    return None


# -- what the journal says


def _state(rig: Rig) -> str:
    journal = open_journal(rig.journal)
    try:
        (header,) = journal.headers()
    finally:
        journal.close()
    return header.state


def history(rig: Rig) -> str:
    """What `fsm show` tells of the cell's migration."""
    ids = [json.loads(line)["migration"] for line in rig.fsm("list", "--json").stdout.splitlines()]
    return "".join(rig.fsm("show", migration).stdout for migration in ids)


def _check_hit(rig: Rig, cell: Cell, story: Story) -> None:
    """The state at the moment of the harm. A killed engine was killed exactly where it should."""
    if story.harmed_at is None:
        return
    journal = open_journal(rig.journal)
    try:
        (header,) = journal.headers()
        records = journal.records(header.migration)
    finally:
        journal.close()
    state = "planned"
    for record in records:
        if record.at is not None and record.at > story.harmed_at:
            break
        if (record.step, record.phase) == (Step.TRANSITION, Phase.OUTCOME) and not record.error:
            state = record.dest
    if state != cell.state:
        raise TooLate(f"the migration was in {state} already")
