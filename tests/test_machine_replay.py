"""Replay in itself: the same decisions as decide and interpreter, and every kind of trouble by its name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm.errors import JournalCorrupt, ReplayDivergence
from fsm.journal.events import Decided
from fsm.journal.logfile import LogReader
from fsm.machine.decision import Verb, decide
from fsm.machine.interpreter import Interpreter
from fsm.machine.loader import load_default
from fsm.machine.observation import Observation
from fsm.machine.replay import Decider, Replay
from fsm.machine.spec import Spec
from tests.log_helpers import SCENARIOS, golden
from tests.machine_helpers import changed, observations, space

SPEC = load_default()
LIVE = [state.name for state in SPEC.states.values() if state.recover]


def decided_plainly(interpreter: Interpreter, state: str, seen: Observation) -> tuple[str, str]:
    decision = decide(interpreter.spec, state, seen)
    if decision.verb is Verb.FIRE:
        return decision.trigger, interpreter.fire(state, decision.trigger, seen).dest
    if decision.verb is Verb.CONTINUE:
        return interpreter.spec.states[state].activity or "", ""
    return "", ""


@pytest.mark.parametrize("state", LIVE)
def test_remembered_decisions_are_those_of_the_interpreter(state: str) -> None:
    """Over all observations that the state can tell apart, each asked twice."""
    decider, interpreter = Decider(SPEC), Interpreter(SPEC)
    for seen in space(SPEC, state):
        wanted = decided_plainly(interpreter, state, seen)
        for _ in range(2):
            verdict = decider.decide(state, seen)
            assert (verdict.name, verdict.dest) == wanted


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(LIVE), st.lists(observations, min_size=1, max_size=5))
def test_nor_does_a_real_observation_meet_the_memory_of_another(state: str, seen: list[Observation]) -> None:
    decider, interpreter = Decider(SPEC), Interpreter(SPEC)
    for one in seen:
        verdict = decider.decide(state, one)
        assert (verdict.name, verdict.dest) == decided_plainly(interpreter, state, one)


# Logs


def log_of(name: str = "committed") -> list[Decided]:
    return list(LogReader([golden(name)]))


def replayed(events: list[Decided], spec: Spec = SPEC) -> Replay:
    replay = Replay(spec)
    for event in events:
        replay.take(event)
    return replay


def edited(events: list[Decided], sequence: int, **values: Any) -> list[Decided]:
    return [
        msgspec.structs.replace(event, **values) if event.sequence == sequence else event for event in events
    ]


def first(events: list[Decided], kind: str, name: str) -> Decided:
    return next(event for event in events if (event.event, event.name) == (kind, name))


def test_interleaved_migrations_do_not_disturb_each_other() -> None:
    logs = [log_of(name) for name in SCENARIOS]
    mixed = [log[i] for i in range(max(map(len, logs))) for log in logs if i < len(log)]
    assert replayed(mixed).migrations == len(SCENARIOS)


def test_what_has_ended_is_forgotten() -> None:
    replay = replayed(log_of())
    assert replay._courses == {}


def test_another_trigger_than_decided() -> None:
    events = log_of()
    intent = first(events, "transition-intent", "switch-over")
    with pytest.raises(ReplayDivergence) as caught:
        replayed(edited(events, intent.sequence, name="fail-migration", dest="rolling-back-source"))
    error = caught.value
    assert (error.migration, error.sequence, error.state) == ("committed", intent.sequence, "transferring")
    assert "'fail-migration'" in error.recorded
    assert "'switch-over' to 'committing-dest'" in error.decided
    assert "owned-by-source" in error.guards
    assert "owned-by-source" in str(error)
    assert error.remedy


def test_another_destination_than_decided() -> None:
    events = log_of()
    intent = first(events, "transition-intent", "start")
    with pytest.raises(ReplayDivergence, match="another transition"):
        replayed(edited(events, intent.sequence, dest="stuck"))


def test_an_observation_that_was_changed_afterwards() -> None:
    events = log_of()
    intent = first(events, "transition-intent", "transfer")
    assert intent.observation is not None
    engine = evolve(intent.observation.engine, copies_verified=False)
    seen = evolve(intent.observation, engine=engine)
    with pytest.raises(ReplayDivergence) as caught:
        replayed(edited(events, intent.sequence, observation=seen))
    assert caught.value.guards == ("copies-verified",)


def _recover(data: dict[str, Any], state: str, do: str, *, live: bool = False) -> dict[str, Any]:
    rows: list[dict[str, Any]] = data["states"][state]["recover"]
    return next(row for row in rows if row["do"] == do and not (live and "moves-shut-off" in row["when"]))


@pytest.mark.parametrize(
    ("name", "edit", "sequence_of", "guards"),
    [
        # A condition more: what was decided does not hold any more.
        (
            "committed",
            lambda data: _recover(data, "snapshotted", "transfer", live=True)["when"].append(
                "abort-requested"
            ),
            ("transition-intent", "transfer"),
            ("abort-requested",),
        ),
        # A row in front of the recorded one.
        (
            "committed",
            lambda data: data["states"]["transferring"]["recover"].insert(
                0, {"when": ["destination-on-base"], "do": "wait"}
            ),
            ("nothing", ""),
            (),
        ),
        (
            "rolled-back",
            lambda data: data["states"]["transferring"]["recover"].insert(
                0, {"when": ["step-failed"], "do": "wait"}
            ),
            ("transition-intent", "fail-migration"),
            ("step-failed",),
        ),
        # A trigger that its own transitions refuse.
        (
            "rolled-back",
            lambda data: data["states"]["transferring"]["recover"].insert(
                0, {"when": ["step-failed"], "do": "lose-sight"}
            ),
            ("transition-intent", "fail-migration"),
            ("overdue",),
        ),
        # The row is gone.
        (
            "committed",
            lambda data: data["states"]["committing-dest"]["recover"].remove(
                _recover(data, "committing-dest", "finish-commit")
            ),
            ("transition-intent", "finish-commit"),
            ("owned-by-destination", "destination-untangled"),
        ),
        # Another destination.
        (
            "committed",
            lambda data: next(row for row in data["transitions"] if row["trigger"] == "start").update(
                dest="stuck"
            ),
            ("transition-intent", "start"),
            ("preflight-passed", "moves-live", "source-untangled"),
        ),
    ],
)
def test_a_changed_machine_diverges_where_it_was_changed(
    name: str, edit: Any, sequence_of: tuple[str, str], guards: tuple[str, ...]
) -> None:
    events, spec = log_of(name), changed(edit)
    if sequence_of[0] == "nothing":
        replayed(events, spec)
        return
    with pytest.raises(ReplayDivergence) as caught:
        replayed(events, spec)
    assert caught.value.sequence == first(events, *sequence_of).sequence
    assert caught.value.guards == guards


def test_a_state_that_the_machine_does_not_have() -> None:
    with pytest.raises(ReplayDivergence, match="no state 'elsewhere'"):
        replayed(edited(log_of(), 1, state="elsewhere")[:1])


LOG = log_of()
INTENT = first(LOG, "transition-intent", "start").sequence
START = first(LOG, "transition-outcome", "start").sequence  # behind its intent and several actions


def _without(*sequences: int) -> list[Decided]:
    return [event for event in LOG if event.sequence not in sequences]


@pytest.mark.parametrize(
    ("events", "sequence", "told"),
    [
        pytest.param(_without(5), 6, "1 between them", id="action"),
        pytest.param(_without(2, 3, 4), 5, "follows on record 1: 3 between", id="several"),
        pytest.param(_without(START), START + 1, "1 between", id="outcome"),
        pytest.param([*LOG[:5], *LOG[3:]], 4, "second time", id="twice"),
        pytest.param([LOG[1], LOG[0]], 1, "second time, or too late", id="order"),
        pytest.param(edited(LOG, 4, state="stuck"), 4, "lead to 'planned'", id="state"),
        pytest.param(edited(LOG, START, dest="stuck"), START, "not begun", id="dest"),
        pytest.param(edited(LOG, START, name="stop-domain"), START, "not begun", id="trigger"),
        pytest.param(edited(LOG, START, error="it failed"), START + 1, "lead to 'planned'", id="error"),
        pytest.param(
            edited(LOG, INTENT, observation=None), INTENT, "without the observation", id="observation"
        ),
    ],
)
def test_a_log_that_is_not_whole(events: list[Decided], sequence: int, told: str) -> None:
    with pytest.raises(JournalCorrupt) as caught:
        replayed(events)
    assert told in str(caught.value)
    assert f"record {sequence} of migration committed" in str(caught.value)


def test_behind_damage_the_rest_is_replayed() -> None:
    replay, damaged = Replay(SPEC), 0
    for event in _without(INTENT + 2):
        try:
            replay.take(event)
        except JournalCorrupt:
            damaged += 1
    assert damaged == 1
    assert replay._courses == {}


def test_what_an_engine_had_not_logged_when_it_died_is_no_damage() -> None:
    events = log_of("taken-over")
    taken = next(event for event in events if event.lease == 2)
    replay = replayed([event for event in events if event.sequence != taken.sequence - 1])
    assert replay.missing == 1


def test_a_log_may_begin_in_the_middle() -> None:
    assert replayed(log_of()[START:]).missing == START
