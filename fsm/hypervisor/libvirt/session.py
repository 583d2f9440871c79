"""One open connection, the threads that work on it, and what a piece of work is given."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import libvirt
from attrs import frozen

from fsm.errors import HostError, HostUnreachable, NotFound
from fsm.hypervisor.libvirt.errors import UNSUPPORTED, from_call, from_open, lost
from fsm.hypervisor.libvirt.events import ensure_event_loop
from fsm.hypervisor.libvirt.wanted import Wanted
from fsm.hypervisor.libvirt.workers import Workers, run_alone
from fsm.hypervisor.uris import safe_uri

T = TypeVar("T")

# With five requests of a client under way (its max_client_requests) libvirtd stops reading from that client,
# so that keepalive goes unanswered and the connection breaks: stay below.
CALLS_AT_ONCE = 4

KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
OPEN_DEADLINE_S = 30
MAX_OPENING = 64
"""How many connections to one host may be on their way at once, those included that will never arrive."""

_opening: Counter[str] = Counter()
_opening_lock = threading.Lock()

_EVENTS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON,
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
    libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
    libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION,
    libvirt.VIR_DOMAIN_EVENT_ID_CONTROL_ERROR,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
)

Notify = Callable[[str | None], None]
"""Told the UUID of a domain that changed, None when any may have."""


@frozen
class Call:
    """What a piece of work runs with: the connection, and names for its errors."""

    connection: Any
    host: str
    name: str

    def domain(self, uuid: str) -> Any:
        """The domain; ``NotFound`` when there is none."""
        return self.connection.lookupByUUIDString(uuid)

    def error(self, message: str, *, remedy: str = "") -> HostError:
        """An error of this call that libvirt did not raise."""
        return HostError(message, host=self.host, call=self.name, remedy=remedy)

    def not_found(self, message: str, *, remedy: str = "") -> NotFound:
        """The same for something that does not exist."""
        return NotFound(message, host=self.host, call=self.name, remedy=remedy)


Work = Callable[[Call], T]


def open_connection(uri: str) -> Any:
    """Open a connection with keepalive. Blocking. Raises what ``from_open`` makes of the failure."""
    ensure_event_loop()
    with _opening_lock:
        if _opening[uri] >= MAX_OPENING:
            raise lost(
                host=safe_uri(uri),
                call="connect",
                change=False,
                why=f"{MAX_OPENING} connections to this host are being opened and none comes to stand",
            )
        _opening[uri] += 1
    # Keepalive begins when a connection stands; before, a host that fell silent would hold us for ever.
    future = run_alone(lambda: _connect(uri), "libvirt-open")
    try:
        return future.result(OPEN_DEADLINE_S)
    except TimeoutError:
        future.add_done_callback(_close_late)
        why = f"no answer within {OPEN_DEADLINE_S} s"
        raise lost(host=safe_uri(uri), call="connect", change=False, why=why) from None


def _connect(uri: str) -> Any:
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise from_open(error, uri) from error
    finally:
        with _opening_lock:
            _opening[uri] -= 1
    # A local driver has no keepalive, and needs none.
    with suppress(libvirt.libvirtError):
        connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
    return connection


def _close_late(future: Future[Any]) -> None:
    """Close a connection that came to stand after its caller had gone."""
    if future.exception() is None:
        with suppress(libvirt.libvirtError):
            future.result().close()


def is_alive(connection: Any) -> bool:
    """Whether the connection still stands, as far as this side knows. Asks nobody."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def perform(
    connection: Any,
    uri: str,
    name: str,
    work: Work[T],
    *,
    change: bool,
    given_up: threading.Event | None = None,
) -> T:
    """Do ``work`` on the connection in this thread, with libvirt's errors turned into ours.

    A change goes no further once ``given_up`` is set.
    """
    host = safe_uri(uri)
    if not is_alive(connection):  # it broke while this waited for a thread: nothing was begun
        raise lost(host=host, call=name, change=False, why="the connection broke")
    given = connection
    if change and given_up is not None:
        given = Wanted(connection, given_up, host=host, call=name)
    try:
        return work(Call(given, host, name))
    except libvirt.libvirtError as error:
        connected = is_alive(connection)
        raise from_call(error, host=host, call=name, change=change, connected=connected) from error
    except (UnicodeError, OverflowError) as error:  # of libvirt's binding
        raise HostError(f"libvirt can't be told or tell this: {error}", host=host, call=name) from error


