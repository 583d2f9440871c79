"""The journal in a SQLite file."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from sqlite3 import Connection, Row

from attrs import evolve

from fsm.errors import BadInput, FsmError, JournalCorrupt
from fsm.journal import events, leases, rows
from fsm.journal.events import Decided
from fsm.journal.port import DomainBusy, Entry, Leased, LeaseLost, Taken
from fsm.journal.records import Asked, Data, Header, Lease, Record
from fsm.journal.sqlite import READING, JournalFile
from fsm.journal.tables import SCHEMA

# How many records `events` holds at a time.
PAGE = 1000

_HEADERS = """
    SELECT migration, created, updated, domain, domain_uuid, source_uri, destination_uri,
        state, heading_for, final, request
    FROM migrations"""
_BEGIN = """
    INSERT INTO migrations (migration, created, updated, domain, domain_uuid, source_uri, destination_uri,
        state, heading_for, final, request)
    VALUES (:migration, :created, :updated, :domain, :domain_uuid, :source_uri, :destination_uri,
        :state, :heading_for, :final, :request)"""
_MOVE_ALONG = """
    UPDATE migrations SET updated = :updated, state = :state, heading_for = :heading_for, final = :final
    WHERE migration = :migration"""
_RECORDS = """
    SELECT migration, sequence, at, spec_digest, step, phase, name, state, dest, error, observation, data
    FROM records"""
_APPEND = """
    INSERT INTO records (migration, sequence, at, spec_digest, step, phase, name,
        state, dest, error, observation, data)
    VALUES (:migration, :sequence, :at, :spec_digest, :step, :phase, :name,
        :state, :dest, :error, :observation, :data)"""
_EVENTS = f"SELECT {', '.join(events.COLUMNS)} FROM records"  # noqa: S608  # names of columns
_OLDEST_FIRST = "ORDER BY created, migration"
_UNFINISHED = "WHERE NOT final"
_FOREIGN = "WHERE NOT final AND migration NOT IN (SELECT migration FROM leases WHERE holder = ?)"
_OF_UNFINISHED = "WHERE migration IN (SELECT migration FROM migrations WHERE NOT final)"


def open_journal(path: Path) -> SqlJournal:
    """The journal in the SQLite file ``path``, made where it is missing. Raises ``JournalUnavailable``."""
    return SqlJournal(JournalFile(path))


class SqlJournal:
    """A ``Journal`` in one file."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file
        self.location = f"{socket.gethostname()}:{file.path}"
        with self._file.transaction() as connection:
            for statement in SCHEMA:
                connection.execute(statement)

    def create(self, header: Header, first: Record | None = None) -> None:
        """See ``Journal.create``."""
        with self._file.transaction() as connection:
            connection.execute(_BEGIN, rows.header_values(header))
            if header.domain_uuid:
                self._claim(connection, header.migration, header.domain_uuid)
            if first is not None:
                self._write(connection, header, Entry(header.migration, first))

    def claim(self, migration: str, domain_uuid: str) -> None:
        """See ``Journal.claim``."""
        with self._file.transaction() as connection:
            self._header(connection, migration)
            self._claim(connection, migration, domain_uuid)

    def append(
        self,
        migration: str,
        record: Record,
        *,
        final: bool = False,
        lease: Lease | None = None,
        answers: int | None = None,
    ) -> Record:
        """See ``Journal.append``."""
        (written,) = self.append_all([Entry(migration, record, final, lease, answers)])
        if isinstance(written, FsmError):
            raise written
        return written

    def append_all(self, entries: Sequence[Entry]) -> Sequence[Record | FsmError]:
        """See ``Journal.append_all``."""
        with self._file.transaction() as connection:
            return [self._append(connection, entry) for entry in entries]

    def _append(self, connection: Connection, entry: Entry) -> Record | FsmError:
        try:  # all that may be refused stands before the first change: one entry's refusal undoes nothing
            if entry.lease is not None:
                leases.check(connection, entry.lease)
            header = self._header(connection, entry.migration)
        except (BadInput, JournalCorrupt, LeaseLost) as error:
            return error
        return self._write(connection, header, entry)

    def _write(self, connection: Connection, header: Header, entry: Entry) -> Record:
        migration, record = entry.migration, entry.record
        (last,) = connection.execute(
            "SELECT max(sequence) FROM records WHERE migration = ?", (migration,)
        ).fetchone()
        written = evolve(record, sequence=(last or 0) + 1, at=record.at or datetime.now(UTC))
        connection.execute(_APPEND, {"migration": migration, **rows.record_values(written)})
        connection.execute(_MOVE_ALONG, rows.header_values(header.after(written, final=entry.final)))
        if entry.answers is not None:
            leases.answer(connection, entry.answers)
        if entry.final:
            leases.forget_requests(connection, migration)
            connection.execute("DELETE FROM claims WHERE migration = ?", (migration,))
        return written

    def header(self, migration: str) -> Header:
        """See ``Journal.header``."""
        with self._file.transaction() as connection:
            return self._header(connection, migration)

    def headers(self, *, unfinished: bool = False) -> Sequence[Header]:
        """See ``Journal.headers``."""
        which = _UNFINISHED if unfinished else ""
        with self._file.transaction() as connection:
            found = connection.execute(f"{_HEADERS} {which} {_OLDEST_FIRST}")
            return [rows.header(row) for row in found]

    def records(self, migration: str) -> Sequence[Record]:
        """See ``Journal.records``."""
        with self._file.transaction() as connection:
            self._header(connection, migration)
            found = connection.execute(f"{_RECORDS} WHERE migration = ? ORDER BY sequence", (migration,))
            return [rows.record(row) for row in found]

    def events(self, migration: str | None = None) -> Iterator[Decided]:
        """See ``Journal.events``. Page by page, each in a short transaction of its own that only reads."""
        if migration is not None:
            self.header(migration)
        one = "migration = :migration AND" if migration is not None else ""
        query = f"{_EVENTS} WHERE {one} (migration, sequence) > (:last, :sequence)"
        page = f"{query} ORDER BY migration, sequence LIMIT {PAGE}"
        last: tuple[str, int] = ("", 0)
        while True:  # ends: every page begins behind the one before
            behind = {"migration": migration, "last": last[0], "sequence": last[1]}
            with self._file.transaction(READING) as connection:
                found = connection.execute(page, behind).fetchall()
            for row in found:
                yield events.of_row(tuple(row))
            if len(found) < PAGE:
                return
            last = (found[-1]["migration"], found[-1]["sequence"])

    def beat(self, holder: str, expires: datetime) -> None:
        """See ``Journal.beat``."""
        with self._file.transaction() as connection:
            leases.beat(connection, holder, expires)

    def acquire(self, migration: str, holder: str, is_dead: Callable[[str], bool]) -> Lease:
        """See ``Journal.acquire``."""
        with self._file.transaction() as connection:
            self._header(connection, migration)
            return leases.acquire(connection, migration, holder, is_dead)

    def driver(self, migration: str, is_dead: Callable[[str], bool]) -> str:
        """See ``Journal.driver``."""
        with self._file.transaction() as connection:
            return leases.driver(connection, migration, is_dead)

    def take_over(self, holder: str, is_dead: Callable[[str], bool]) -> Sequence[Taken | FsmError]:
        """See ``Journal.take_over``."""
        with self._file.transaction() as connection:
            found = connection.execute(f"{_HEADERS} {_FOREIGN} {_OLDEST_FIRST}", (holder,)).fetchall()
            histories: dict[str, list[Row]] = {row["migration"]: [] for row in found}
            for row in connection.execute(f"{_RECORDS} {_OF_UNFINISHED} ORDER BY sequence"):
                histories.setdefault(row["migration"], []).append(row)
            known = cache(is_dead)
            return [self._take(connection, row, histories[row["migration"]], holder, known) for row in found]

    def _take(
        self,
        connection: Connection,
        header: Row,
        records: list[Row],
        holder: str,
        is_dead: Callable[[str], bool],
    ) -> Taken | FsmError:
        try:
            read = rows.header(header), [rows.record(row) for row in records]
            return Taken(leases.acquire(connection, header["migration"], holder, is_dead), *read)
        except (Leased, JournalCorrupt) as error:
            return error

    def release(self, lease: Lease) -> None:
        """See ``Journal.release``."""
        with self._file.transaction() as connection:
            leases.release(connection, lease)

    def ask(self, migration: str, name: str, data: Data) -> None:
        """See ``Journal.ask``."""
        with self._file.transaction() as connection:
            self._header(connection, migration)
            leases.ask(connection, migration, name, data)

    def asked(self) -> Sequence[Asked]:
        """See ``Journal.asked``."""
        with self._file.transaction() as connection:
            return leases.asked(connection)

    def close(self) -> None:
        """See ``Journal.close``."""
        self._file.close()

    def _claim(self, connection: Connection, migration: str, domain_uuid: str) -> None:
        claimed = connection.execute("SELECT migration FROM claims WHERE domain_uuid = ?", (domain_uuid,))
        holder = claimed.fetchone()
        if holder is None:
            connection.execute(
                "INSERT INTO claims (domain_uuid, migration) VALUES (?, ?)", (domain_uuid, migration)
            )
        elif holder["migration"] != migration:
            raise _busy(domain_uuid, holder["migration"])
        connection.execute(
            "UPDATE migrations SET domain_uuid = ? WHERE migration = ?", (domain_uuid, migration)
        )

    def _header(self, connection: Connection, migration: str) -> Header:
        row = connection.execute(f"{_HEADERS} WHERE migration = ?", (migration,)).fetchone()
        if row is None:
            raise BadInput(f"no migration {migration!r} in this journal", remedy="`fsm list` names them all")
        return rows.header(row)


def _busy(domain_uuid: str, migration: str) -> DomainBusy:
    return DomainBusy(
        f"domain {domain_uuid} is taken by the unfinished migration {migration}",
        remedy="`fsm list` and `fsm show ID` tell how it stands; wait for its end",
    )
