"""What differs between two machines, told as text and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from fsm.machine.diagram import dot, mermaid
from fsm.machine.difference import compare, picture, text
from fsm.machine.loader import load_default
from fsm.machine.picture import Look
from fsm.machine.spec import Spec
from tests.machine_helpers import changed

SPEC = load_default()


def _row(data: dict[str, Any], trigger: str) -> dict[str, Any]:
    row: dict[str, Any] = next(row for row in data["transitions"] if row["trigger"] == trigger)
    return row


def _parked(data: dict[str, Any]) -> None:
    recover = [{"when": [], "do": "wait"}]
    data["states"]["parked"] = {
        "kind": "stable",
        "meaning": "It waits.",
        "activity": "none",
        "blocks": ["migrate"],
        "timeout_s": 100,
        "retry": "none",
        "recover": recover,
    }
    data["transitions"].append(
        {
            "trigger": "park",
            "source": "snapshotted",
            "dest": "parked",
            "conditions": ["overdue"],
            "actions": [],
        }
    )


EDITS: list[tuple[str, Callable[[dict[str, Any]], object], list[str]]] = [
    (
        "timeout",
        lambda data: data["states"]["transferring"].update(timeout_s=60),
        ["~ state transferring (transient)", "-    timeout_s: 90.0", "+    timeout_s: 60.0"],
    ),
    (
        "blocks",
        lambda data: data["states"]["stuck"]["blocks"].remove("volume-wipe"),
        ["~ state stuck (stable)", "-    blocks volume-wipe"],
    ),
    (
        "recover row",
        lambda data: data["states"]["stuck"]["recover"].insert(0, {"when": ["overdue"], "do": "wait"}),
        ["~ state stuck (stable)", "+    on overdue: wait"],
    ),
    (
        "recover row moved",
        lambda data: data["states"]["stuck"]["recover"].insert(0, data["states"]["stuck"]["recover"].pop(4)),
        [
            "~ state stuck (stable)",
            "+    on retry-due, source-migrating, transfer-begun: retry",
            "-    on retry-due, source-migrating, transfer-begun: retry",
        ],
    ),
    (
        "condition",
        lambda data: _row(data, "start")["conditions"].append("overdue"),
        ["~ transition start: planned -> snapshotted", "+    condition overdue"],
    ),
    (
        "actions",
        lambda data: _row(data, "finish-commit")["actions"].remove("undefine-source"),
        ["~ transition finish-commit: committing-dest -> committed", "-    action undefine-source"],
    ),
    (
        "order of actions",
        lambda data: _row(data, "transfer").update(
            actions=["forget-source-snapshots", "create-destination-overlays"]
        ),
        [
            "~ transition transfer: snapshotted -> transferring",
            "+    action forget-source-snapshots",
            "-    action forget-source-snapshots",
        ],
    ),
    (
        "destination",
        lambda data: _row(data, "refuse-start").update(dest="stuck"),
        ["~ transition refuse-start: planned -> stuck", "-    to refused", "+    to stuck"],
    ),
    (
        "flags",
        lambda data: _row(data, "switch-over").update(point_of_no_return=False, failure=True),
        [
            "~ transition switch-over: transferring -> committing-dest",
            "+    failure",
            "-    point of no return",
        ],
    ),
    (
        "removed",
        lambda data: data["transitions"].remove(_row(data, "fail-start")),
        [
            "- transition fail-start: planned -> rolling-back-source",
            "-     conditions: preflight-passed, moves-live, source-untangled, source-on-overlay,"
            " step-failed",
            "-     actions: none",
            "-     failure",
        ],
    ),
    (
        "added",
        _parked,
        [
            "+ state parked (stable)",
            "+     It waits.",
            "+     activity: none",
            "+     blocks: migrate",
            "+     on anything else: wait",
            "+ transition park: snapshotted -> parked",
            "+     conditions: overdue",
            "+     actions: none",
        ],
    ),
]


@pytest.mark.parametrize(("_what", "edit", "told"), EDITS, ids=[what for what, _, _ in EDITS])
def test_every_change_is_told_in_lines(
    _what: str, edit: Callable[[dict[str, Any]], object], told: list[str]
) -> None:
    new = changed(edit)  # type: ignore[arg-type]
    lines = text(compare(SPEC, new)).splitlines()
    assert lines[:2] == [f"--- states.yaml {SPEC.digest}", f"+++ <spec> {new.digest}"]
    assert sorted(lines[2:]) == sorted(told)
    back = text(compare(new, SPEC)).splitlines()
    assert len(back) == len(lines)


def test_what_means_the_same_is_no_difference() -> None:
    def shuffle(data: dict[str, Any]) -> None:
        data["transitions"].reverse()
        for row in data["transitions"]:
            row["conditions"].reverse()
        data["states"]["stuck"]["blocks"].reverse()

    found = compare(SPEC, changed(shuffle))
    assert found.empty
    assert "the machines do the same" in text(found)


@pytest.mark.parametrize(("_what", "edit", "_told"), EDITS, ids=[what for what, _, _ in EDITS])
def test_the_picture_shows_just_what_differs(
    _what: str, edit: Callable[[dict[str, Any]], object], _told: list[str]
) -> None:
    found = compare(SPEC, changed(edit))  # type: ignore[arg-type]
    shown = picture(found)
    assert {box.name: box.look for box in shown.boxes if box.look is not Look.FADED} == {
        change.state.name: change.look for change in found.states
    }
    assert [arrow.look for arrow in shown.arrows if arrow.look is not Look.FADED] == [
        change.look for change in found.rows
    ]
    drawn = [row for arrow in shown.arrows for row in arrow.rows]
    removed = [change.row for change in found.rows if change.look is Look.REMOVED]
    assert sorted(map(repr, drawn)) == sorted(map(repr, [*found.new.rows, *removed]))
    for written in (dot(shown), mermaid(shown)):
        assert all(box.name in written for box in shown.boxes)


def test_looks_differ_in_colour_and_in_black_and_white() -> None:
    def edit(data: dict[str, Any]) -> None:
        _parked(data)
        data["transitions"].remove(_row(data, "fail-start"))
        _row(data, "start")["conditions"].append("overdue")

    written = dot(picture(compare(SPEC, changed(edit))))
    assert "<b>+ park</b>" in written
    assert "<b><s>- fail-start</s></b>" in written
    assert "<b>~ start</b>" in written
    assert len({line.split('color="')[1][:7] for line in written.splitlines() if "arrow-" in line}) == 4


def test_a_removed_state_is_drawn_with_its_rows() -> None:
    shown = picture(compare(changed(_parked), SPEC))
    parked = next(box for box in shown.boxes if box.name == "parked")
    assert parked.look is Look.REMOVED
    (arrow,) = [arrow for arrow in shown.arrows if arrow.dest == "parked"]
    assert arrow.look is Look.REMOVED


def test_a_machine_is_not_different_from_itself() -> None:
    copy: Spec = evolve(SPEC, file="other.yaml")
    assert compare(SPEC, copy).empty
