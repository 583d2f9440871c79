"""Every state with every trigger, and every state with every operation, allowed and refused alike.

The expectations come from states.yaml read as plain data, so the loader is under test as well. The golden
files hold them as text: a change of the machine shows up there as a diff to be reviewed.
"""

from __future__ import annotations

from itertools import product

import pytest

from fsm.errors import OperationBlocked, TransitionRefused
from fsm.machine.conditions import CONDITIONS
from fsm.machine.guard import check, permits
from fsm.machine.interpreter import Interpreter
from fsm.machine.loader import load_default
from fsm.machine.operations import Operation
from fsm.machine.space import host_witnesses
from tests.machine_helpers import compare_with_golden, shipped, space

SPEC = load_default()
YAML = shipped()
TRIGGERS = sorted({row["trigger"] for row in YAML["transitions"]})


def sources(row: dict) -> list[str]:
    return row["source"] if isinstance(row["source"], list) else [row["source"]]


def rows_of(state: str, trigger: str) -> list[dict]:
    return [row for row in YAML["transitions"] if row["trigger"] == trigger and state in sources(row)]


CELLS = list(product(YAML["states"], TRIGGERS))
ALLOWED = [cell for cell in CELLS if rows_of(*cell)]
REFUSED = [cell for cell in CELLS if not rows_of(*cell)]
EDGES = sorted({(row.source, row.dest) for row in SPEC.rows})


@pytest.mark.parametrize(("state", "trigger"), ALLOWED)
def test_trigger_is_taken_exactly_when_a_row_holds(state: str, trigger: str) -> None:
    interpreter = Interpreter(SPEC)
    taken = set()
    for seen in space(SPEC, state):
        holding = [
            index
            for index, row in enumerate(rows_of(state, trigger))
            if all(CONDITIONS[name].holds(seen) for name in row["conditions"])
        ]
        if not holding:
            with pytest.raises(TransitionRefused) as refusal:
                interpreter.fire(state, trigger, seen)
            assert refusal.value.failed_guards
            continue
        (index,) = holding
        expected, row = rows_of(state, trigger)[index], interpreter.fire(state, trigger, seen)
        assert (row.source, row.dest, list(row.actions)) == (state, expected["dest"], expected["actions"])
        taken.add(index)
    assert taken == set(range(len(rows_of(state, trigger)))), "some row is taken on no observation"


@pytest.mark.parametrize(("state", "trigger"), REFUSED)
def test_trigger_without_a_row_is_refused_whatever_is_observed(state: str, trigger: str) -> None:
    interpreter = Interpreter(SPEC)
    for seen in host_witnesses():
        with pytest.raises(TransitionRefused) as refusal:
            interpreter.fire(state, trigger, seen)
        assert (refusal.value.state, refusal.value.trigger) == (state, trigger)
        assert refusal.value.failed_guards == ()


@pytest.mark.parametrize("state", YAML["states"])
@pytest.mark.parametrize("operation", Operation)
def test_operation_is_permitted_exactly_when_the_state_does_not_block_it(
    state: str, operation: Operation
) -> None:
    blocked = operation.value in YAML["states"][state]["blocks"]
    verdict = permits(SPEC, state, operation)
    assert (verdict.permitted, verdict.state, verdict.operation) == (not blocked, state, operation)
    assert bool(verdict.reason) == blocked


@pytest.mark.parametrize(("state", "heading_for"), EDGES)
def test_under_way_to_a_state_what_either_blocks_is_blocked(state: str, heading_for: str) -> None:
    for operation in Operation:
        blockers = [name for name in (state, heading_for) if operation in YAML["states"][name]["blocks"]]
        if not blockers:
            check(SPEC, state, operation, heading_for=heading_for)
            continue
        with pytest.raises(OperationBlocked) as refusal:
            check(SPEC, state, operation, heading_for=heading_for)
        assert (refusal.value.state, refusal.value.operation) == (blockers[0], operation)
        assert "permitted again in" in refusal.value.remedy


def test_trigger_matrix_is_the_reviewed_one() -> None:
    lines = []
    for state, trigger in CELLS:
        rows = [row for row in SPEC.rows_from(state) if row.trigger == trigger]
        lines += [f"{state} / {trigger}: refused"] if not rows else []
        for row in rows:
            marks = "".join(
                (", failure" if row.failure else "", ", no return" if row.point_of_no_return else "")
            )
            lines.append(f"{state} / {trigger}: to {row.dest}{marks}")
            lines.append(f"    if   {', '.join(row.conditions) or 'always'}")
            lines.append(f"    then {', '.join(row.actions) or 'nothing'}")
    compare_with_golden("triggers.txt", "\n".join(lines) + "\n")


def test_operation_matrix_is_the_reviewed_one() -> None:
    lines = []
    for state, heading_for in [*((name, None) for name in SPEC.states), *EDGES]:
        lines.append(state if heading_for is None else f"{state}, under way to {heading_for}")
        for operation in Operation:
            permitted = permits(SPEC, state, operation, heading_for=heading_for).permitted
            lines.append(f"    {'permits' if permitted else 'BLOCKS '} {operation}")
    compare_with_golden("operations.txt", "\n".join(lines) + "\n")


def test_recovery_table_is_the_reviewed_one() -> None:
    lines = []
    for state in SPEC.states.values():
        lines.append(f"{state.name} ({state.kind}, {state.activity or 'no activity'})")
        lines += [f"    {', '.join(row.when) or 'otherwise'}: {row.do}" for row in state.recover]
    compare_with_golden("recovery.txt", "\n".join(lines) + "\n")
