"""What the journal holds: one header per migration and its records, in order.

Every step is two records: the intent, written before anything is done, and the outcome, written after. An
intent without an outcome means that nobody knows how far the step came; it is never blindly run again.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import cattrs
from attrs import evolve, field, frozen
from cattrs.preconf.json import make_converter

from fsm.machine.observation import Observation

# JSON objects as they are stored; their shapes belong to whoever writes them.
Data = dict[str, Any]

converter: cattrs.Converter = make_converter()


def _strictly(value: object, wanted: type[Any]) -> Any:
    """No conversions: bool("false") would be true. ``wanted`` is a plain type or an enumeration of one."""
    plain = next(kind for kind in (bool, int, str) if issubclass(wanted, kind))
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise TypeError(f"{plain.__name__} expected, not {value!r}")
    return wanted(value)


for _plain in (bool, int, str):
    converter.register_structure_hook(_plain, _strictly)


class Step(StrEnum):
    """What a record is about."""

    TRANSITION = "transition"
    ACTION = "action"  # has an outcome only: the intent of its transition is its intent
    ACTIVITY = "activity"
    REQUEST = "request"  # somebody asked for an abort, a retry or an adoption; outcome only


class Phase(StrEnum):
    """Before or after the act."""

    INTENT = "intent"
    OUTCOME = "outcome"


@frozen
class Record:
    """One line of a migration's history.

    ``name`` is the trigger, action, activity or request. ``state`` is the machine's state when the record
    was written, ``dest`` the state that the transition leads to. ``error`` is empty in an outcome that
    succeeded. ``data`` holds what later steps need: the plan, what was created, why something failed.
    """

    step: Step
    phase: Phase
    name: str
    state: str
    dest: str = ""
    observation: Observation | None = None
    error: str = ""
    data: Data = field(factory=dict)
    sequence: int = 0
    at: datetime | None = None
    spec_digest: str = ""


@frozen
class Lease:
    """The right to drive a migration. A later lease has a greater ``token``; the greatest one counts."""

    migration: str
    holder: str
    token: int


@frozen
class Asked:
    """A request that waits for whoever drives the migration; ``name`` is "abort" or "retry"."""

    number: int
    migration: str
    name: str
    data: Data


@frozen
class Header:
    """A migration in one line. ``heading_for`` is the destination of the last transition without a good
    outcome: one that failed may have had its effects, so what that state blocks stays blocked.

    ``request`` is what the user asked for.
    """

    migration: str
    created: datetime
    domain: str
    source_uri: str
    destination_uri: str
    state: str
    heading_for: str = ""
    final: bool = False
    domain_uuid: str = ""
    request: Data = field(factory=dict)
    updated: datetime | None = None

    def after(self, record: Record, *, final: bool) -> Header:
        """The header as it is once ``record`` has been written."""
        changed = evolve(self, updated=record.at)
        if record.step is not Step.TRANSITION:
            return changed
        if record.phase is Phase.INTENT:
            return evolve(changed, heading_for=record.dest)
        if record.error:
            return changed
        return evolve(changed, heading_for="", state=record.dest, final=final)
