"""The engine as orchestrators embed it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self

from attrs import define, field

from fsm.engine import doctor
from fsm.engine.adoption import Adoption
from fsm.engine.bad_input import check_request
from fsm.engine.callbacks import Deliver, OnProgress, OnRecord
from fsm.engine.cases import Case, Examined
from fsm.engine.clock import Clock, SystemClock
from fsm.engine.driving import Driving
from fsm.engine.effective import as_defined
from fsm.engine.guard import Guard
from fsm.engine.handle import Handle
from fsm.engine.heart import Heart
from fsm.engine.inventory import inventory
from fsm.engine.leash import LeashedConnector
from fsm.engine.limits import Limits
from fsm.engine.log import EventLog, Logger, event_log
from fsm.engine.plan import Request, Side
from fsm.engine.result import Result
from fsm.engine.sharing import SharedConnector
from fsm.errors import FsmError, JournalCorrupt
from fsm.hypervisor.port import Connector
from fsm.hypervisor.values import DomainFacts
from fsm.journal.opening import Named, journal_of
from fsm.journal.port import Journal, Leased, Taken
from fsm.journal.records import Data, Header, converter
from fsm.machine.loader import load_default
from fsm.machine.spec import Spec
from fsm.machine.validation import check


def _validated(spec: Spec) -> Spec:
    return spec if spec is load_default() else check(spec)


@define(eq=False)
class Engine:
    """Drives migrations. ``connector`` reaches the hosts, ``journal`` keeps the records.

    ``spec`` is the machine; a description that does not validate raises ``SpecError`` here. ``limits`` say
    how many migrations run at once, and events go to ``log`` (see ``fsm.engine.log``). An engine belongs to
    one event loop.

    The callbacks of its methods are called one at a time in a thread of the engine's: ``on_record`` with
    every record, in order, and ``on_progress`` with the newest progress in between. One that blocks holds up
    other callbacks alone, and the end of ``Handle.wait``; one that raises is logged. ``deliver`` hands the
    calls to another place that makes them one at a time, such as ``loop.call_soon``.
    """

    journal: Journal
    connector: Connector
    spec: Spec = field(factory=load_default, converter=_validated)
    clock: Clock = field(factory=SystemClock)
    limits: Limits = field(factory=Limits)
    log: EventLog = field(default=None, converter=event_log)
    deliver: Deliver | None = None
    _heart: Heart = field(init=False)
    _driving: Driving = field(init=False)

    def __attrs_post_init__(self) -> None:
        heart = Heart(self.journal, on_beat=self._hand_out_requests)
        connector = LeashedConnector(SharedConnector(self.connector), heart.check)
        self._heart = heart
        self._driving = Driving(
            self.spec, self.journal, connector, self.clock, self.limits, self.log, self.deliver
        )

    @classmethod
    def open(
        cls,
        journal: Named,
        connector: Connector | None = None,
        *,
        spec: Spec | None = None,
        clock: Clock | None = None,
        limits: Limits | None = None,
        log: Logger | None = None,
        deliver: Deliver | None = None,
    ) -> Engine:
        """An engine on real libvirt hosts unless a ``connector`` is given.

        ``journal`` is the path or the URL of a SQLite file, or a ``fsm.journal.port.Journal``; the engine
        closes it. Raises ``JournalUnavailable``, and ``BadInput`` for a URL of something else.
        """
        if connector is None:
            # Here, so that embedders who simulate need no libvirt library.
            from fsm.hypervisor.libvirt import LibvirtConnector

            connector = LibvirtConnector()
        settings = clock or SystemClock(), limits or Limits(), log, deliver
        return cls(journal_of(journal), connector, spec or load_default(), *settings)

    async def __aenter__(self) -> Self:
        """Use it as a context manager to have it closed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Let go of what is under way, which ``resume`` takes over, and close the journal.

        Callbacks that have not returned are waited for, at most ``fsm.engine.callbacks.ENDING_S`` seconds.
        """
        await asyncio.gather(*(handle.detach() for handle in self.handles.values()))
        await self._driving.callbacks.close()
        await self._heart.stop()
        self.journal.close()

    async def start(
        self,
        request: Request,
        *,
        on_progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
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
        self.log.info("migration-created", migration=header.migration, domain=request.domain)
        return await self._drive(header.migration, on_progress, on_record)

    async def migrate(
        self,
        request: Request,
        *,
        on_progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
    ) -> Result:
        """Migrate and wait for the end: ``start`` and ``Handle.wait`` in one."""
        return await (await self.start(request, on_progress=on_progress, on_record=on_record)).wait()

    async def resume(
        self,
        migration: str,
        *,
        on_progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
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
        on_progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
    ) -> tuple[list[Handle], list[FsmError]]:
        """Go on with every unfinished migration whose engine is gone, as ``resume`` does with one.

        Returns what is now driven here, and why each of the others is not: ``Leased``, or ``JournalCorrupt``.
        """
        await self._heart.start()
        found = await self._driving.take_over(self._heart.holder)
        taken = [one for one in found if isinstance(one, Taken)]
        handles = await self._driving.begin(taken, on_progress, on_record)
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
        on_progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
    ) -> Handle:
        """Take over a migration whose journal is lost: make a record of what the hosts show, and finish it.

        ``case`` and ``examined`` come from ``examine``. Calling this is the caller's word that nobody drives
        the migration. Raises ``AdoptionRefused`` where it can be seen that somebody may, or where what is
        seen does not suffice; nothing was done then.
        """
        adoption = Adoption(self.connector, self.journal, self.clock, case, examined)
        header, first = await adoption.prepared(self.spec)
        await asyncio.to_thread(self.journal.create, header, first)
        self.log.info("migration-adopted", migration=header.migration, domain=header.domain)
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

    async def domains(self, uri: str = "qemu:///system") -> tuple[DomainFacts, ...]:
        """All domains of the host at ``uri`` as they are now. Raises ``HostUnreachable``."""
        return await inventory(self.connector, uri)

    @property
    def handles(self) -> Mapping[str, Handle]:
        """What is under way in this engine, by the migrations' ids."""
        return MappingProxyType(dict(self._driving.handles))

    def migrations(self, *, unfinished: bool = False) -> Sequence[Header]:
        """What the journal knows, oldest first. Blocking."""
        return self.journal.headers(unfinished=unfinished)

    async def _drive(
        self,
        migration: str,
        on_progress: OnProgress | None,
        on_record: OnRecord | None,
    ) -> Handle:
        await self._heart.start()
        taken = await self._driving.take(migration, self._heart.holder)
        handles = await self._driving.begin([taken], on_progress, on_record)
        return handles[0]

    async def _hand_out_requests(self) -> None:
        await self._driving.hand_out_requests()
