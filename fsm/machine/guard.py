"""Which operations on a domain its migration blocks now."""

from __future__ import annotations

from attrs import frozen

from fsm.errors import OperationBlocked
from fsm.machine.operations import HARM, Operation
from fsm.machine.spec import Spec


@frozen
class Verdict:
    """Whether an operation is permitted, and if not, why it would harm and when it will be permitted."""

    operation: Operation
    permitted: bool
    state: str
    reason: str = ""


def permits(spec: Spec, state: str, operation: Operation, *, heading_for: str | None = None) -> Verdict:
    """The verdict on ``operation`` in ``state``.

    ``heading_for`` is the state that a begun transition leads to: until its outcome is known, what either
    state blocks is blocked, since the effect may have happened already.
    """
    for name in (state, heading_for):
        if name is not None and operation in spec.states[name].blocks:
            harm = HARM.get(operation, "it would interfere with the migration")
            finals = ", ".join(
                n for n, s in spec.states.items() if spec.is_final(n) and operation not in s.blocks
            )
            return Verdict(
                operation, permitted=False, state=name, reason=f"{harm}; it is permitted again in: {finals}"
            )
    return Verdict(operation, permitted=True, state=state)


def check(spec: Spec, state: str, operation: Operation, *, heading_for: str | None = None) -> None:
    """Raise ``OperationBlocked`` unless ``operation`` is permitted."""
    verdict = permits(spec, state, operation, heading_for=heading_for)
    if not verdict.permitted:
        raise OperationBlocked(verdict.state, operation, remedy=verdict.reason)
