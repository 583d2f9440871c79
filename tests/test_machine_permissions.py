"""Which of libvirt's permissions are refused: made from states.yaml, for every operation there is."""

from __future__ import annotations

import attrs

from fsm.machine.loader import load_default
from fsm.machine.operations import Operation
from fsm.machine.permissions import (
    PERMISSIONS,
    REFUSED_ALONG,
    blocked_beside_an_overlay,
    is_refused,
    markdown,
    refused_permissions,
)
from fsm.machine.spec import Kind, Spec

SPEC = load_default()


def blocking(*operations: Operation) -> Spec:
    """The machine, its states with an overlay blocking just these."""
    states = {
        name: state
        if state.kind in (Kind.INITIAL, Kind.FINAL)
        else attrs.evolve(state, blocks=frozenset(operations))
        for name, state in SPEC.states.items()
    }
    return attrs.evolve(SPEC, states=states)


def test_every_operation_has_its_permissions() -> None:
    assert set(PERMISSIONS) == set(Operation)
    assert all(PERMISSIONS.values())


def test_each_state_with_an_overlay_blocks_no_more_than_is_refused() -> None:
    blocked = blocked_beside_an_overlay(SPEC)
    for state in SPEC.states.values():
        if state.kind in (Kind.TRANSIENT, Kind.STABLE):
            assert state.blocks <= set(blocked)


# libvirt has no permission for these alone. Whoever adds one says so in docs/polkit.md.
CANNOT_BE_REFUSED = {Operation.SUSPEND}


def test_every_blocked_operation_is_refused_and_no_other() -> None:
    blocked = set(blocked_beside_an_overlay(SPEC))
    assert blocked >= CANNOT_BE_REFUSED
    refused = {each for each in Operation if is_refused(SPEC, each)}
    assert refused == (blocked - CANNOT_BE_REFUSED) | REFUSED_ALONG


def test_a_permission_that_a_permitted_operation_takes_is_not_refused() -> None:
    alone = blocking(Operation.BACKUP_BEGIN)
    assert refused_permissions(alone) == ()
    assert not is_refused(alone, Operation.BACKUP_BEGIN)
    spec = blocking(Operation.BACKUP_BEGIN, Operation.CHECKPOINT_CREATE, Operation.CHECKPOINT_DELETE)
    assert refused_permissions(spec) == ("domain.checkpoint",)
    assert is_refused(spec, Operation.BACKUP_BEGIN)


def test_the_page_has_every_operation() -> None:
    rows = [line for line in markdown(SPEC).splitlines() if line.startswith("| `")]
    assert len(rows) == len(Operation)
    assert "| `snapshot-revert` | `domain.snapshot` | refused |" in rows
    assert "| `resume` | `domain.suspend` | let through |" in rows
    (suspend,) = (row for row in rows if row.startswith("| `suspend`"))
    assert "let through, though blocked in `transferring`" in suspend
