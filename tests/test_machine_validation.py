"""Validation finds every kind of fault, with its line, and finds none in the shipped machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fsm.errors import SpecError
from fsm.machine.loader import load_default, loads
from fsm.machine.validation import check, validate
from tests.machine_helpers import changed, plain_text, shipped

Data = dict[str, Any]


def rows(data: Data, trigger: str, source: str | None = None) -> Iterator[Data]:
    for row in data["transitions"]:
        if row["trigger"] == trigger and source in (None, row["source"]):
            yield row


def problems(edit: Callable[[Data], None]) -> list[str]:
    return [str(problem) for problem in validate(changed(edit))]


def test_the_shipped_machine_is_valid() -> None:
    assert validate(load_default()) == ()
    assert check(load_default()) == load_default()


def test_check_raises_the_first_problem() -> None:
    def edit(data: Data) -> None:
        data["states"]["limbo"] = {"kind": "final", "meaning": "Nowhere.", "blocks": []}

    with pytest.raises(SpecError, match="'limbo' can't be reached"):
        check(changed(edit))


def unreachable(data: Data) -> None:
    data["states"]["limbo"] = {**data["states"]["stuck"]}
    data["transitions"].append({**next(rows(data, "retry")), "source": "limbo"})


def no_way_out(data: Data) -> None:
    data["transitions"] = [row for row in data["transitions"] if row["source"] != "stuck"]


def leaves_final(data: Data) -> None:
    data["transitions"].append({**next(rows(data, "retry")), "source": "refused"})


def no_failure_exit(data: Data) -> None:
    for row in data["transitions"]:
        if row["source"] == "snapshotted" or "snapshotted" in row["source"]:
            row.pop("failure", None)


def two_initial(data: Data) -> None:
    data["states"]["planned2"] = {**data["states"]["planned"]}


def missing_state(data: Data) -> None:
    del data["states"]["refused"]
    data["transitions"] = [row for row in data["transitions"] if row["dest"] != "refused"]


def wrong_kind(data: Data) -> None:
    data["states"]["stuck"]["kind"] = "transient"


def twice(data: Data) -> None:
    row = next(rows(data, "transfer"))
    data["transitions"].append({**row, "dest": "stuck", "conditions": row["conditions"][::-1]})


def unknown_trigger(data: Data) -> None:
    data["states"]["stuck"]["recover"].insert(0, {"when": ["retry-due"], "do": "refuse"})


def continues_nothing(data: Data) -> None:
    data["states"]["stuck"]["activity"] = "none"
    data["states"]["stuck"]["recover"].insert(0, {"when": ["retry-due"], "do": "continue"})


def never_fired(data: Data) -> None:
    states = data["states"]["snapshotted"]
    states["recover"] = [row for row in states["recover"] if row["do"] != "stop-domain"]


def never_taken(data: Data) -> None:
    row = next(rows(data, "finish-rollback"))
    data["transitions"].append({**row, "conditions": ["both-run", "domain-missing"]})


def not_total(data: Data) -> None:
    assert data["states"]["transferring"]["recover"].pop()["when"] == []


def refused_trigger(data: Data) -> None:
    data["states"]["committing-dest"]["recover"].insert(0, {"when": [], "do": "finish-commit"})


def in_vain(data: Data) -> None:
    data["states"]["stuck"]["recover"].append({"when": ["retry-due"], "do": "wait"})


def both_at_once(data: Data) -> None:
    row = next(rows(data, "transfer"))
    data["transitions"].append({**row, "dest": "stuck", "conditions": [*row["conditions"], "overdue"]})


def back_to_itself(data: Data) -> None:
    row = next(rows(data, "retry"))
    data["transitions"].append({**row, "dest": "stuck", "conditions": ["retry-due", "domain-missing"]})


def relies_on_recovery(data: Data) -> None:
    next(rows(data, "abort", "transferring"))["conditions"].remove("abort-requested")


FAULTS = {
    unreachable: "state 'limbo' can't be reached",
    no_way_out: "state 'stuck' can't come to a final state",
    leaves_final: "final state 'refused' has transitions",
    no_failure_exit: "transient state 'snapshotted' has no failure exit",
    two_initial: "there must be one initial state, not 2",
    missing_state: "state 'refused' is missing",
    wrong_kind: "state 'stuck' must be stable, not transient",
    twice: "'transfer' from 'snapshotted' repeats line",
    unknown_trigger: "state 'stuck' fires 'refuse' but has no such transition",
    continues_nothing: "state 'stuck' continues an activity it does not have",
    never_fired: "no recover row of state 'snapshotted' ever takes this 'stop-domain'",
    never_taken: "no recover row of state 'rolling-back-source' ever takes this 'finish-rollback'",
    not_total: "state 'transferring' has no recover row for",
    refused_trigger: "trigger 'finish-commit' is refused in state 'committing-dest'",
    in_vain: "this recover row can never be reached",
    back_to_itself: "'retry' leads from 'stuck' back to itself",
    relies_on_recovery: "'abort' does not demand abort-requested, which every recover row",
    both_at_once: "'transfer' can be taken here and at line",
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_fault_is_found(fault: Callable[[Data], None], message: str) -> None:
    assert any(message in problem for problem in problems(fault))


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (unknown_trigger, "do: refuse"),
        (continues_nothing, "do: continue"),
        (twice, "dest: stuck"),
        (both_at_once, "dest: stuck"),
        (wrong_kind, "kind: transient"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_problem_stands_where_its_line_says(fault: Callable[[Data], None], text: str) -> None:
    data = loads_data(fault)
    written = plain_text(data)
    (problem, *_) = validate(loads(written))
    near = written.splitlines()[problem.line - 1 : problem.line + 5]
    assert any(text in line for line in near), (problem, near)


def loads_data(fault: Callable[[Data], None]) -> Data:
    kept: Data = {}

    def edit(data: Data) -> None:
        fault(data)
        kept.update(data)

    changed(edit)
    return kept


def test_rows_on_one_line_are_told_apart() -> None:
    """In YAML's flow style a dead row may have the same line as a live one."""
    # JSON is YAML too.
    one_line = json.dumps(loads_data(in_vain))
    assert any("can never be reached" in str(problem) for problem in validate(loads(one_line)))


@pytest.mark.parametrize("index", range(len(shipped()["transitions"])))
def test_no_transition_can_be_dropped_unseen(index: int) -> None:
    assert problems(lambda data: data["transitions"].pop(index))


@pytest.mark.parametrize("state", [name for name, state in shipped()["states"].items() if "recover" in state])
def test_no_catch_all_can_be_dropped_unseen(state: str) -> None:
    assert problems(lambda data: data["states"][state]["recover"].pop())
