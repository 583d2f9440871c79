"""The engine as orchestrators embed it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from attrs import define, field

from fsm.engine import doctor
from fsm.engine.adoption import Adoption
from fsm.engine.bad_input import check_request
from fsm.engine.cases import Case, Examined
from fsm.engine.clock import Clock, SystemClock
from fsm.engine.context import Hosts, Progress
from fsm.engine.driver import Driver
from fsm.engine.effective import as_defined
from fsm.engine.guard import Guard
from fsm.engine.handle import Handle
from fsm.engine.heart import BEAT_S, Heart
from fsm.engine.history import fold
from fsm.engine.holder import is_dead
from fsm.engine.leash import LeashedConnector
from fsm.engine.plan import Request, Side
from fsm.engine.result import Result
from fsm.engine.scribe import Scribe
from fsm.engine.sharing import SharedConnector
from fsm.errors import FsmError, JournalCorrupt
from fsm.hypervisor.port import Connector
from fsm.journal.port import Journal, JournalUnavailable, Leased, Taken
from fsm.journal.records import Data, Header, Lease, Record, converter
from fsm.journal.sql import open_journal
from fsm.machine.interpreter import Interpreter
from fsm.machine.loader import load_default
from fsm.machine.spec import Spec
from fsm.machine.validation import check

log = structlog.get_logger("fsm")

# How many migrations copy at the same time: each has a thread and a pair of connections per worker. More
# would share the same links and disks.
COPIES_AT_ONCE = 8


def _validated(spec: Spec) -> Spec:
    return spec if spec is load_default() else check(spec)


@define(eq=False)
class Engine:
    """Drives migrations. ``connector`` reaches the hosts, ``journal`` keeps the records.

    ``spec`` is the machine; a description that does not validate raises ``SpecError`` here. An engine belongs
    to one event loop. The callbacks of its methods are called from that loop, apart from the engine: one that
    raises is reported by the loop's exception handler and harms nothing else.
    """

    journal: Journal
    connector: Connector
    spec: Spec = field(factory=load_default, converter=_validated)
    clock: Clock = field(factory=SystemClock)
    _heart: Heart = field(init=False)
    _interpreter: Interpreter = field(init=False)
    _scribe: Scribe = field(init=False)
    _hosts: Connector = field(init=False)
    _copying: asyncio.Semaphore = field(init=False)
    _driven: dict[str, Driver] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._heart = Heart(self.journal, on_beat=self._hand_out_requests)
        self._interpreter = Interpreter(self.spec)
        self._scribe = Scribe(self.journal)
        self._hosts = LeashedConnector(SharedConnector(self.connector), self._heart.check)
        self._copying = asyncio.Semaphore(COPIES_AT_ONCE)

    @classmethod
    def open(cls, journal: Path, connector: Connector | None = None, *, spec: Spec | None = None) -> Engine:
        """An engine with the journal in that file, on real libvirt hosts unless a ``connector`` is given."""
        if connector is None:
            # Here, so that embedders who simulate need no libvirt library.
            from fsm.hypervisor.libvirt import LibvirtConnector

            connector = LibvirtConnector()
        return cls(open_journal(journal), connector, spec or load_default())

    async def __aenter__(self) -> Self:
        """Use it as a context manager to have it closed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Let the leases go and close the journal. Detach what is under way first, or wait for its end."""
        await self._heart.stop()
        self.journal.close()

    async def start(
        self,
        request: Request,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_record: Callable[[Record], None] | None = None,
    ) -> Handle:
        """Begin a migration. Raises ``BadInput`` for a request that is wrong in itself."""
        check_request(request)
        for uri in (request.source_uri, request.destination_uri):
            self.connector.check(uri)
        header = Header(
            migration=secrets.token_hex(6),
            created=self.clock.now(),
            domain=request.domain,
            source_uri=request.shown_uri(Side.SOURCE),
            destination_uri=request.shown_uri(Side.DESTINATION),
            state=self.spec.initial,
            request=converter.unstructure(request),
        )
        await asyncio.to_thread(self.journal.create, header)
        log.info("migration-created", migration=header.migration, domain=request.domain)
        return await self._drive(header.migration, on_progress, on_record)

    async def migrate(self, request: Request) -> Result:
        """Migrate and wait for the end."""
        return await (await self.start(request)).wait()

    async def resume(
        self,
        migration: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_record: Callable[[Record], None] | None = None,
    ) -> Handle:
        """Go on with a migration whose engine is gone.

        An engine that died on this machine is known to be gone at once; for any other one this waits until
        its lease has run out. Raises ``BadInput`` when there is no such migration and ``Leased`` while a
        living engine drives it.
        """
        return await self._drive(migration, on_progress, on_record)

    async def resume_all(
        self,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_record: Callable[[Record], None] | None = None,
    ) -> tuple[list[Handle], list[FsmError]]:
        """Go on with every unfinished migration whose engine is gone, as ``resume`` does with one.

        Returns what is now driven here, and why each of the others is not: ``Leased``, or ``JournalCorrupt``.
        """
        await self._heart.start()
        found = await asyncio.to_thread(self.journal.take_over, self._heart.holder, is_dead)
        taken = [one for one in found if isinstance(one, Taken)]
        handles = await self._begin(taken, on_progress, on_record)
        left: list[FsmError] = [one for one in found if isinstance(one, JournalCorrupt)]

        async def wait_for(migration: str) -> None:
            try:
                handles.append(await self._drive(migration, on_progress, on_record))
            except (Leased, JournalCorrupt) as error:
                left.append(error)

        await asyncio.gather(*(wait_for(one.migration) for one in found if isinstance(one, Leased)))
        return handles, left

    async def ask(
        self,
        migration: str,
        name: str,
        fenced: Collection[Side] = (),
        accept_loss: Collection[str] = (),
    ) -> None:
        """Leave a request, "abort", "retry" or "rescue", for whoever drives the migration now or later.

        ``fenced`` names hosts of which the asker attests that they are off, ``accept_loss`` snapshots that
        were taken into the overlays and may vanish. Raises ``BadInput`` when there is no such migration.
        """
        data: Data = {"fenced": sorted(fenced)} if fenced else {}
        if accept_loss:
            data["accept_loss"] = sorted(accept_loss)
        await asyncio.to_thread(self.journal.ask, migration, name, data)

    async def examine(self, uris: Sequence[str]) -> tuple[Examined, ...]:
        """Look at hosts for domains that wait on overlays, and for what the hosts lack. Changes nothing.

        Raises ``BadInput`` for a malformed URI.
        """
        return await doctor.examine(self.connector, self.journal, uris)

    async def adopt(
        self,
        case: Case,
        examined: Sequence[Examined],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_record: Callable[[Record], None] | None = None,
    ) -> Handle:
        """Take over a migration whose journal is lost: make a record of what the hosts show, and finish it.

        ``case`` and ``examined`` come from ``examine``. Calling this is the caller's word that nobody drives
        the migration. Raises ``AdoptionRefused`` where it can be seen that somebody may, or where what is
        seen does not suffice; nothing was done then.
        """
        adoption = Adoption(self.connector, self.journal, self.clock, case, examined)
        header, first = await adoption.prepared(self.spec)
        await asyncio.to_thread(self.journal.create, header, first)
        log.info("migration-adopted", migration=header.migration, domain=header.domain)
        return await self._drive(header.migration, on_progress, on_record)

    @property
    def guard(self) -> Guard:
        """Whether an operation on a domain would harm its migration; for orchestrators to ask beforehand."""
        return Guard(self.spec, self.journal, self.connector)

    async def effective_xml(self, domain: str, uri: str = "qemu:///system") -> str:
        """The definition of a domain on the host at ``uri`` as its user wrote it, secrets included.

        While the domain is on an overlay libvirt's own answer names that file as the disk's source, and holds
        the marker. ``domain`` is a name or UUID. Raises ``NotFound`` when the host has no such domain.
        """
        host = await self.connector.connect(uri)
        try:
            uuid = await host.resolve(domain)
            xml = await host.persistent_xml(uuid)
        finally:
            await host.close()
        return as_defined(xml, await asyncio.to_thread(self.guard.plan_of, uuid))

    def migrations(self, *, unfinished: bool = False) -> Sequence[Header]:
        """What the journal knows, oldest first. Blocking."""
        return self.journal.headers(unfinished=unfinished)

    async def _drive(
        self,
        migration: str,
        on_progress: Callable[[Progress], None] | None,
        on_record: Callable[[Record], None] | None,
    ) -> Handle:
        await self._heart.start()
        lease = await self._acquire(migration)
        # Read behind the lease: until then another engine may have been writing.
        header = await asyncio.to_thread(self.journal.header, migration)
        taken = Taken(lease, header, await asyncio.to_thread(self.journal.records, migration))
        handles = await self._begin([taken], on_progress, on_record)
        return handles[0]

    async def _begin(
        self,
        taken: Sequence[Taken],
        on_progress: Callable[[Progress], None] | None,
        on_record: Callable[[Record], None] | None,
    ) -> list[Handle]:
        """Drive what was taken over."""
        drivers = [self._driver(one, on_progress, on_record) for one in taken]
        self._driven.update((driver.migration, driver) for driver in drivers)
        await self._hand_out_requests()
        handles = []
        for driver in drivers:
            task = asyncio.create_task(self._to_the_end(driver), name=f"migration {driver.migration}")
            handles.append(Handle(driver.migration, task, driver))
        # A task that is cancelled before its first step never comes to the clean-up at its end.
        await asyncio.sleep(0)
        return handles

    def _driver(
        self,
        taken: Taken,
        on_progress: Callable[[Progress], None] | None,
        on_record: Callable[[Record], None] | None,
    ) -> Driver:
        request = converter.structure(taken.header.request, Request)
        loop = asyncio.get_running_loop()

        def tell_progress(progress: Progress) -> None:
            if on_progress is not None:
                loop.call_soon(on_progress, progress)

        def tell_record(record: Record) -> None:
            if on_record is not None:
                loop.call_soon(on_record, record)

        return Driver(
            migration=taken.header.migration,
            request=request,
            interpreter=self._interpreter,
            journal=self.journal,
            scribe=self._scribe,
            hosts=Hosts(self._hosts, request),
            copying=self._copying,
            clock=self.clock,
            history=fold(self.spec.initial, taken.records),
            lease=taken.lease,
            on_progress=tell_progress,
            on_record=tell_record,
        )

    async def _to_the_end(self, driver: Driver) -> Result:
        try:
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
        del self._driven[driver.migration]
        with suppress(JournalUnavailable):  # then the lease runs out by itself
            await asyncio.to_thread(self.journal.release, driver.lease)
        await driver.hosts.close()

    async def _acquire(self, migration: str) -> Lease:
        """The lease, waited for as long as another engine's may last that has stopped to beat."""
        acquire = partial(self.journal.acquire, migration, self._heart.holder, is_dead)
        expires: datetime | None = None
        while True:  # ends: with the lease, with its holder's next heartbeat, or with any other error
            try:
                return await asyncio.to_thread(acquire)
            except Leased as error:
                if expires is not None and error.expires > expires:
                    raise
                expires = error.expires
            await asyncio.sleep(BEAT_S)

    async def _hand_out_requests(self) -> None:
        for asked in await asyncio.to_thread(self.journal.asked):
            if (driver := self._driven.get(asked.migration)) is not None:
                driver.ask(asked)
