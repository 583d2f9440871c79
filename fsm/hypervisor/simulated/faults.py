"""Failpoints: what happens at the n-th call of a certain method. And the log of all calls."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from attrs import define, field

from fsm.errors import HostError, HostUnreachable, OutcomeUnknown
from fsm.hypervisor import port

CHANGES = port.CHANGES | {"write", "save_snapshot"}  # a channel's writes count as calls here
QUESTIONS = frozenset(
    (
        "connect",
        "domain",
        "domain_xml",
        "domains",
        "free_bytes",
        "has_run",
        "identity",
        "migration_progress",
        "objections",
        "open_channel",
        "peek",
        "persistent_xml",
        "pool_state",
        "public_snapshots",
        "read",
        "resolve",
        "snapshots",
        "space",
        "stat",
        "writer",
    )
)

ErrorSource = BaseException | Callable[[], BaseException]


class When(StrEnum):
    """On which side of a call's effect a failpoint lies; ``DURING`` is for ``migrate`` alone.

    ``BEFORE``: nothing happened. ``AFTER``: it happened and the answer got lost. ``DURING``: the job was
    begun and goes on, and the caller is cut off.
    """

    BEFORE = "before"
    AFTER = "after"
    DURING = "during"


@define
class CallRecord:
    """One call of a port method; ``outcome`` is "ok", the error's message, or empty while it lasts."""

    host: str
    name: str
    arguments: tuple[object, ...]
    outcome: str = ""


@define(eq=False)
class Failpoint:
    """What is to happen at some calls; ``hits`` counts how often it did."""

    call: str
    host: str | None
    nth: int
    times: int | None
    when: When
    error: ErrorSource | None
    do: Callable[[], object] | None
    seen: int = 0
    hits: int = 0

    @property
    def spent(self) -> bool:
        """Whether it will never fire again."""
        return self.times is not None and self.hits >= self.times


@define
class Faults:
    """All failpoints that are armed."""

    armed: dict[str, list[Failpoint]] = field(factory=dict)

    def arm(self, point: Failpoint) -> Failpoint:
        """Add a failpoint; ``LookupError`` for a call that the port does not have."""
        if point.call not in CHANGES | QUESTIONS:
            raise LookupError(
                f"the port has no call {point.call!r}; it has {', '.join(sorted(CHANGES | QUESTIONS))}"
            )
        if point.when is When.DURING and point.call != "migrate":
            raise LookupError("only 'migrate' lasts long enough to fail during its work")
        self.armed.setdefault(point.call, []).append(point)
        return point

    def clear(self) -> None:
        """Remove all failpoints."""
        self.armed.clear()

    def due(self, host: str, call: str) -> list[Failpoint]:
        """Count a call, and return the failpoints that it has come to."""
        points = self.armed.get(call)
        if not points:
            return []
        found = []
        for point in points:
            if point.host not in (None, host):
                continue
            point.seen += 1
            if point.seen >= point.nth and not point.spent:
                point.hits += 1
                found.append(point)
        return found


def strike(points: list[Failpoint], when: When, host: str, call: str) -> None:
    """Let the failpoints on this side of the call happen: first what they do, then their error."""
    for point in points:
        if point.when is not when:
            continue
        if point.do is not None:
            point.do()
            if point.error is None:
                continue
        raise _error(point, host, call)


def _error(point: Failpoint, host: str, call: str) -> BaseException:
    if isinstance(point.error, BaseException):
        return point.error
    if point.error is not None:
        return point.error()
    if point.when is When.BEFORE:
        return HostError("a fault was injected", host=host, call=call)
    if call in CHANGES:
        return OutcomeUnknown("the answer got lost", host=host, call=call)
    return HostUnreachable("the answer got lost", host=host, call=call)
