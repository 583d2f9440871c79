"""The shell around the state: the one place where every port call passes, and where watchers are woken.

Channels call from threads of their own, so every change is made under one lock. It is never held across an
``await``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import TypeVar

from attrs import define, field

from fsm.errors import HostError, HostUnreachable, NotFound, OutcomeUnknown
from fsm.hypervisor.simulated import jobs
from fsm.hypervisor.simulated.clock import SimulatedClock
from fsm.hypervisor.simulated.faults import (
    CHANGES,
    CallRecord,
    ErrorSource,
    Failpoint,
    Faults,
    When,
    strike,
)
from fsm.hypervisor.simulated.state import (
    Denied,
    DomainRecord,
    HostState,
    Missing,
    NoSpace,
    WorldState,
)

T = TypeVar("T")

_REACH_REMEDY = "check that the host is up, that libvirtd runs there, and that the URI is right"


class Pace(StrEnum):
    """What makes jobs go on.

    ``POLLED``: each look at a domain (``domain``, ``migration_progress``, ``changed``) and each turn of a
    waiting ``migrate`` is a step. ``MANUAL``: nothing but ``tick``.
    """

    POLLED = "polled"
    MANUAL = "manual"


class Moment(StrEnum):
    """A moment in the life of a job, for ``at_moment``."""

    MIRROR = "mirror"
    MEMORY = "memory"
    SWITCH = "switch"
    CONFIRM = "confirm"
    COMMIT = "commit"
    COMMIT_READY = "commit-ready"


@define(eq=False)
class PortCall:
    """A call on its way through: into the host and out again."""

    core: WorldCore
    record: CallRecord
    points: list[Failpoint]

    def enter(self) -> HostState:
        """The host, if the call gets there."""
        strike(self.points, When.BEFORE, self.record.host, self.record.name)
        if not self.core.reaches(self.record.host):
            raise self.core.unreachable(self.record.host, self.record.name)
        return self.core.state.hosts[self.record.host]

    def leave(self, when: When = When.AFTER) -> None:
        """Bring the answer home, unless it gets lost on the way."""
        strike(self.points, when, self.record.host, self.record.name)
        if self.core.reaches(self.record.host):
            return
        if self.record.name in CHANGES:
            raise OutcomeUnknown("the connection broke", host=self.record.host, call=self.record.name)
        raise self.core.unreachable(self.record.host, self.record.name)


@define(eq=False)
class _Waiter:
    """Somebody in some event loop who waits for a change of one domain."""

    loop: asyncio.AbstractEventLoop
    event: asyncio.Event

    def wake(self) -> None:
        # RuntimeError: that loop is closed, so nobody waits any more.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.event.set)


@define(eq=False)
class WorldCore:
    """State, calls and time of a simulated world; ``SimulatedWorld`` adds what one does with it."""

    state: WorldState = field(factory=WorldState)
    pace: Pace = Pace.POLLED
    clock: SimulatedClock = field(factory=SimulatedClock)
    calls: list[CallRecord] = field(factory=list)
    faults: Faults = field(factory=Faults)
    _moments: dict[str, list[tuple[Moment, Callable[[], object]]]] = field(factory=dict, init=False)
    _waiters: dict[tuple[str, str], set[_Waiter]] = field(factory=dict, init=False)
    _crossing: dict[tuple[str, str], set[_Waiter]] = field(factory=dict, init=False)
    _lock: threading.RLock = field(factory=threading.RLock, init=False)

    # Calls

    def perform(
        self,
        uri: str,
        name: str,
        arguments: tuple[object, ...],
        effect: Callable[[WorldState, HostState], T],
    ) -> T:
        """Let a port call happen, all of it or nothing."""
        with self.passing(uri, name, arguments) as call, self.changing():
            result = effect(self.state, call.enter())
            call.leave()
            return result

    @contextmanager
    def passing(self, uri: str, name: str, arguments: tuple[object, ...]) -> Iterator[PortCall]:
        """Log a call, count it for the failpoints, and put a host's refusal into the port's errors."""
        record = CallRecord(uri, name, arguments)
        with self._lock:
            self.calls.append(record)
            points = self.faults.due(uri, name)
        try:
            yield PortCall(self, record, points)
        except Denied as refusal:
            kind = NotFound if isinstance(refusal, Missing) else HostError
            record.outcome = str(refusal)
            raise kind(str(refusal), host=uri, call=name, remedy=_remedy(refusal)) from refusal
        except BaseException as error:
            record.outcome = str(error) or type(error).__name__
            raise
        record.outcome = "ok"

    def reaches(self, uri: str) -> bool:
        """Whether a client reaches the host at ``uri``."""
        host = self.state.hosts.get(uri)
        return host is not None and host.connected and host.answers

    def unreachable(self, uri: str, call: str) -> HostUnreachable:
        """The error for a host that does not answer."""
        return HostUnreachable("unable to connect to server", host=uri, call=call, remedy=_REACH_REMEDY)

    # Faults

    def fail(
        self,
        call: str,
        *,
        host: str | None = None,
        nth: int = 1,
        times: int | None = 1,
        error: ErrorSource | None = None,
        when: str = "before",
    ) -> Failpoint:
        """Have a port call fail: the ``nth`` from now on, and the next ones up to ``times`` (None: for good).

        ``error`` is an exception or makes one; the default is ``HostError`` before the effect, and a lost
        answer after it.
        """
        return self.faults.arm(Failpoint(call, host, nth, times, When(when), error, None))

    def at(
        self,
        call: str,
        do: Callable[[], object],
        *,
        host: str | None = None,
        nth: int = 1,
        when: str = "before",
    ) -> Failpoint:
        """Have something happen right before or after the ``nth`` call from now on."""
        return self.faults.arm(Failpoint(call, host, nth, 1, When(when), None, do))

    def at_moment(self, uuid: str, moment: Moment, do: Callable[[], object]) -> None:
        """Have something happen as soon as a job of the domain comes to ``moment``; once."""
        self._moments.setdefault(uuid, []).append((moment, do))

    # Time

    def tick(self, steps: int = 1) -> None:
        """Let all jobs of the world make so many steps."""
        for _ in range(steps):
            for uuid in list(self.state.jobs):
                self.advance(uuid)

    def advance(self, uuid: str) -> None:
        """Let the jobs of one domain make a step."""
        with self.changing():
            jobs.advance(self.state, uuid)

    def look(self, uuid: str) -> None:
        """Somebody looks at a domain: that is a step, if the pace says so."""
        if self.pace is Pace.POLLED and uuid in self.state.jobs:
            self.advance(uuid)

    async def turn(self, uri: str, uuid: str, timeout_s: float | None) -> None:
        """Give others a turn, until the domain may have changed or ``timeout_s`` passed."""
        if self.pace is Pace.POLLED:
            self.look(uuid)
            await asyncio.sleep(0)
            return
        with self._waiting(self._waiters, (uri, uuid)) as event, suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()

    async def until_crossed(self, uri: str, uuid: str, timeout_s: float) -> None:
        """Until the domain wrote behind a threshold, or others have waited for ``timeout_s``."""
        with self._waiting(self._crossing, (uri, uuid)) as event:
            await self.clock.alongside(event, timeout_s)

    @contextmanager
    def _waiting(
        self, waiters: dict[tuple[str, str], set[_Waiter]], key: tuple[str, str]
    ) -> Iterator[asyncio.Event]:
        waiter = _Waiter(asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            waiters.setdefault(key, set()).add(waiter)
        try:
            yield waiter.event
        finally:
            with self._lock:
                waiters[key].discard(waiter)
                if not waiters[key]:
                    del waiters[key]

    # Changes

    @contextmanager
    def changing(self) -> Iterator[WorldState]:
        """The state, to be changed; who waits for what was changed is woken afterwards."""
        with self._lock:
            try:
                yield self.state
            finally:
                self._announce()

    def _announce(self) -> None:
        if not self.state.touched and not self.state.crossed:
            return
        touched, self.state.touched = self.state.touched, []
        crossed, self.state.crossed = self.state.crossed, []
        for happened, waiters in ((touched, self._waiters), (crossed, self._crossing)):
            for key in dict.fromkeys(happened):
                for waiter in waiters.get(key, ()):
                    waiter.wake()
        for uuid in {uuid for _, uuid in touched}.intersection(self._moments):
            self._come_to(uuid)

    def _come_to(self, uuid: str) -> None:
        now = set(_moments(self.state, uuid))
        waiting = self._moments.pop(uuid)
        if later := [(moment, do) for moment, do in waiting if moment not in now]:
            self._moments[uuid] = later
        for moment, do in waiting:
            if moment in now:
                do()


def _moments(state: WorldState, uuid: str) -> Iterator[Moment]:
    for uri in state.jobs.get(uuid, ()):
        record: DomainRecord | None = state.hosts[uri].domains.get(uuid)
        instance = record.instance if record else None
        if instance is None:
            continue
        if instance.migration is not None:
            yield Moment(instance.migration.phase.value)
        for disk in instance.disks.values():
            if disk.commit is not None:
                yield Moment.COMMIT_READY if disk.commit.ready else Moment.COMMIT


def _remedy(refusal: Denied) -> str:
    return "free space on its file system" if isinstance(refusal, NoSpace) else ""
