"""The engine for programs without an event loop: the same methods, blocking, over an engine in a thread.

The thread lives as long as the ``with`` statement that opens it. Nothing here looks again and again: whoever
waits is woken.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self

from attrs import define, frozen

from fsm.engine.callbacks import Deliver, OnProgress, OnRecord
from fsm.engine.cases import Case, Examined
from fsm.engine.clock import Clock
from fsm.engine.context import Progress
from fsm.engine.engine import Engine
from fsm.engine.feed import Event
from fsm.engine.guard import Guard
from fsm.engine.handle import Handle
from fsm.engine.limits import Limits
from fsm.engine.log import Logger
from fsm.engine.loop_thread import LoopThread
from fsm.engine.plan import Request, Side
from fsm.engine.result import Result
from fsm.errors import FsmError
from fsm.hypervisor.port import Connector
from fsm.hypervisor.values import DomainFacts
from fsm.journal.opening import Named
from fsm.journal.records import Header
from fsm.machine.spec import Spec


@frozen
class SyncHandle:
    """A migration under way in a ``SyncEngine``; for any thread. Its names are those of ``Handle``."""

    _handle: Handle
    _loop: LoopThread

    @property
    def migration(self) -> str:
        """The migration's id."""
        return self._handle.migration

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self._handle.request

    @property
    def state(self) -> str:
        """The machine's state, by its last record."""
        return self._handle.state

    @property
    def progress(self) -> Progress | None:
        """How far the present phase is, or the last one that told; None before any did."""
        return self._handle.progress

    @property
    def ended(self) -> bool:
        """Whether the migration has ended, or was let go of."""
        return self._handle.ended

    @property
    def events(self) -> Iterator[Event]:
        """See ``Handle.events``; blocks for the next event."""
        return self._handle.follow()

    def wait(self, timeout_s: float | None = None) -> Result:
        """The result, when there is one and the callbacks have heard of everything before it.

        Interrupting it, as Ctrl-C does, leaves the migration running: abort it, or close the engine, which
        lets go. Raises ``TimeoutError`` when it takes longer than ``timeout_s``, ``LetGo`` when the engine
        has let go, ``JournalUnavailable`` when the journal failed, ``LeaseLost`` when another engine has
        taken the migration over, and ``RuntimeError`` in the migration's own callbacks.
        """
        if self._handle.inside_callback:
            raise RuntimeError("a callback can't wait for the end of the migration that calls it")
        return self._loop.do(self._handle.wait(), timeout_s)

    def abort(self) -> None:
        """Ask for a clean roll-back; behind the point of no return the migration goes on instead.

        One that has not begun ends as refused. Does not wait, and may be called from a callback.
        """
        self._handle.abort()

    def detach(self) -> None:
        """Stop driving it here, at once. The hosts go on with what they do; ``resume`` takes over."""
        self._loop.do(self._handle.detach())


