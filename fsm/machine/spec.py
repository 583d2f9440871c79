"""The machine's description as values: what ``states.yaml`` says, after the loader has checked its form."""

from __future__ import annotations

import hashlib
from enum import StrEnum

from attrs import field, frozen

from fsm.machine.operations import Operation

CONTINUE = "continue"
WAIT = "wait"


class Kind(StrEnum):
    """What a state is for the machine's life.

    ``transient`` states are left by themselves; ``stable`` ones may last; ``final`` ones end the migration.
    """

    INITIAL = "initial"
    TRANSIENT = "transient"
    STABLE = "stable"
    FINAL = "final"


@frozen
class RetryPolicy:
    """How failed steps are tried again: at most ``attempts`` times (None: without end).

    The n-th delay is ``delay_s * factor**n``, capped at ``cap_s``, varied at random by the share ``jitter``.
    """

    attempts: int | None = 0
    delay_s: float = 0.0
    factor: float = 1.0
    cap_s: float = 0.0
    jitter: float = 0.0

    def delay_after_s(self, failures: int, spread: float = 0.0) -> float:
        """Seconds to wait after the ``failures``-th failure; ``spread`` in [-1, 1] picks in the jitter."""
        # Beyond 64 doublings the cap has long been reached; the bound keeps the power finite.
        plain = min(self.cap_s, self.delay_s * self.factor ** min(max(failures - 1, 0), 64))
        return float(plain * (1 + self.jitter * spread))


@frozen
class RecoverRow:
    """If all conditions of ``when`` hold, ``do`` this: a trigger's name, ``continue`` or ``wait``."""

    when: tuple[str, ...]
    do: str
    line: int = field(default=0, eq=False)


@frozen
class State:
    """One state. ``timeout_s`` None means that it is never overdue."""

    name: str
    kind: Kind
    meaning: str
    blocks: frozenset[Operation]
    activity: str | None = None
    timeout_s: float | None = None
    retry: RetryPolicy = field(factory=RetryPolicy)
    recover: tuple[RecoverRow, ...] = ()
    line: int = field(default=0, eq=False)


@frozen
class Row:
    """One transition out of one source state."""

    trigger: str
    source: str
    dest: str
    conditions: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    failure: bool = False
    point_of_no_return: bool = False
    line: int = field(default=0, eq=False)


@frozen
class Spec:
    """The whole machine. ``digest`` identifies the text it was read from; records carry it."""

    states: dict[str, State]
    rows: tuple[Row, ...]
    file: str = "<spec>"
    digest: str = ""

    @property
    def initial(self) -> str:
        """The name of the initial state."""
        return next(state.name for state in self.states.values() if state.kind is Kind.INITIAL)

    def rows_from(self, state: str) -> tuple[Row, ...]:
        """The transitions out of ``state``."""
        return tuple(row for row in self.rows if row.source == state)

    def is_final(self, state: str) -> bool:
        """Whether the migration has ended in ``state``."""
        return self.states[state].kind is Kind.FINAL

    @property
    def triggers(self) -> tuple[str, ...]:
        """All trigger names, in the order of the file."""
        return tuple(dict.fromkeys(row.trigger for row in self.rows))


def digest_of(text: str) -> str:
    """The digest under which records name the machine that decided."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
