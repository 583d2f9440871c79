"""Which of libvirt's permissions are refused: made from states.yaml, for every operation there is."""

from __future__ import annotations

import attrs
import pytest

from fsm.errors import SpecError
from fsm.machine.loader import load_default
from fsm.machine.operations import Operation
from fsm.machine.permissions import PERMISSIONS, blocked_beside_an_overlay, markdown, refused_permissions
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


def test_every_blocked_operation_is_refused_and_no_other() -> None:
    refused, blocked = refused_permissions(SPEC), blocked_beside_an_overlay(SPEC)
    for operation in Operation:
        assert any(name in refused for name in PERMISSIONS[operation]) == (operation in blocked), operation


def test_a_permission_that_permitted_operations_take_is_not_refused() -> None:
    spec = blocking(Operation.BACKUP_BEGIN)
    with pytest.raises(SpecError, match="backup-begin"):
        refused_permissions(spec)
    spec = blocking(Operation.BACKUP_BEGIN, Operation.CHECKPOINT_CREATE, Operation.CHECKPOINT_DELETE)
    assert refused_permissions(spec) == ("domain.checkpoint",)


def test_what_libvirt_cannot_tell_apart_is_an_error() -> None:
    with pytest.raises(SpecError, match="suspend: permitted operations take the same"):
        refused_permissions(blocking(Operation.SUSPEND))


def test_the_page_has_every_operation() -> None:
    rows = [line for line in markdown(SPEC).splitlines() if line.startswith("| `")]
    assert len(rows) == len(Operation)
    assert "| `snapshot-revert` | `domain.snapshot` | refused |" in rows
    assert "| `resume` | `domain.suspend` | let through |" in rows
