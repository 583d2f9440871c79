"""A selection of the fault matrix whose end does not hang on timing; ``./dev faults`` runs all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.cells import FAULTS, STATES, Cell, cells
from tests.faults.run import RIGHT, Stage
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


def test_cells_are_left_out_for_a_reason() -> None:
    assert {(cell.state, cell.fault.name) for cell in cells() if cell.why_not} == {
        *(("stuck", fault) for fault in FAULTS if fault.startswith("engine-activity")),
        *((state, "destination-qemu") for state in ("planned", "snapshotted", "rolling-back-source")),
    }
