"""What a migration under way tells its listeners: its records, each once and in order, and how far it is.

A listener may be slower than the migration. What it has yet to hear is kept for it up to a bound; behind that
progress is forgotten, and records are read back from the journal, which has them all.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from attrs import define, field

from fsm.engine.context import Progress
from fsm.journal.port import Journal
from fsm.journal.records import Record

MOST_WAITING = 256
"""So many events are kept for a listener."""

Event = Record | Progress


@define(eq=False)
class Feed:
    """One migration's events since this engine has driven it; ``newest`` numbers the last record.

    Told from the engine's event loop, listened to from any thread.
    """

    migration: str
    journal: Journal
    newest: int = 0
    progress: Progress | None = None
    ended: bool = False
    lock: threading.Lock = field(factory=threading.Lock, init=False)
    _first: int = field(init=False)
    _mailboxes: list[Mailbox] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._first = self.newest

    def tell(self, event: Event) -> None:
        """Put an event into every mailbox."""
        with self.lock:
            listeners = list(self._mailboxes)
            for mailbox in listeners:
                mailbox.put(event)
            if isinstance(event, Progress):
                self.progress = event
            else:
                self.newest = event.sequence
        for mailbox in listeners:
            mailbox.wake()

    def end(self) -> None:
        """Nothing will be told any more."""
        with self.lock:
            self.ended = True
            listeners = list(self._mailboxes)
        for mailbox in listeners:
            mailbox.wake()

    def listen(self, wake: Callable[[], object]) -> Mailbox:
        """A mailbox for everything from the beginning on. ``wake`` is called in the engine's thread."""
        with self.lock:
            mailbox = Mailbox(self, wake, self._first)
            self._mailboxes.append(mailbox)
            return mailbox

    def leave(self, mailbox: Mailbox) -> None:
        """Put nothing into it any more."""
        with self.lock:
            self._mailboxes.remove(mailbox)

    def follow(self) -> Iterator[Event]:
        """Every event to the end; blocks for the next one. For any thread but the engine's."""
        changed = threading.Event()
        mailbox = self.listen(changed.set)
        try:
            while True:  # ends: with the migration, or as soon as it is let go of
                changed.clear()
                ended = self.ended
                while (event := mailbox.next()) is not None:
                    yield event
                if ended:
                    return
                changed.wait()
        finally:
            self.leave(mailbox)

    async def follow_along(self) -> AsyncIterator[Event]:
        """The same in the engine's event loop."""
        changed = asyncio.Event()
        mailbox = self.listen(changed.set)
        try:
            while True:  # ends: as above
                changed.clear()
                ended = self.ended
                while not mailbox.empty:
                    if mailbox.behind:
                        await asyncio.to_thread(mailbox.read_back)
                    if (event := mailbox.take()) is not None:
                        yield event
                if ended:
                    return
                await changed.wait()
        finally:
            self.leave(mailbox)


@define(eq=False)
class Mailbox:
    """What one listener has yet to hear. ``_heard`` numbers the last record that it has, or that waits."""

    _feed: Feed
    wake: Callable[[], object]
    _heard: int
    _waiting: deque[Event] = field(factory=deque, init=False)

    def put(self, event: Event) -> None:
        """Add an event; the feed's lock is held."""
        if self.missing:
            return
        last = self._waiting[-1] if self._waiting else None
        if isinstance(event, Progress) and isinstance(last, Progress) and event.phase == last.phase:
            self._waiting[-1] = event
        elif len(self._waiting) < MOST_WAITING:
            self._waiting.append(event)
            if isinstance(event, Record):
                self._heard = event.sequence

    @property
    def missing(self) -> bool:
        """Whether there are records that have to be read back."""
        return self._heard < self._feed.newest

    @property
    def behind(self) -> bool:
        """Whether the next event is one of those."""
        return self.missing and not self._waiting

    @property
    def empty(self) -> bool:
        """Whether everything was taken."""
        with self._feed.lock:
            return not self._waiting and not self.missing

    def take(self) -> Event | None:
        """The next event that is here."""
        with self._feed.lock:
            return self._waiting.popleft() if self._waiting else None

    def next(self) -> Event | None:
        """The next event, read back where it must be: blocking, and raises ``JournalUnavailable`` then."""
        if self.behind:
            self.read_back()
        return self.take()

    def read_back(self) -> None:
        """Fetch the next records that did not fit. Blocking; raises ``JournalUnavailable``."""
        newest = self._feed.newest
        records = self._feed.journal.records(self._feed.migration)
        later = [record for record in records if self._heard < record.sequence <= newest][:MOST_WAITING]
        with self._feed.lock:
            self._waiting.extend(later)
            self._heard = later[-1].sequence if later else newest

    def skip(self) -> tuple[int, int]:
        """Give up what has to be read back: the numbers of the first and the last such record."""
        with self._feed.lock:
            first, self._heard = self._heard + 1, self._feed.newest
            return first, self._heard
