"""A selection of the fault matrix whose end does not hang on timing; ``./dev faults`` runs all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import evolve

from fsm.journal.records import Step
from fsm.machine.observation import Merge
from tests.faults.aftermath import Aftermath
from tests.faults.cells import FAULTS, STATES, Cell, cells
from tests.faults.failpoint import HOLD
from tests.faults.run import RIGHT, Stage, judge
from tests.lab_rig import NEEDS_LAB

SELECTION = [
    ("planned", "engine-transition-after-act"),
    ("snapshotted", "engine-midway"),
    ("snapshotted", "source-libvirtd"),
    ("snapshotted", "destination-full"),
    ("transferring", "engine-midway"),
    ("transferring", "engine-activity-after-act"),
    ("transferring", "source-libvirtd"),
    ("transferring", "destination-qemu"),
    ("committing-dest", "engine-activity-after-intent"),
    ("committing-dest", "journal-full"),
    ("committing-dest", "power-off"),
    ("rolling-back-source", "engine-transition-after-intent"),
    ("stuck", "engine-transition-after-act"),
]
# What `fsm show` must name.
CAUSES = {("snapshotted", "destination-full"): "space", ("committing-dest", "journal-full"): "full"}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage(print) as stage:
        yield stage


@pytest.mark.parametrize(("state", "fault"), SELECTION)
@pytest.mark.long
@NEEDS_LAB[0]
@NEEDS_LAB[1]
def test_nothing_is_lost(stage: Stage, state: str, fault: str) -> None:
    row = stage.run(Cell(state, FAULTS[fault]))
    assert row.verdict == RIGHT, row.why
    assert CAUSES.get((state, fault), "") in " ".join(row.causes)


def test_the_matrix_has_every_state_and_fault() -> None:
    every = {(cell.state, cell.fault.name) for cell in cells()}
    assert every == {(state, fault) for state in STATES for fault in FAULTS}
    assert set(SELECTION) <= every


WITHOUT_QEMU = {(state, "destination-qemu") for state in ("planned", "snapshotted", "rolling-back-source")}
ON_ACTIVITY = {fault for fault in FAULTS if fault.startswith("engine-activity")}


def left_out(merge: Merge) -> dict[tuple[str, str], str]:
    return {(cell.state, cell.fault.name): cell.why_not for cell in cells(merge=merge) if cell.why_not}


def test_cells_are_left_out_for_a_reason() -> None:
    assert set(left_out(Merge.COMMIT)) == {*(("stuck", fault) for fault in ON_ACTIVITY), *WITHOUT_QEMU}


def test_by_mirror_there_is_nothing_to_commit_at_the_destination() -> None:
    found = left_out(Merge.MIRROR)
    nothing = {("committing-dest", fault) for fault in {*ON_ACTIVITY, "engine-midway"}}
    assert set(found) == {*(("stuck", fault) for fault in FAULTS), *nothing, *WITHOUT_QEMU}
    assert {found[cell] for cell in nothing} == {"nothing to commit at the destination"}
    assert found["stuck", "cut-5s"] == "no commit at the destination that could fail"


def test_by_mirror_faults_strike_before_the_end_is_made() -> None:
    """Nothing is under way there that would keep the engine in the state."""
    here = [cell for cell in cells(("committing-dest",), merge=Merge.MIRROR) if not cell.why_not]
    assert len(here) == len(FAULTS) - 5
    for cell in here:
        assert cell.failpoint is not None
        assert (cell.failpoint.step, cell.failpoint.name) == (Step.TRANSITION, "finish-commit")
        assert (cell.failpoint.act == HOLD) is (cell.fault.kills_at is None)
    elsewhere = [evolve(cell, merge=Merge.MIRROR) for cell in cells() if cell.state != "committing-dest"]
    assert [one.failpoint for one in elsewhere] == [
        evolve(one, merge=Merge.COMMIT).failpoint for one in elsewhere
    ]


GOOD = Aftermath(
    hosts=("beta",),
    running=True,
    instances=1,
    acknowledged=9,
    writes_lost=0,
    snapshots=3,
    snapshots_lost=0,
    leftovers=(),
    wrong=(),
)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"hosts": ("alpha",)}, "the domain is on alpha"),
        ({"hosts": ("alpha", "beta"), "instances": 2}, "the domain is on alpha and beta; 2 instances"),
        ({"running": False, "instances": 0}, "0 instances; it does not run"),
        ({"acknowledged": 0}, "no write was acknowledged"),
        ({"writes_lost": 3}, "3 writes lost"),
        ({"snapshots_lost": 1, "wrong": ("x",)}, "1 snapshots lost; changed: x"),
        ({"leftovers": ("alpha: /x",)}, "left behind: alpha: /x"),
    ],
)
def test_what_is_wrong_is_told(changes: dict[str, object], why: str) -> None:
    cell = Cell("committing-dest", FAULTS["source-libvirtd"])
    assert judge(cell, "alpha", "beta", "committed", evolve(GOOD, **changes)) == why


def test_a_wrong_end_is_told() -> None:
    cell = Cell("committing-dest", FAULTS["engine-midway"])
    assert judge(cell, "alpha", "beta", "stuck", GOOD) == "ended in stuck; the domain is on beta"
    guest_is_off = evolve(GOOD, running=False, instances=0)
    assert judge(Cell("stuck", FAULTS["power-off"]), "alpha", "beta", "committed", guest_is_off) == ""
