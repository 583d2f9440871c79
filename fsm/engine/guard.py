"""The guard for orchestrators: may this be done to that domain now?

It answers from the journal, so from any process that can open it, and from the marker that a domain on an
overlay carries, so from any host without a journal. It answers and stops nobody: an operation that was
permitted may still be under way when a migration begins. What that leaves behind the engine finds before it
commits anything.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, TypeVar, cast
from uuid import UUID

from attrs import frozen

from fsm.engine.history import fold
from fsm.engine.plan import Plan
from fsm.errors import BadInput
from fsm.hypervisor.port import Connector
from fsm.hypervisor.values import Marker
from fsm.journal.port import Journal
from fsm.journal.records import Header
from fsm.machine import guard
from fsm.machine.guard import Verdict
from fsm.machine.operations import Operation
from fsm.machine.spec import Spec

F = TypeVar("F", bound=Callable[..., Any])


@frozen
class Held:
    """An operation that the guard let begin; ``check`` asks again between the steps of a long one."""

    check: Callable[[], None]


@frozen
class Guard:
    """Verdicts on operations. ``journal`` None: only markers tell. Methods that read the journal block."""

    spec: Spec
    journal: Journal | None = None
    connector: Connector | None = None

    def permits(self, domain: str, operation: Operation | str) -> Verdict:
        """The verdict by the journal. ``domain`` is a UUID, or a name, which other hosts may have as well.

        Raises ``BadInput`` for an operation that does not exist, and what the journal raises.
        """
        return self._of_headers(self._headers(domain), operation_of(operation))

    def check(self, domain: str, operation: Operation | str) -> None:
        """Raise ``OperationBlocked`` unless the journal permits it."""
        self.permits(domain, operation).demand()

    def table(self, domain: str) -> tuple[Verdict, ...]:
        """The verdict on every operation, by the journal."""
        headers = self._headers(domain)
        return tuple(self._of_headers(headers, operation) for operation in Operation)

    def permits_volume(self, path: str, operation: Operation | str) -> Verdict:
        """The verdict on a file by its path: a base or overlay of an unfinished migration, on any host."""
        headers = [header for header in self._unfinished() if path in _files(self._plan(header))]
        return self._of_headers(headers, operation_of(operation))

    def check_volume(self, path: str, operation: Operation | str) -> None:
        """Raise ``OperationBlocked`` unless it is permitted."""
        self.permits_volume(path, operation).demand()

    def permits_marked(self, marker: Marker | None, operation: Operation | str) -> Verdict:
        """The verdict by a domain's own marker alone (``DomainFacts.marker``)."""
        wanted = operation_of(operation)
        if marker is None:
            return Verdict(wanted, permitted=True, state="")
        return guard.permits_marked(self.spec, marker.migration, wanted)

    async def look(self, uri: str, domain: str) -> tuple[Verdict, ...]:
        """The verdict on every operation, by the journal and by the domain's marker on the host at ``uri``.

        Raises ``NotFound`` when it has no such domain and ``HostUnreachable`` when it can't be asked.
        """
        if self.connector is None:
            raise BadInput("this guard has no connector to ask a host with")
        host = await self.connector.connect(uri)
        try:
            uuid = await host.resolve(domain)
            facts = await host.domain(uuid)
        finally:
            await host.close()
        marker = facts.marker if facts else None
        headers = await asyncio.to_thread(self._headers, uuid)
        if marker is None or marker.migration in {header.migration for header in headers}:
            return tuple(self._of_headers(headers, operation) for operation in Operation)
        return tuple(self.permits_marked(marker, operation) for operation in Operation)

    def plan_of(self, domain: str) -> Plan | None:
        """What the domain's unfinished migration has planned, None without one or before there is a plan."""
        plans = [self._plan(header) for header in self._headers(domain)]
        return next((plan for plan in plans if plan is not None), None)

    @contextmanager
    def holding(self, domain: str, operation: Operation | str) -> Iterator[Held]:
        """Check on entry, and raise ``OperationBlocked``. No migration is kept from beginning meanwhile."""
        self.check(domain, operation)
        yield Held(partial(self.check, domain, operation))

    def guards(self, operation: Operation | str, domain: str = "domain") -> Callable[[F], F]:
        """Check before each call of a function of an orchestrator, plain or asynchronous.

        ``domain`` names the parameter that holds the domain's name or UUID. As with ``holding``, only the
        call's beginning is checked.
        """
        wanted = operation_of(operation)

        def decorate(function: F) -> F:
            signature = inspect.signature(function)
            if domain not in signature.parameters:
                raise BadInput(f"{function.__qualname__} has no parameter {domain!r}")

            def named(*arguments: Any, **keywords: Any) -> str:
                return str(signature.bind(*arguments, **keywords).arguments[domain])

            if inspect.iscoroutinefunction(function):

                @wraps(function)
                async def checked_async(*arguments: Any, **keywords: Any) -> Any:
                    await asyncio.to_thread(self.check, named(*arguments, **keywords), wanted)
                    return await function(*arguments, **keywords)

                return cast(F, checked_async)

            @wraps(function)
            def checked(*arguments: Any, **keywords: Any) -> Any:
                self.check(named(*arguments, **keywords), wanted)
                return function(*arguments, **keywords)

            return cast(F, checked)

        return decorate

    # -- the journal ----------------------------------------------------------------------------------

    def _unfinished(self) -> list[Header]:
        return [] if self.journal is None else list(self.journal.headers(unfinished=True))

    def _headers(self, domain: str) -> list[Header]:
        uuid = _uuid_of(domain)
        return [header for header in self._unfinished() if self._is_of(header, domain, uuid)]

    def _is_of(self, header: Header, domain: str, uuid: str | None) -> bool:
        asked_for = _uuid_of(header.domain)
        if uuid is not None:
            return uuid in (header.domain_uuid, asked_for) or domain == header.domain
        if asked_for is None:
            return domain in {header.domain, header.request.get("destination_name") or None}
        plan = self._plan(header)
        return plan is not None and domain in {plan.domain_name, plan.destination_name or None}

    def _plan(self, header: Header) -> Plan | None:
        records = [] if self.journal is None else self.journal.records(header.migration)
        return fold(self.spec.initial, records).plan

    def _of_headers(self, headers: list[Header], operation: Operation) -> Verdict:
        for header in headers:
            heading, migration = header.heading_for or None, header.migration
            state = header.state
            verdict = guard.permits(self.spec, state, operation, heading_for=heading, migration=migration)
            if not verdict.permitted:
                return verdict
        return Verdict(operation, permitted=True, state=headers[0].state if headers else "")


def operation_of(name: Operation | str) -> Operation:
    """The operation with this name. Raises ``BadInput`` with all names."""
    try:
        return Operation(name)
    except ValueError:
        raise BadInput(
            f"there is no operation {name!r}", remedy=f"operations: {', '.join(Operation)}"
        ) from None


def _uuid_of(text: str) -> str | None:
    try:
        return str(UUID(text))
    except ValueError:
        return None


def _files(plan: Plan | None) -> set[str]:
    return {path for overlay in plan.overlays for path in overlay.files} if plan else set()
