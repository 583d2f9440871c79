"""Engines as processes: each can be killed at any point, and whatever it does is seen.

A killed engine writes no record and makes no call any more; whatever clean-up its code still tries comes to
nothing, as with ``kill -9``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, cast

from attrs import define, evolve, field, frozen

from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.engine.holder import new_holder
from fsm.engine.result import Result
from fsm.errors import FsmError
from fsm.hypervisor.port import CHANGES, Connector
from fsm.journal.port import Entry, Journal, JournalUnavailable, LeaseLost
from fsm.journal.records import Phase, Record, Step
from tests.simulation import Simulation

# Around the writing of a record. An outcome is written when the act is over.
BEFORE = {Phase.INTENT: "before-intent", Phase.OUTCOME: "after-act"}
AFTER = {Phase.INTENT: "after-intent", Phase.OUTCOME: "after-outcome"}
FAILPOINTS = (*BEFORE.values(), *AFTER.values())
# Around a call that changes something on a host.
CALLING, CALLED = "calling", "called"


class Killed(BaseException):
    """The process is dead; nothing may catch this."""


@frozen
class Point:
    """Where an engine has come to: a failpoint or call of which name, in which state and from which one."""

    moment: str
    path: tuple[str, ...]
    name: str

    @property
    def state(self) -> str:
        """The state it is in."""
        return self.path[-1]

    def __str__(self) -> str:
        return f"{self.state}: {self.moment} {self.name}"


Hook = Callable[["Life", Point], None]


def _nothing(_life: Life, _point: Point) -> None:
    """See ``Life``."""


@define(eq=False)
class Life:
    """One process with an engine in it. ``hook`` is called at every point, and may kill it."""

    simulation: Simulation
    hook: Hook = _nothing
    engine: Engine = field(init=False)
    dead: bool = field(default=False, init=False)
    journal_full: bool = field(default=False, init=False)
    parked: bool = field(default=False, init=False)
    _running: asyncio.Event = field(factory=asyncio.Event, init=False)
    path: tuple[str, ...] = field(default=("planned",), init=False)

    def __attrs_post_init__(self) -> None:
        self._running.set()
        journal, world = cast(Journal, _Journal(self)), self.simulation.world
        self.engine = Engine(journal, cast(Connector, _Connector(self)), clock=world.clock)
        driving = self.engine._driving
        driving.connector = cast(Connector, _Stopping(driving.connector, self))
        # To others it is a process that ended long ago: they need not wait for its lease.
        self.engine._heart.holder = str(evolve(new_holder(), started="1"))

    def kill(self) -> None:
        """kill -9."""
        self.dead = True
        self.check()

    def check(self) -> None:
        """Nothing is done by the dead."""
        if self.dead:
            raise Killed

    def stop(self) -> None:
        """SIGSTOP; it counts from the engine's next question to a host on."""
        self._running.clear()

    def go_on(self) -> None:
        """SIGCONT."""
        self._running.set()

    @property
    def stopped(self) -> bool:
        """Whether it has been told to stop."""
        return not self._running.is_set()

    async def turn(self) -> None:
        """A question to a host: a stopped process waits here."""
        self.parked = self.stopped
        await self._running.wait()
        self.parked = False
        self.check()

    def fill_journal(self) -> None:
        """The journal's disk is full, for this process."""
        self.journal_full = True

    def check_journal(self) -> None:
        """What SQLite says then."""
        self.check()
        if self.journal_full:
            raise JournalUnavailable("database or disk is full")

    def reach(self, moment: str, name: str) -> None:
        """The engine has come to a point."""
        self.check()
        self.simulation.write()
        self.hook(self, Point(moment, self.path, name))
        self.check()

    async def run(self, migration: str | None, **request: object) -> Result | None:
        """Begin a migration, or take it over, and drive it; None when the process came to its end before."""
        try:
            handle = await self._begin(migration, **request)
            return await handle.wait()
        except (Killed, JournalUnavailable, LeaseLost):
            return None
        finally:
            self.dead = True
            await self.engine._heart.stop()

    async def _begin(self, migration: str | None, **request: object) -> Handle:
        if migration is None:
            return await self.engine.start(self.simulation.request(**request))
        self.path = (self.simulation.journal.header(migration).state,)
        return await self.engine.resume(migration)

    def abort(self) -> None:
        """Ctrl-C."""
        for driver in self.engine._driving.driven.values():
            driver.abort()


class _Journal:
    """The journal as a living process has it."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._journal = life.simulation.journal

    def __getattr__(self, name: str) -> Any:
        self._life.check_journal()
        return getattr(self._journal, name)

    def append_all(self, entries: Sequence[Entry]) -> Sequence[Record | FsmError]:
        return [self._append(entry) for entry in entries]

    def _append(self, entry: Entry) -> Record | FsmError:
        life, record = self._life, entry.record
        name = f"{record.step} {record.name}"
        life.reach(BEFORE[record.phase], name)
        life.check_journal()
        (written,) = self._journal.append_all([entry])
        life.reach(AFTER[record.phase], name)
        life.check_journal()  # it is written, but nobody is told
        if isinstance(written, Record) and _moves(written):
            life.path = (*life.path, written.dest)[-2:]
        return written


def _moves(record: Record) -> bool:
    return record.step is Step.TRANSITION and record.phase is Phase.OUTCOME and not record.error


class _Stopping:
    """The hosts, and their storage, as a process asks them that may have been stopped before it does.

    In front of the leash: between that and the call no check could reach it.
    """

    def __init__(self, target: object, life: Life) -> None:
        self._target, self._life = target, life

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name == "storage":
            return _Stopping(attribute, self._life)
        asks = iscoroutinefunction(attribute) and name not in CHANGES
        return partial(self._ask, attribute) if asks else attribute

    async def connect(self, uri: str) -> Any:
        await self._life.turn()
        return _Stopping(await cast(Connector, self._target).connect(uri), self._life)

    async def _ask(self, attribute: Any, *arguments: Any, **named: Any) -> Any:
        await self._life.turn()
        return await attribute(*arguments, **named)


class _Connector:
    """The hosts as a living process reaches them."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def check(self, uri: str) -> None:
        self._life.simulation.world.check(uri)

    async def connect(self, uri: str) -> Any:
        self._life.check()
        return _Calls(await self._life.simulation.world.connect(uri), self._life)

    def open_channel(self, uri: str) -> Any:
        self._life.check()
        return self._life.simulation.world.open_channel(uri)


class _Calls:
    """A host or its storage."""

    def __init__(self, target: object, life: Life) -> None:
        self._target, self._life = target, life

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name == "storage":
            return _Calls(attribute, self._life)
        if name in CHANGES:
            return partial(self._change, name, attribute)
        return partial(self._ask, attribute) if iscoroutinefunction(attribute) else attribute

    async def _ask(self, attribute: Any, *arguments: Any, **named: Any) -> Any:
        self._life.check()
        return await attribute(*arguments, **named)

    async def _change(self, name: str, attribute: Any, *arguments: Any, **named: Any) -> Any:
        self._life.reach(CALLING, name)
        result = await attribute(*arguments, **named)
        self._life.reach(CALLED, name)
        return result
