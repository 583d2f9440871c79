"""Which operations on a domain its migration blocks now."""

from __future__ import annotations

from attrs import frozen

from fsm.errors import OperationBlocked
from fsm.machine.operations import HARM, Operation
from fsm.machine.spec import Spec


@frozen
class Verdict:
    """Whether an operation is permitted, and if not, why it would harm and when it will be permitted.

    ``state`` is the migration's, empty where there is none or only the domain's own marker tells of one.
    """

    operation: Operation
    permitted: bool
    state: str
    harm: str = ""
    until: str = ""
    migration: str = ""

    @property
    def reason(self) -> str:
        """Both in one sentence, empty where the operation is permitted."""
        return "" if self.permitted else f"{self.harm}; it is permitted again {self.until}"

    def demand(self) -> None:
        """Raise ``OperationBlocked`` unless the operation is permitted."""
        if not self.permitted:
            raise OperationBlocked(self.state or "unknown", self.operation, remedy=self.reason)


def permits(
    spec: Spec, state: str, operation: Operation, *, heading_for: str | None = None, migration: str = ""
) -> Verdict:
    """The verdict on ``operation`` in ``state``.

    ``heading_for`` is the state that a begun transition leads to: until its outcome is known, what either
    state blocks is blocked, since the effect may have happened already.
    """
    for name in (state, heading_for):
        if name and operation in spec.states[name].blocks:
            finals = ", ".join(_finals(spec, operation))
            return _blocked(operation, name, f"in: {finals}", migration)
    return Verdict(operation, permitted=True, state=state, migration=migration)


def permits_marked(spec: Spec, migration: str, operation: Operation) -> Verdict:
    """The verdict on a domain of which only its own marker is known.

    It says that a migration has not ended, and not how far that is: what any such state blocks is blocked.
    """
    blocking = [s for name, s in spec.states.items() if not spec.is_final(name) and operation in s.blocks]
    if not blocking:
        return Verdict(operation, permitted=True, state="", migration=migration)
    until = f"when migration {migration} has ended and taken its marker off the domain"
    return _blocked(operation, "", until, migration)


def check(spec: Spec, state: str, operation: Operation, *, heading_for: str | None = None) -> None:
    """Raise ``OperationBlocked`` unless ``operation`` is permitted."""
    permits(spec, state, operation, heading_for=heading_for).demand()


def _blocked(operation: Operation, state: str, until: str, migration: str) -> Verdict:
    harm = HARM.get(operation, "it would interfere with the migration")
    return Verdict(operation, permitted=False, state=state, harm=harm, until=until, migration=migration)


def _finals(spec: Spec, operation: Operation) -> list[str]:
    return [name for name, s in spec.states.items() if spec.is_final(name) and operation not in s.blocks]
