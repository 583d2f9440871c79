"""What to do next, from the present state and an observation: the recovery table, read top down.

Pure: the same state and observation always give the same decision. The engine asks after every step; a
process that takes a migration over asks in just the same way.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen

from fsm.machine.conditions import CONDITIONS
from fsm.machine.observation import Observation
from fsm.machine.spec import CONTINUE, WAIT, RecoverRow, Spec


class Verb(StrEnum):
    """The kinds of decision."""

    FIRE = "fire"
    CONTINUE = CONTINUE
    WAIT = WAIT


@frozen
class Decision:
    """Fire ``trigger``, continue the state's activity, or wait; ``row`` is the recover row that said so."""

    verb: Verb
    row: RecoverRow
    trigger: str = ""


def decide(spec: Spec, state: str, seen: Observation) -> Decision:
    """The first recover row of ``state`` whose conditions all hold.

    Raises ``LookupError`` when none does or the state is final; ``validation`` proves that a valid machine
    never comes to that.
    """
    for row in spec.states[state].recover:
        if all(CONDITIONS[name].holds(seen) for name in row.when):
            if row.do in (CONTINUE, WAIT):
                return Decision(Verb(row.do), row)
            return Decision(Verb.FIRE, row, row.do)
    raise LookupError(f"state {state!r} has no recover row for what is observed")
