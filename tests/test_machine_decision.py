"""What is decided in the cases that the procedure knows."""

from __future__ import annotations

import pytest

from fsm.machine.decision import Verb, decide
from fsm.machine.interpreter import Interpreter
from fsm.machine.loader import load_default
from fsm.machine.observation import (
    Activity,
    Disk,
    Engine,
    Host,
    Job,
    Layer,
    Observation,
    Preflight,
)
from tests.machine_helpers import ABSENT, BASE, FENCED, GONE, changed, paused, running, shut_off

SPEC = load_default()
BEGUN = Engine(preflight=Preflight.PASSED, copies_verified=True, transfer_begun=True, activity=Activity.BEGUN)
OVERDUE = Engine(Preflight.PASSED, copies_verified=True, transfer_begun=True, overdue=True)
FAILED = Engine(Preflight.PASSED, transfer_begun=True, step_failed=True, attempts_left=False)
FOREIGN = (Disk("vda", Layer.FOREIGN),)


def verdict(state: str, source: Host, destination: Host, engine: Engine = BEGUN) -> str:
    """What is done: the trigger's name, ``continue`` or ``wait``."""
    decision = decide(SPEC, state, Observation(source, destination, engine))
    return decision.trigger or str(decision.verb)


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (running(Job.MIGRATION_OUT), ABSENT, "continue"),
        (running(Job.MIGRATION_OUT), paused("migration", Job.MIGRATION_IN), "continue"),
        (running(), ABSENT, "fail-migration"),
        (ABSENT, running(), "switch-over"),
        (shut_off(), running(), "switch-over"),
        (FENCED, running(), "switch-over"),
        (paused("migration"), running(), "supersede-source"),
        (paused("migration"), ABSENT, "fail-migration"),
        (paused("migration"), FENCED, "wait"),
        (running(), running(), "find-split-brain"),
        (shut_off(), ABSENT, "stop-domain"),
        (running(), GONE, "wait"),
        (GONE, running(), "wait"),
        (GONE, GONE, "wait"),
        (running(), FENCED, "fail-migration"),
        (ABSENT, ABSENT, "find-unexpected"),
        (running(disks=FOREIGN), ABSENT, "find-unexpected"),
    ],
)
def test_transferring(source: Host, destination: Host, expected: str) -> None:
    assert verdict("transferring", source, destination) == expected


@pytest.mark.parametrize(
    ("state", "source", "destination", "engine", "expected"),
    [
        ("transferring", running(), GONE, OVERDUE, "lose-sight"),
        ("transferring", GONE, running(), OVERDUE, "lose-sight"),
        ("transferring", running(), ABSENT, Engine(Preflight.PASSED), "continue"),
        ("transferring", running(), ABSENT, Engine(Preflight.PASSED, abort_requested=True), "abort"),
        ("committing-dest", ABSENT, running(), BEGUN, "continue"),
        ("committing-dest", ABSENT, running(disks=BASE), BEGUN, "finish-commit"),
        ("committing-dest", ABSENT, paused("io-error"), BEGUN, "continue"),
        ("committing-dest", ABSENT, paused("io-error"), FAILED, "fail-commit"),
        ("committing-dest", GONE, running(), BEGUN, "wait"),
        ("committing-dest", GONE, running(), OVERDUE, "lose-sight"),
        ("committing-dest", FENCED, running(), BEGUN, "continue"),
        ("committing-dest", ABSENT, GONE, BEGUN, "wait"),
        ("committing-dest", running(), running(), BEGUN, "find-split-brain"),
        ("committing-dest", ABSENT, running(disks=FOREIGN), BEGUN, "find-unexpected"),
        ("rolling-back-source", running(), ABSENT, BEGUN, "continue"),
        ("rolling-back-source", running(disks=BASE), ABSENT, BEGUN, "finish-rollback"),
        ("rolling-back-source", shut_off(), ABSENT, BEGUN, "continue"),
        ("rolling-back-source", running(), GONE, BEGUN, "wait"),
        ("rolling-back-source", running(), FENCED, BEGUN, "continue"),
        ("rolling-back-source", running(), GONE, Engine(Preflight.PASSED), "continue"),
        ("rolling-back-source", running(disks=BASE), GONE, Engine(Preflight.PASSED), "finish-rollback"),
        ("rolling-back-source", running(), running(), BEGUN, "find-split-brain"),
        ("rolling-back-source", running(), ABSENT, FAILED, "fail-commit"),
        ("stuck", ABSENT, running(), OVERDUE, "wait"),
        ("planned", ABSENT, ABSENT, Engine(), "continue"),
        ("planned", ABSENT, ABSENT, Engine(Preflight.REFUSED), "refuse"),
        ("planned", running(disks=BASE), ABSENT, Engine(Preflight.PASSED), "start"),
        ("planned", running(disks=BASE), shut_off(), Engine(Preflight.PASSED), "refuse-start"),
        ("snapshotted", running(), ABSENT, Engine(Preflight.PASSED), "continue"),
        ("snapshotted", running(), ABSENT, Engine(Preflight.PASSED, copies_verified=True), "transfer"),
        ("snapshotted", shut_off(), ABSENT, Engine(Preflight.PASSED), "stop-domain"),
        ("snapshotted", running(), ABSENT, Engine(Preflight.PASSED, abort_requested=True), "abort"),
    ],
)
def test_case(state: str, source: Host, destination: Host, engine: Engine, expected: str) -> None:
    assert verdict(state, source, destination, engine) == expected


@pytest.mark.parametrize(
    ("source", "destination", "dest"),
    [
        (ABSENT, running(), "committing-dest"),
        (paused("migration"), running(), "transferring"),
        (running(Job.MIGRATION_OUT), paused("migration", Job.MIGRATION_IN), "transferring"),
        (running(), ABSENT, "rolling-back-source"),
    ],
)
def test_out_of_stuck_the_hosts_show_the_way(source: Host, destination: Host, dest: str) -> None:
    seen = Observation(source, destination, Engine(Preflight.PASSED, transfer_begun=True, retry_due=True))
    decision = decide(SPEC, "stuck", seen)
    assert Interpreter(SPEC).fire("stuck", decision.trigger, seen).dest == dest


def test_no_decision_in_a_final_state() -> None:
    with pytest.raises(LookupError):
        decide(SPEC, "committed", Observation(ABSENT, running()))


def test_the_first_row_wins() -> None:
    spec = changed(lambda data: data["states"]["stuck"]["recover"].insert(0, {"when": [], "do": "continue"}))
    decision = decide(spec, "stuck", Observation(ABSENT, ABSENT))
    assert (decision.verb, decision.row.when) == (Verb.CONTINUE, ())
