"""The migrations that an engine drives: begun with what they share, and let go of whatever ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from attrs import define, field

from fsm.engine.callbacks import Callbacks, Deliver, OnProgress, OnRecord
from fsm.engine.clock import Clock
from fsm.engine.context import Hosts, Progress
from fsm.engine.driver import Driver
from fsm.engine.feed import Feed
from fsm.engine.handle import Handle
from fsm.engine.heart import BEAT_S
from fsm.engine.history import fold
from fsm.engine.holder import is_dead
from fsm.engine.limits import Limits, Places
from fsm.engine.log import EventLog
from fsm.engine.plan import Request, Side
from fsm.engine.result import Result
from fsm.engine.scribe import Scribe
from fsm.errors import FsmError
from fsm.hypervisor.port import Connector
from fsm.hypervisor.uris import safe_uri
from fsm.journal.port import Journal, JournalUnavailable, Leased, Taken
from fsm.journal.records import Lease, Step, converter
from fsm.machine.interpreter import Interpreter
from fsm.machine.spec import Spec

T = TypeVar("T")


@define(eq=False)
class Driving:
    """One engine's migrations under way. ``connector`` lets changes through while the leases hold."""

    spec: Spec
    journal: Journal
    connector: Connector
    clock: Clock
    limits: Limits
    log: EventLog
    deliver: Deliver | None
    driven: dict[str, Driver] = field(factory=dict, init=False)
    handles: dict[str, Handle] = field(factory=dict, init=False)
    callbacks: Callbacks = field(init=False)
    places: Places = field(init=False)
    copying: asyncio.Semaphore = field(init=False)
    _interpreter: Interpreter = field(init=False)
    _scribe: Scribe = field(init=False)
    _owed: list[Lease] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.callbacks = Callbacks(self.log, self.deliver)
        self.places = Places(self.limits)
        self.copying = asyncio.Semaphore(self.limits.copying)
        self._interpreter = Interpreter(self.spec)
        self._scribe = Scribe(self.journal)

    async def acquire(self, migration: str, holder: str) -> Lease:
        """The lease for ``holder``, waited for as long as another engine's may last that has stopped to beat.

        Raises ``Leased`` when that one goes on to beat, and ``BadInput`` for an unknown migration.
        """
        acquire = partial(self.journal.acquire, migration, holder, is_dead)
        expires: datetime | None = None
        while True:  # ends: with the lease, with its holder's next heartbeat, or with any other error
            try:
                return await self._taken(acquire, lambda lease: (lease,))
            except Leased as error:
                if expires is not None and error.expires > expires:
                    raise
                expires = error.expires
            await asyncio.sleep(BEAT_S)

    async def take(self, migration: str, holder: str) -> Taken:
        """The same with all that is recorded of it, read behind the lease: before, another may have written.

        One that can't be read is nobody's afterwards.
        """
        lease = await self.acquire(migration, holder)
        try:
            header = await asyncio.to_thread(self.journal.header, migration)
            return Taken(lease, header, await asyncio.to_thread(self.journal.records, migration))
        except BaseException:
            await self._release(lease)
            raise

    async def take_over(self, holder: str) -> Sequence[Taken | FsmError]:
        """See ``Journal.take_over``."""
        return await self._taken(
            partial(self.journal.take_over, holder, is_dead),
            lambda found: [one.lease for one in found if isinstance(one, Taken)],
        )

    async def _taken(self, take: Callable[[], T], leases_of: Callable[[T], Iterable[Lease]]) -> T:
        """Take in a thread, which no cancellation reaches: what it gets behind one is given back."""
        taking = asyncio.ensure_future(asyncio.to_thread(take))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await asyncio.wait((taking,))
            if taking.exception() is None:
                for lease in leases_of(taking.result()):
                    await self._release(lease)
            raise

    async def begin(
        self,
        taken: Sequence[Taken],
        on_progress: OnProgress | None,
        on_record: OnRecord | None,
    ) -> list[Handle]:
        """Drive what was taken over."""
        begun = []
        for one in taken:
            feed = Feed(one.header.migration, self.journal, max((r.sequence for r in one.records), default=0))
            driver = self._driver(one, feed)
            begun.append((driver, feed, _may_not_wait(one)))
            self.driven[driver.migration] = driver
        try:
            await self.hand_out_requests()
        except BaseException:
            # Nobody drives them; kept by a heart that goes on, their leases would keep all others away.
            for driver, _, _ in begun:
                await self._let_go(driver)
            raise
        handles = []
        for driver, feed, may_not_wait in begun:
            teller = self.callbacks.teller(feed, on_progress, on_record)
            work = self._to_the_end(driver, feed, may_not_wait=may_not_wait)
            task = asyncio.create_task(work, name=f"migration {driver.migration}")
            task.add_done_callback(partial(self._ended, feed))
            handles.append(Handle(driver.migration, task, driver, feed, teller))
            self.handles[driver.migration] = handles[-1]
        # A task that is cancelled before its first step never comes to the clean-up at its end.
        await asyncio.sleep(0)
        return handles

    def _driver(self, taken: Taken, feed: Feed) -> Driver:
        request = converter.structure(taken.header.request, Request)
        return Driver(
            migration=taken.header.migration,
            request=request,
            interpreter=self._interpreter,
            journal=self.journal,
            scribe=self._scribe,
            hosts=Hosts(self.connector, request),
            copying=self.copying,
            clock=self.clock,
            history=fold(self.spec.initial, taken.records),
            lease=taken.lease,
            log=self.log,
            on_progress=feed.tell,
            on_record=feed.tell,
        )

    async def _to_the_end(self, driver: Driver, feed: Feed, *, may_not_wait: bool) -> Result:
        source, destination = (safe_uri(driver.request.uri(side)) for side in Side)
        waits = partial(feed.tell, Progress(driver.migration, "waiting", 0, 0))
        place = self.places.place(
            source, destination, begun=may_not_wait, unless=driver.abort_requested, waits=waits
        )
        try:
            async with place:
                return await driver.run()
        finally:
            letting_go = asyncio.ensure_future(self._let_go(driver))
            try:
                await asyncio.shield(letting_go)
            except asyncio.CancelledError:
                await asyncio.wait((letting_go,))
                raise

    async def _let_go(self, driver: Driver) -> None:
        """Close what the driver used and give its lease back, also when it is cancelled meanwhile."""
        del self.driven[driver.migration]
        await self._release(driver.lease)
        await driver.hosts.close()

    async def _release(self, lease: Lease) -> None:
        try:
            await asyncio.to_thread(self.journal.release, lease)
        except JournalUnavailable:
            # While this engine's heart goes on the lease never runs out by itself.
            self._owed.append(lease)

    def _ended(self, feed: Feed, _task: asyncio.Task[Result]) -> None:
        # Its lease was free a moment before: it may be driven here again.
        handle = self.handles.get(feed.migration)
        if handle is not None and handle.ended:
            del self.handles[feed.migration]
        feed.end()

    async def hand_out_requests(self) -> None:
        """Give every driver what was asked of its migration in the journal, and leases back that are owed."""
        for lease in tuple(self._owed):  # others may give them back, or owe more, meanwhile
            await asyncio.to_thread(self.journal.release, lease)
            if lease in self._owed:
                self._owed.remove(lease)
        for asked in await asyncio.to_thread(self.journal.asked):
            if (driver := self.driven.get(asked.migration)) is not None:
                driver.ask(asked)


def _may_not_wait(taken: Taken) -> bool:
    """Whether its hosts may have been touched, by a transition or before an adoption, or it is to end."""
    return any(
        record.step is Step.TRANSITION or (record.step is Step.REQUEST and record.name in ("adopt", "abort"))
        for record in taken.records
    )