@define(eq=False)
class SyncEngine:
    """Drives migrations in a thread of its own, while it is open; for any number of threads.

    >>> from fsm.hypervisor.simulated import SimulatedWorld
    >>> world = SimulatedWorld()
    >>> for uri in ("sim://a/system", "sim://b/system"):
    ...     _ = world.add_host(uri)
    >>> _ = world.add_domain("sim://a/system", "web", snapshots={"before-upgrade": None})
    >>> request = Request("web", source_uri="sim://a/system", destination_uri="sim://b/system")
    >>> with SyncEngine.open("journal.db", world) as engine:
    ...     handle = engine.start(request)
    ...     handle.wait(timeout_s=60).state
    'committed'

    The callbacks are called as ``Engine`` tells. Closing lets go of what is under way: another engine's
    ``resume`` or ``resume_all`` goes on with it.
    """

    _loop: LoopThread
    _engine: Engine

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
    ) -> SyncEngine:
        """See ``Engine.open``."""
        loop = LoopThread(
            lambda: Engine.open(
                journal, connector, spec=spec, clock=clock, limits=limits, log=log, deliver=deliver
            )
        )
        return cls(loop, loop.open())

    def __enter__(self) -> Self:
        """Use it as a context manager to have it closed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """See ``Engine.close``; returns when the thread has ended. Nothing happens when it is closed."""
        self._loop.close()

    def start(
        self,
        request: Request,
        *,
        on_progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
    ) -> SyncHandle:
        """See ``Engine.start``."""
        return self._held(self._engine.start(request, on_progress=on_progress, on_record=on_record))

    def migrate(
        self,
        request: Request,
        *,
        on_progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
    ) -> Result:
        """See ``Engine.migrate``."""
        return self.start(request, on_progress=on_progress, on_record=on_record).wait()

    def resume(
        self,
        migration: str,
        *,
        on_progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
    ) -> SyncHandle:
        """See ``Engine.resume``."""
        return self._held(self._engine.resume(migration, on_progress=on_progress, on_record=on_record))

    def resume_all(
        self, *, on_progress: OnProgress | None = None, on_record: OnRecord | None = None
    ) -> tuple[list[SyncHandle], list[FsmError]]:
        """See ``Engine.resume_all``."""
        handles, left = self._loop.do(self._engine.resume_all(on_progress=on_progress, on_record=on_record))
        return [SyncHandle(handle, self._loop) for handle in handles], left

    def ask(
        self,
        migration: str,
        name: str,
        fenced: Collection[Side] = (),
        accept_loss: Collection[str] = (),
    ) -> None:
        """See ``Engine.ask``."""
        self._loop.do(self._engine.ask(migration, name, fenced, accept_loss))

    def examine(self, uris: Sequence[str]) -> tuple[Examined, ...]:
        """See ``Engine.examine``."""
        return self._loop.do(self._engine.examine(uris))

    def adopt(
        self,
        case: Case,
        examined: Sequence[Examined],
        *,
        on_progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
    ) -> SyncHandle:
        """See ``Engine.adopt``."""
        return self._held(self._engine.adopt(case, examined, on_progress=on_progress, on_record=on_record))

    @property
    def guard(self) -> Guard:
        """See ``Engine.guard``; its coroutines belong to no loop of this engine."""
        return self._engine.guard

    def effective_xml(self, domain: str, uri: str = "qemu:///system") -> str:
        """See ``Engine.effective_xml``."""
        return self._loop.do(self._engine.effective_xml(domain, uri))

    def domains(self, uri: str = "qemu:///system") -> tuple[DomainFacts, ...]:
        """See ``Engine.domains``."""
        return self._loop.do(self._engine.domains(uri))

    @property
    def handles(self) -> Mapping[str, SyncHandle]:
        """See ``Engine.handles``."""
        handles = self._engine.handles.items()
        return MappingProxyType({name: SyncHandle(handle, self._loop) for name, handle in handles})

    def migrations(self, *, unfinished: bool = False) -> Sequence[Header]:
        """See ``Engine.migrations``."""
        return self._engine.migrations(unfinished=unfinished)

    def _held(self, begun: Coroutine[Any, Any, Handle]) -> SyncHandle:
        return SyncHandle(self._loop.do(begun), self._loop)


def migrate(
    request: Request,
    journal: Named,
    connector: Connector | None = None,
    *,
    on_progress: OnProgress | None = None,
    on_record: OnRecord | None = None,
) -> Result:
    """Migrate one domain and wait for the end, with an engine opened for it alone.

    ``journal`` and ``connector`` are those of ``Engine.open``. Interrupting it lets go of the migration.

    >>> import fsm
    >>> from fsm.hypervisor.simulated import SimulatedWorld
    >>> world = SimulatedWorld()
    >>> for uri in ("sim://a/system", "sim://b/system"):
    ...     _ = world.add_host(uri)
    >>> _ = world.add_domain("sim://a/system", "web", snapshots={"before-upgrade": None})
    >>> request = fsm.Request("web", source_uri="sim://a/system", destination_uri="sim://b/system")
    >>> fsm.migrate(request, "sqlite:///journal.db", world).state
    'committed'
    """
    with SyncEngine.open(journal, connector) as engine:
        return engine.migrate(request, on_progress=on_progress, on_record=on_record)
