"""Calls to one host under deadlines, on a connection that is opened again when it broke."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any, TypeVar

from fsm.errors import HostUnreachable
from fsm.hypervisor.libvirt import reading
from fsm.hypervisor.libvirt.errors import lost
from fsm.hypervisor.libvirt.session import Notify, Session, Work
from fsm.hypervisor.libvirt.workers import run_alone
from fsm.hypervisor.uris import safe_uri

T = TypeVar("T")

# Calls that hang can't be taken back; at this many connections with such calls no more are opened.
MAX_HUNG_SESSIONS = 8


class Link:
    """One host's connection. Belongs to one asyncio event loop.

    Once it is known which host that is, a URI that leads elsewhere when the connection is opened again counts
    as unreachable. Whoever asks would take what another host does not have for gone.
    """

    def __init__(self, uri: str, deadline_s: float, notify: Notify, notify_threshold: Notify) -> None:
        self.uri = uri
        self.host = safe_uri(uri)
        self._deadline_s = deadline_s
        self._notify = notify
        self._notify_threshold = notify_threshold
        self._uuid = ""
        self._session: Session | None = None
        self._hung: list[Session] = []
        self._opening: asyncio.Task[Session] | None = None
        self._closings = 0

    def expect(self, uuid: str) -> None:
        """Be this host from now on, if it is not known yet which one it is."""
        self._uuid = self._uuid or uuid

    async def open(self) -> None:
        """Connect unless the connection stands."""
        await self._current("connect")

    async def ask(self, name: str, work: Work[T], deadline_s: float | None = None) -> T:
        """Do ``work`` that changes nothing; when the connection broke, once more on a new one."""
        session = await self._current(name)
        try:
            return await self._call(session, name, work, deadline_s, change=False)
        except HostUnreachable:
            if not session.broke:  # the host did not answer for another reason
                raise
        return await self._call(await self._current(name), name, work, deadline_s, change=False)

    async def change(self, name: str, work: Work[T], deadline_s: float | None = None) -> T:
        """Do ``work`` that changes something; it is begun once at most."""
        return await self._call(await self._current(name), name, work, deadline_s, change=True)

    async def close(self) -> None:
        """Close the connection when the last call on it has ended; waits for that within the deadline.

        One that is just being opened is closed as soon as it stands. Whoever asks later opens it again.
        """
        self._closings += 1
        self._opening = None
        session = self._session
        if session is None:
            return
        self._drop(session)
        await _settle(
            run_alone(lambda: session.closed.wait(self._deadline_s), "libvirt-close"), self._deadline_s
        )

    async def _current(self, name: str) -> Session:
        if self._session is not None and self._session.alive:
            return self._session
        # One attempt for all who wait: one after the other they would wait a deadline each.
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(name, self._closings))
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    async def _open(self, name: str, closings: int) -> Session:
        if self._session is not None:
            self._drop(self._session)
        self._hung = [session for session in self._hung if not session.closed.is_set()]
        if len(self._hung) >= MAX_HUNG_SESSIONS:
            raise HostUnreachable(
                f"calls on {len(self._hung)} connections to this host never ended",
                host=self.host,
                call=name,
                remedy="see what libvirtd there waits for; its log and 'virsh domcontrol' tell",
            )
        future = run_alone(lambda: Session(self.uri, self._notify, self._notify_threshold), "libvirt-open")
        try:
            stands = await _settle(future, self._deadline_s)
        except asyncio.CancelledError:  # this event loop ends; the process may go on
            future.add_done_callback(_retire_late)
            raise
        if not stands:
            future.add_done_callback(_retire_late)
            why = f"no connection within {self._deadline_s:g} s"
            raise lost(host=self.host, call=name, change=False, why=why)
        session = future.result()
        try:
            await self._recognise(session, name)
        except BaseException:
            self._drop(session)
            raise
        if closings != self._closings:
            self._drop(session)
            raise HostUnreachable("the connection was closed", host=self.host, call=name)
        self._session = session
        return session

    async def _recognise(self, session: Session, name: str) -> None:
        # Where nobody has wanted to know, a libvirtd that has just begun takes long to tell.
        if uuid := self._uuid:
            await self._call(session, name, lambda call: reading.recognise(call, uuid), None, change=False)

    def _opened(self, task: asyncio.Task[Session]) -> None:
        if self._opening is task:
            self._opening = None
        if not task.cancelled():
            task.exception()  # read here in case nobody waits any more

    async def _call(
        self, session: Session, name: str, work: Work[T], deadline_s: float | None, *, change: bool
    ) -> T:
        deadline_s = self._deadline_s if deadline_s is None else deadline_s
        given_up = threading.Event()
        future = session.submit(name, work, change=change, given_up=given_up)
        try:
            done = await _settle(future, deadline_s)
        except asyncio.CancelledError:
            future.cancel()  # takes it back if it has not begun
            given_up.set()
            raise
        if done:
            try:
                return future.result()
            finally:
                if not session.alive:
                    self._drop(session)
        if future.cancel():
            raise HostUnreachable(
                f"{name} waited {deadline_s:g} s for earlier calls to end and was not begun",
                host=self.host,
                call=name,
            )
        given_up.set()
        self._drop(session)
        raise lost(host=self.host, call=name, change=change, why=f"no answer within {deadline_s:g} s")

    def _drop(self, session: Session) -> None:
        session.retire()
        if session is self._session:
            self._session = None
        if not session.closed.is_set() and session not in self._hung:
            self._hung.append(session)


async def _settle(future: Future[Any], timeout_s: float) -> bool:
    """Wait until ``future`` is done, whatever its end; False when time passed. What runs runs on."""
    wrapped = asyncio.wrap_future(future)
    try:
        await asyncio.wait({wrapped}, timeout=timeout_s)
    finally:
        if not wrapped.done():
            wrapped.cancel()  # it must not report to an event loop that may be closed by then
    if wrapped.cancelled():
        return False
    wrapped.exception()  # read here, as the caller reads the thread's future and asyncio would complain
    return True


def _retire_late(future: Future[Session]) -> None:
    """Close a connection that came to stand after its caller had gone."""
    if not future.cancelled() and future.exception() is None:
        future.result().retire()
