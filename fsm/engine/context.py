"""What actions and activities are given to work with: the plan, the two hosts, and a way to tell progress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from attrs import define, field, frozen

from fsm.engine.clock import Clock
from fsm.engine.history import History
from fsm.engine.log import EventLog, event_log
from fsm.engine.plan import Plan, Request, Side
from fsm.errors import ActionFailed, FsmError, HostUnreachable
from fsm.hypervisor.port import Connector, Host, Watch
from fsm.hypervisor.values import Base
from fsm.journal.records import Data

T = TypeVar("T")


@frozen
class Progress:
    """How far one phase has come. ``total_bytes`` 0 means not known yet."""

    migration: str
    phase: str
    done_bytes: int
    total_bytes: int


class CalledOff(FsmError):
    """The step was given up because the migration is not to go on."""


@define
class Hosts:
    """The two hosts of a migration, connected when first needed."""

    connector: Connector
    request: Request
    expected: Plan | None = None
    _open: dict[Side, Host] = field(factory=dict)

    async def get(self, side: Side) -> Host:
        """The host; raises ``HostUnreachable`` when it can't be connected.

        With a plan from before, a host that is not the one of the plan counts as unreachable: nothing is
        known of the right one, and the other has nothing to do with it.
        """
        if side not in self._open:
            host = await self.connector.connect(self.request.uri(side))
            if self.expected is not None and (wanted := self.expected.host_uuid(side)):
                try:
                    await _recognise(host, wanted)
                except BaseException:
                    await host.close()
                    raise
            self._open[side] = host
        return self._open[side]

    async def close(self) -> None:
        """Close what is open."""
        for host in self._open.values():
            await host.close()
        self._open.clear()


@define
class Context:
    """One migration's work environment.

    ``outcome`` collects what goes into the step's outcome record; ``note`` writes a record at once, for what
    a later engine must know before the step ends. ``claim`` reserves the domain in the journal, which is at
    ``journal``. ``copying`` lets only so many of an engine's migrations copy at once. ``abort`` is set when
    somebody asks for an abort, ``short`` when a file system would get full. ``log`` is the engine's.
    """

    migration: str
    journal: str
    request: Request
    hosts: Hosts
    copying: asyncio.Semaphore
    clock: Clock
    history: History
    step_timeout_s: float
    note: Callable[[str, Data], Awaitable[None]]
    claim: Callable[[str], Awaitable[None]]
    abort: asyncio.Event = field(factory=asyncio.Event)
    short: asyncio.Event = field(factory=asyncio.Event)
    on_progress: Callable[[Progress], None] = lambda _progress: None
    log: EventLog = field(factory=event_log)
    outcome: Data = field(factory=dict)
    progress_at_s: float = 0.0
    _watches: dict[Side, Watch] = field(factory=dict)

    @property
    def planned(self) -> Plan:
        """The plan; only steps behind preflight ask for it."""
        if self.history.plan is None:
            raise ActionFailed("plan", "preflight has not made one", retryable=False)
        return self.history.plan

    @property
    def copied_bases(self) -> tuple[Base, ...]:
        """The bases of which the destination gets a copy: all but those that both hosts share."""
        shared = {overlay.base for overlay in self.planned.overlays if overlay.shared}
        return tuple(base for base in self.history.bases.bases if base.path not in shared)

    @property
    def copies(self) -> tuple[Base, ...]:
        """The same as the destination has them, in the same order."""
        return tuple(self.planned.copy_of(base) for base in self.copied_bases)

    async def host(self, side: Side) -> Host:
        """The host on that side; raises ``HostUnreachable``."""
        return await self.hosts.get(side)

    def is_fenced(self, side: Side) -> bool:
        """Whether the operator attests that this host is off: what lies there can't be cleaned up."""
        return side in self.history.fenced

    def progress(self, phase: str, done_bytes: int, total_bytes: int) -> None:
        """Tell how far a phase has come; the state's timeout starts anew."""
        self.progress_at_s = self.clock.monotonic_s()
        self.show(phase, done_bytes, total_bytes)

    def show(self, phase: str, done_bytes: int, total_bytes: int) -> None:
        """Tell where a phase stands that does not come any further."""
        self.on_progress(Progress(self.migration, phase, done_bytes, total_bytes))

    @property
    def called_off(self) -> bool:
        """Whether the migration is not to go on."""
        return self.abort.is_set() or self.short.is_set()

    def stalled(self) -> bool:
        """Whether the step has made no progress for its state's whole timeout."""
        return self.clock.monotonic_s() - self.progress_at_s > self.step_timeout_s

    async def wait_change(self, side: Side, timeout_s: float) -> None:
        """Wait until something about the domain changed on that host, at most ``timeout_s``."""
        if side not in self._watches:
            self._watches[side] = (await self.host(side)).watch(self.planned.domain_uuid)
        await self._watches[side].changed(timeout_s)

    async def unless_called_off(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end, or cancel it and raise ``CalledOff`` as soon as it is called off."""
        task = asyncio.ensure_future(work)
        ends = [asyncio.ensure_future(event.wait()) for event in (self.abort, self.short)]
        try:
            await asyncio.wait((task, *ends), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            why = "an abort was asked for" if self.abort.is_set() else "a file system is about to be full"
            raise CalledOff(f"given up: {why}")
        finally:
            for end in ends:
                end.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))

    def close(self) -> None:
        """Stop watching."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()


async def _recognise(host: Host, wanted: str) -> None:
    found = (await host.identity()).uuid
    if found != wanted:
        raise HostUnreachable(
            f"another host answers there: its UUID is {found}, and the migration began with {wanted}",
            host=host.uri,
            call="connect",
            remedy="see where this URI leads now",
        )