class Session:
    """An open connection and its threads. It is closed only after the last call on it has ended.

    Closing it earlier would pull the connection away from under calls for other domains.
    """

    def __init__(self, uri: str, notify: Notify, notify_threshold: Notify) -> None:
        """Connect and subscribe to events. Blocking."""
        self.connection = open_connection(uri)
        self._uri = uri
        self._notify = notify
        self._notify_threshold = notify_threshold
        self._workers = Workers(CALLS_AT_ONCE, f"libvirt {safe_uri(uri)}")
        self._lock = threading.Lock()
        self._running = 0
        self._retired = False
        self._broke = False
        self.closed = threading.Event()
        self._callbacks: list[int] = []
        try:
            perform(self.connection, uri, "connect", self._subscribe, change=False)
        except BaseException:
            self.retire()
            raise

    @property
    def alive(self) -> bool:
        """Whether the connection still stands and takes calls."""
        with self._lock:
            return not self._retired and is_alive(self.connection)

    @property
    def broke(self) -> bool:
        """Whether the connection was lost; False for one that was given up while it stood."""
        with self._lock:
            return self._broke if self._retired else not is_alive(self.connection)

    def submit(self, name: str, work: Work[T], *, change: bool, given_up: threading.Event) -> Future[T]:
        """Queue ``work`` for a thread of this session. ``HostUnreachable`` when it takes no more.

        ``given_up`` is set by who does not wait for it any more.
        """
        with self._lock:
            if self._retired:
                raise HostUnreachable("the connection was closed", host=safe_uri(self._uri), call=name)
            self._running += 1
        future = self._workers.submit(
            lambda: perform(self.connection, self._uri, name, work, change=change, given_up=given_up)
        )
        future.add_done_callback(self._ended)
        return future

    def retire(self) -> None:
        """Take no more calls; close as soon as none is running."""
        with self._lock:
            if self._retired:
                return
            # Asked for the last time: libvirt waits for ever on a lock of a connection closed meanwhile.
            self._broke = not is_alive(self.connection)
            self._retired = True
            idle = self._running == 0
        self._workers.close()
        self._notify(None)
        self._notify_threshold(None)
        if idle:
            run_alone(self._close, "libvirt-close")

    def _ended(self, _future: Future[Any]) -> None:
        with self._lock:
            self._running -= 1
            last = self._retired and self._running == 0
        if last:
            run_alone(self._close, "libvirt-close")

    def _subscribe(self, call: Call) -> None:
        handlers = dict.fromkeys(_EVENTS, self._on_event)
        handlers[libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD] = self._on_threshold
        for event, handler in handlers.items():
            try:
                identifier = call.connection.domainEventRegisterAny(None, event, handler, None)
            except libvirt.libvirtError as error:
                if error.get_error_code() not in UNSUPPORTED:
                    raise
            else:
                self._callbacks.append(identifier)
        call.connection.registerCloseCallback(self._on_close, None)

    def _on_event(self, _connection: Any, domain: Any, *_details: object) -> None:
        self._notify(domain.UUIDString())

    def _on_threshold(self, _connection: Any, domain: Any, *_details: object) -> None:
        self._notify_threshold(domain.UUIDString())

    def _on_close(self, _connection: Any, _reason: int, _opaque: object) -> None:
        self._notify(None)

    def _close(self) -> None:
        # Each subscription holds the connection open; on a broken one only libvirt's local part is undone.
        for identifier in self._callbacks:
            with suppress(libvirt.libvirtError):
                self.connection.domainEventDeregisterAny(identifier)
        with suppress(libvirt.libvirtError):
            self.connection.unregisterCloseCallback()
        with suppress(libvirt.libvirtError):
            self.connection.close()
        self.closed.set()
