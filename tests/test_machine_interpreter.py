"""The library's traps stay closed: no jumps past a guard, no silence, no strings, no half-taken rows."""

from __future__ import annotations

import sys

import pytest

from fsm.errors import TransitionRefused
from fsm.machine.conditions import CONDITIONS
from fsm.machine.interpreter import Interpreter
from fsm.machine.loader import load_default
from fsm.machine.observation import Engine, Observation
from fsm.machine.spec import Kind, Row, Spec, State
from tests.machine_helpers import ABSENT, GONE, running

SPEC = load_default()
READY = Observation(running(), ABSENT, Engine(copies_verified=True))


def small(*rows: Row) -> Spec:
    states = ("planned", "snapshotted", "refused")
    kinds = (Kind.INITIAL, Kind.TRANSIENT, Kind.FINAL)
    return Spec(
        {name: State(name, kind, "", frozenset()) for name, kind in zip(states, kinds, strict=True)}, rows
    )


def test_fire_returns_the_row_itself() -> None:
    row = Interpreter(SPEC).fire("snapshotted", "transfer", READY)
    assert row in SPEC.rows
    assert (row.trigger, row.source, row.dest) == ("transfer", "snapshotted", "transferring")


@pytest.mark.parametrize("state", SPEC.states)
@pytest.mark.parametrize("target", SPEC.states)
def test_there_are_no_automatic_triggers(state: str, target: str) -> None:
    interpreter = Interpreter(SPEC)
    for name in (f"to_{target}", f"may_{target}", f"is_{target}", target):
        with pytest.raises(TransitionRefused):
            interpreter.fire(state, name, READY)


def test_refusal_names_every_condition_that_does_not_hold() -> None:
    with pytest.raises(TransitionRefused) as refusal:
        Interpreter(SPEC).fire("committing-dest", "finish-commit", Observation(GONE, GONE))
    row = next(row for row in SPEC.rows if row.trigger == "finish-commit")
    assert len(row.conditions) > 1
    assert refusal.value.failed_guards == row.conditions
    for name in row.conditions:
        assert name in str(refusal.value)


def test_refusal_names_conditions_of_all_rows_once() -> None:
    with pytest.raises(TransitionRefused) as refusal:
        Interpreter(SPEC).fire("stuck", "retry", Observation(GONE, GONE))
    rows = [row for row in SPEC.rows if row.trigger == "retry"]
    wanted = {name for row in rows for name in row.conditions if not name.endswith("-unaltered")}
    assert set(refusal.value.failed_guards) == wanted
    assert len(set(refusal.value.failed_guards)) == len(refusal.value.failed_guards)


def test_unknown_trigger_is_a_typed_refusal() -> None:
    with pytest.raises(TransitionRefused) as refusal:
        Interpreter(SPEC).fire("planned", "no-such-thing", READY)
    assert (refusal.value.state, refusal.value.trigger) == ("planned", "no-such-thing")
    assert refusal.value.failed_guards == ()
    assert "no such row" in str(refusal.value)


def test_final_state_takes_no_trigger() -> None:
    for trigger in SPEC.triggers:
        with pytest.raises(TransitionRefused):
            Interpreter(SPEC).fire("committed", trigger, READY)


def test_unknown_state_is_an_error_not_a_transition() -> None:
    with pytest.raises(ValueError, match="no-such-state"):
        Interpreter(SPEC).fire("no-such-state", "transfer", READY)


def test_a_refusal_leaves_nothing_behind() -> None:
    """No position is kept between calls: what came before makes no difference."""
    fresh, used = Interpreter(SPEC), Interpreter(SPEC)
    used.fire("snapshotted", "transfer", READY)
    for state, trigger in (("snapshotted", "switch-over"), ("planned", "transfer"), ("refused", "abort")):
        with pytest.raises(TransitionRefused):
            used.fire(state, trigger, READY)
    assert used.fire("snapshotted", "transfer", READY) == fresh.fire("snapshotted", "transfer", READY)
    assert load_default() == SPEC


def test_misspelt_condition_fails_before_anything_is_fired() -> None:
    with pytest.raises(KeyError, match="source-activ"):
        Interpreter(small(Row("go", "planned", "snapshotted", ("source-activ",))))


def test_strings_are_never_imported() -> None:
    """The library would import the module of a dotted callback name and call the function."""
    module = "wsgiref.handlers"
    assert module not in sys.modules
    with pytest.raises(KeyError):
        Interpreter(small(Row("go", "planned", "snapshotted", (f"{module}.read_environ",))))
    row = Row("go", "planned", "snapshotted", actions=(f"{module}.read_environ",))
    assert Interpreter(small(row)).fire("planned", "go", READY) == row
    assert module not in sys.modules


@pytest.mark.parametrize("trigger", ["state", "trigger", "taken", "fire", "may-go", "initial"])
def test_any_name_will_do_for_a_trigger(trigger: str) -> None:
    row = Row(trigger, "planned", "snapshotted")
    interpreter = Interpreter(small(row, Row("end", "snapshotted", "refused")))
    assert interpreter.fire("planned", trigger, READY) == row
    with pytest.raises(TransitionRefused):
        interpreter.fire("snapshotted", trigger, READY)


def test_two_rows_of_one_trigger_go_where_their_conditions_lead() -> None:
    away = Row("go", "planned", "refused", ("source-unknown",))
    on = Row("go", "planned", "snapshotted", ("source-known",))
    interpreter = Interpreter(small(away, on))
    assert interpreter.fire("planned", "go", READY) == on
    assert interpreter.fire("planned", "go", Observation(GONE, ABSENT)) == away


def test_an_error_in_a_condition_is_not_taken_for_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = Interpreter(small(Row("go", "planned", "snapshotted", ("source-active",))))
    monkeypatch.setattr("fsm.machine.traits.active", lambda _host: (_ for _ in ()).throw(KeyError("defect")))
    assert CONDITIONS["source-active"]
    with pytest.raises(KeyError, match="defect"):
        interpreter.fire("planned", "go", READY)
