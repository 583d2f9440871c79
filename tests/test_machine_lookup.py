"""The recovery tables as a reader looks them up say what is decided, and leave out nothing."""

from __future__ import annotations

import pytest

from fsm.machine.conditions import CONDITIONS
from fsm.machine.decision import decide
from fsm.machine.loader import load_default
from fsm.machine.lookup import DESTINATION_VIEWS, SOURCE_VIEWS, cases, lines
from fsm.machine.space import host_witnesses
from tests.machine_helpers import space

SPEC = load_default()
LIVE = [state for state in SPEC.states.values() if state.recover]


@pytest.mark.parametrize("state", LIVE, ids=lambda state: state.name)
def test_the_first_case_that_applies_is_what_is_decided(state) -> None:
    for seen in space(SPEC, state.name):
        applying = (
            case
            for case in cases(SPEC, state, seen)
            if all(CONDITIONS[name].holds(seen) for name in case.when)
        )
        assert next(applying).do == decide(SPEC, state.name, seen).row.do, seen


@pytest.mark.parametrize("state", LIVE, ids=lambda state: state.name)
def test_every_pair_of_views_stands_in_the_table_once(state) -> None:
    pairs = [
        (source, destination)
        for line in lines(SPEC, state)
        for source in line.sources
        for destination in line.destinations
    ]
    assert len(pairs) == len(set(pairs)) == len(SOURCE_VIEWS) * len(DESTINATION_VIEWS)


@pytest.mark.parametrize("state", LIVE, ids=lambda state: state.name)
def test_whatever_can_be_observed_is_decided_as_some_line_says(state) -> None:
    shown = {line.cases for line in lines(SPEC, state)}
    assert {cases(SPEC, state, seen) for seen in host_witnesses()} == shown
