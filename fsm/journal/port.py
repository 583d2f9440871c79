"""The port between the engine and whatever keeps its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from attrs import frozen

from fsm.errors import FsmError
from fsm.journal.events import Decided
from fsm.journal.records import Asked, Data, Header, Lease, Record


class JournalUnavailable(FsmError):
    """The journal can't be read or written now. Nothing may be done to a host while this holds."""


class DomainBusy(FsmError):
    """Another migration of the same domain, recorded in the same journal, has not ended."""


class Leased(FsmError):
    """Somebody else drives the migration. ``expires`` is when that ends unless the lease is renewed."""

    def __init__(self, migration: str, holder: str, expires: datetime) -> None:
        super().__init__(
            f"migration {migration} is being driven by {holder}",
            remedy="leave it to that process, or end it and try again",
        )
        self.migration = migration
        self.holder = holder
        self.expires = expires


class LeaseLost(FsmError):
    """Another engine has taken the migration over; this one must not act on it any more."""


@frozen
class Entry:
    """A record to be written; the other fields are those of ``Journal.append``."""

    migration: str
    record: Record
    final: bool = False
    lease: Lease | None = None
    answers: int | None = None


@frozen
class Taken:
    """A migration that was taken over, and all that is recorded of it."""

    lease: Lease
    header: Header
    records: Sequence[Record]


class Journal(Protocol):
    """Keeps records durably: when a writing method returns, what it wrote survives a power failure.

    Every method raises ``JournalUnavailable`` when the store fails and ``JournalCorrupt`` when what it finds
    can't be read. Blocking; safe to call from any thread, one writer per migration. ``location`` tells a
    reader where it is.
    """

    location: str

    def create(self, header: Header, first: Record | None = None) -> None:
        """Begin a migration's history, with its ``first`` record where there is one, in one step.

        A header that names a domain's UUID claims the domain as ``claim`` does.
        """

    def claim(self, migration: str, domain_uuid: str) -> None:
        """Reserve the domain for this migration until it ends. Raises ``DomainBusy``, or ``BadInput`` for an
        unknown migration."""

    def append(
        self,
        migration: str,
        record: Record,
        *,
        final: bool = False,
        lease: Lease | None = None,
        answers: int | None = None,
    ) -> Record:
        """Append, move the header along, and return the record with its sequence number.

        ``final`` says that the migration has ended with this record; its claim is given up with it.
        ``answers`` numbers the request that the record takes up. Raises ``LeaseLost`` when ``lease`` is given
        and is not the migration's lease any more.
        """

    def append_all(self, entries: Sequence[Entry]) -> Sequence[Record | FsmError]:
        """Append many records, of one or many migrations, for the price of one; in the order given.

        For each there is the record as it was written, or what ``append`` would have raised: it does not keep
        the others from being written.
        """

    def beat(self, holder: str, expires: datetime) -> None:
        """Have an engine count as alive until ``expires``; all its leases last as long."""

    def acquire(self, migration: str, holder: str, is_dead: Callable[[str], bool]) -> Lease:
        """Become the one that drives the migration, for as long as ``holder`` counts as alive.

        Raises ``Leased`` while another holder counts as alive and ``is_dead`` does not know it gone.
        """

    def driver(self, migration: str, is_dead: Callable[[str], bool]) -> str:
        """Who drives the migration at present, as far as is known; empty when nobody does."""

    def take_over(self, holder: str, is_dead: Callable[[str], bool]) -> Sequence[Taken | FsmError]:
        """``acquire`` every migration that has not ended and is not ``holder``'s, and read it; oldest first.

        For each there is what was taken, or why it was not: ``Leased``, or ``JournalCorrupt``, whose lease is
        left alone.
        """

    def release(self, lease: Lease) -> None:
        """Give the lease back; nothing happens when it is lost already."""

    def ask(self, migration: str, name: str, data: Data) -> None:
        """Leave a request for whoever drives the migration, now or later."""

    def asked(self) -> Sequence[Asked]:
        """The requests, of all migrations, that no record has answered yet, oldest first."""

    def header(self, migration: str) -> Header:
        """One migration. Raises ``BadInput`` when there is none of that name."""

    def headers(self, *, unfinished: bool = False) -> Sequence[Header]:
        """All migrations, or those that have not ended, oldest first."""

    def records(self, migration: str) -> Sequence[Record]:
        """The history of one migration, in order. Raises ``BadInput`` when there is none of that name."""

    def events(self, migration: str | None = None) -> Iterator[Decided]:
        """The records of one migration, or of all, one migration after another, as the log's events.

        For reading much: no writer waits for it, and it holds a few records at a time. Raises ``BadInput``
        when there is no migration of that name.
        """

    def close(self) -> None:
        """Release the store."""
