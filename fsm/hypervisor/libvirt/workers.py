"""A bounded pool of daemon threads for calls that block.

The standard library's executors are joined when the interpreter ends, so that one call which hangs in libvirt
would keep the whole process from ending. These threads are daemons and end by themselves.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """Runs callables on at most ``size`` threads, started as they are needed."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._wake = threading.Condition()
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue ``work``; the future can be cancelled as long as no thread has begun with it."""
        future: Future[T] = Future()
        with self._wake:
            if self._closed:
                raise RuntimeError("these workers are closed")
            self._queue.append((future, work))
            if self._idle >= len(self._queue) or self._threads >= self._size:
                self._wake.notify()
            else:
                self._threads += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        return future

    def close(self) -> None:
        """Take no more work; the threads end when what is queued is done."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            execute(*job)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._wake:
            self._idle += 1
            self._wake.wait_for(lambda: self._queue or self._closed)
            self._idle -= 1
            return self._queue.popleft() if self._queue else None


def execute(future: Future[T], work: Callable[[], T]) -> None:
    """Run ``work`` and put its end into ``future``, unless that was cancelled before."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - it is raised where the future is awaited
        future.set_exception(error)
    else:
        future.set_result(result)


def run_alone(work: Callable[[], T], name: str) -> Future[T]:
    """Run ``work`` on a daemon thread of its own."""
    future: Future[T] = Future()
    threading.Thread(target=execute, args=(future, work), name=name, daemon=True).start()
    return future
