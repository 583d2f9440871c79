"""Calls back those who embed the engine, so that nothing they do there can hold it up or break it.

All callbacks of an engine are called one at a time in one thread that is theirs alone. One that blocks delays
other callbacks and nothing else; one that raises is logged and the next event is told all the same.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakSet

from attrs import define, field

from fsm.engine.context import Progress
from fsm.engine.feed import Event, Feed, Mailbox
from fsm.engine.log import EventLog
from fsm.errors import FsmError
from fsm.journal.records import Record

ENDING_S = 5.0
"""So long an engine that is closed waits for callbacks that have not returned."""

OnProgress = Callable[[Progress], object]
OnRecord = Callable[[Record], object]
Deliver = Callable[[Callable[[], None]], object]


@define(eq=False)
class CallbackThread:
    """A ``Deliver``: makes calls in the order given, in a thread of its own that begins with the first."""

    _calls: queue.SimpleQueue[Callable[[], None] | None] = field(factory=queue.SimpleQueue, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def __call__(self, call: Callable[[], None]) -> None:
        """Have it called."""
        self._calls.put(call)
        if self._thread is None:
            # A daemon: a callback that never returns must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name="fsm-callbacks", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """End behind the calls that wait."""
        self._calls.put(None)

    def join(self) -> None:
        """Wait until it has ended."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


@define(eq=False)
class Teller:
    """Tells one migration's events to its callbacks. ``told`` is set when they have heard everything."""

    migration: str
    on_progress: OnProgress | None
    on_record: OnRecord | None
    _deliver: Deliver
    _log: EventLog
    _feed: Feed
    told: asyncio.Event = field(factory=asyncio.Event, init=False)
    _mailbox: Mailbox = field(init=False)
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.get_running_loop, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _busy: bool = field(default=False, init=False)
    _told_behind: bool = field(default=False, init=False)
    _progress_failed: bool = field(default=False, init=False)
    _inside: int = field(default=0, init=False)
    _given_up: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._mailbox = self._feed.listen(self._wake)

    @property
    def inside(self) -> bool:
        """Whether the caller is one of these callbacks."""
        return self._inside == threading.get_ident()

    def give_up(self) -> None:
        """Tell nothing any more, and let nobody wait for it."""
        self._given_up = True
        self.told.set()

    def _wake(self) -> None:
        if self._given_up:
            return
        if self._mailbox.missing and not self._told_behind:
            self._told_behind = True
            self._log.warning("callbacks-behind", migration=self.migration, record=self._feed.newest)
        with self._lock:
            if self._busy:
                return
            self._busy = True
        self._hand_over()

    def _hand_over(self) -> None:
        """Have the next event told. Where that can't be, as a loop is closed, nothing is told any more."""
        try:
            self._deliver(self._next)
        except Exception:  # noqa: BLE001  # it is not ours, and the migration goes on
            self._log_failure("deliver")
            self._given_up = True
            self._tell_all_told()

    def _tell_all_told(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            self._loop.call_soon_threadsafe(self.told.set)

    def _next(self) -> None:
        """Tell one event, then let the other migrations have their turn."""
        if self._given_up:
            return
        try:
            event = self._mailbox.next()
        except FsmError as error:
            first, last = self._mailbox.skip()
            untold = {"first": first, "last": last, "error": str(error)}
            self._log.warning("records-untold", migration=self.migration, **untold)
            event = None
        if event is not None:
            self._tell(event)
        with self._lock:
            self._busy = not self._mailbox.empty
            busy, ended = self._busy, self._feed.ended
        if busy:
            self._hand_over()
            return
        self._told_behind = False
        if ended:
            self._tell_all_told()

    def _tell(self, event: Event) -> None:
        self._inside = threading.get_ident()
        try:
            if isinstance(event, Record):
                if self.on_record is not None:
                    self.on_record(event)
            elif self.on_progress is not None:
                self.on_progress(event)
        except (Exception, SystemExit):  # noqa: BLE001  # it is not ours, and harms nobody else
            self._failed(event)
        finally:
            self._inside = 0

    def _failed(self, event: Event) -> None:
        """Log it; of the many calls that tell progress the first that fails is enough."""
        if isinstance(event, Progress):
            if self._progress_failed:
                return
            self._progress_failed = True
        self._log_failure("on_record" if isinstance(event, Record) else "on_progress")

    def _log_failure(self, name: str) -> None:
        self._log.warning(
            "callback-failed", migration=self.migration, callback=name, error=traceback.format_exc()
        )


@define(eq=False)
class Callbacks:
    """All callbacks of one engine. ``deliver`` None: in a thread of their own."""

    log: EventLog
    deliver: Deliver | None = None
    _thread: CallbackThread = field(factory=CallbackThread, init=False)
    _tellers: WeakSet[Teller] = field(factory=WeakSet, init=False)

    def teller(self, feed: Feed, on_progress: OnProgress | None, on_record: OnRecord | None) -> Teller | None:
        """What tells a migration's callbacks; None where there are none."""
        if on_progress is None and on_record is None:
            return None
        deliver = self.deliver or self._thread
        teller = Teller(feed.migration, on_progress, on_record, deliver, self.log, feed)
        self._tellers.add(teller)
        return teller

    async def close(self) -> None:
        """Wait a little for what has not been told yet; behind that nobody is called any more."""
        tellers = list(self._tellers)
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S):
                for teller in tellers:
                    await teller.told.wait()
        late = [teller for teller in tellers if not teller.told.is_set()]
        for teller in late:
            teller.give_up()
            self.log.warning("callbacks-unfinished", migration=teller.migration)
        self._thread.end()
        if not late:
            await asyncio.to_thread(self._thread.join)
