"""A thread with an event loop and an engine in it, for programs that have no loop of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, field

from fsm.engine.engine import Engine
from fsm.errors import FsmError

T = TypeVar("T")


class LetGo(FsmError):
    """The engine drives the migration no more, as it was detached or closed; ``resume`` goes on with it."""


@define(eq=False)
class LoopThread:
    """An event loop in a thread of its own, with an engine in it."""

    _make: Callable[[], Engine]
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.new_event_loop, init=False)
    _opened: futures.Future[Engine] = field(factory=futures.Future, init=False)
    _ended: futures.Future[None] = field(factory=futures.Future, init=False)
    _closing: asyncio.Event = field(factory=asyncio.Event, init=False)
    _closed: bool = field(default=False, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _thread: threading.Thread = field(init=False)

    def open(self) -> Engine:
        """The engine, once it runs; raises what making it raised."""
        # A daemon: a program that forgets to close it must come to its end all the same, as if killed.
        self._thread = threading.Thread(target=self._run, name="fsm-engine", daemon=True)
        self._thread.start()
        try:
            return self._opened.result()
        except BaseException:
            self.close()
            raise

    def do(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Do it in the loop and wait for it; it is cancelled when the wait is interrupted.

        Raises ``TimeoutError`` after ``timeout_s``, whatever the loop is doing.
        Raises ``LetGo`` when the engine is closed, or is cancelled there by whoever detaches a migration.
        """
        try:
            doing = self._begin(work)
        except BaseException:
            work.close()
            raise
        try:
            return doing.result(timeout_s)
        except futures.CancelledError:
            message = "the engine was told to let go of it"
            raise LetGo(message, remedy="`resume` goes on with the migration") from None
        finally:
            doing.cancel()  # what has ended stays so; nobody waits for the rest

    def _begin(self, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
        if threading.current_thread() is self._thread:
            raise RuntimeError("this is the engine's own thread, which can't wait for itself")
        with self._lock:  # what comes behind the closing would never be looked at
            if self._closed:
                raise LetGo("the engine is closed", remedy="open another one")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Close the engine and wait for the thread's end; raises what closing it raised."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            with suppress(RuntimeError):  # the loop is closed: the engine could not be made
                self._loop.call_soon_threadsafe(self._closing.set)
        self._ended.result()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._live())
        except BaseException as error:  # noqa: BLE001  # raised where its end is waited for
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _live(self) -> None:
        try:
            engine = self._make()
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            self._opened.set_exception(error)
            return
        async with engine:
            self._opened.set_result(engine)
            await self._closing.wait()
