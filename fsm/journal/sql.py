"""The journal in a relational database, written in SQLAlchemy Core so that the database is a URL away."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from attrs import evolve
from sqlalchemy import (
    URL,
    BindParameter,
    Connection,
    Engine,
    Row,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from fsm.errors import BadInput, FsmError, JournalCorrupt
from fsm.journal import events, leases, rows, sqlite, tables
from fsm.journal.events import Decided
from fsm.journal.port import DomainBusy, Entry, JournalUnavailable, Leased, LeaseLost, Taken
from fsm.journal.records import Asked, Data, Header, Lease, Record

# How many records `events` holds at a time.
PAGE = 1000
# Built once: to build a statement costs more than to run it.
_OF: BindParameter[str] = bindparam("of")
_HEADER = select(tables.migrations).where(tables.migrations.c.migration == _OF)
_UPDATE = update(tables.migrations).where(tables.migrations.c.migration == _OF)
_LAST = select(func.max(tables.records.c.sequence)).where(tables.records.c.migration == _OF)
_INSERT = insert(tables.records)
_OLDEST_FIRST = (tables.migrations.c.created, tables.migrations.c.migration)


def open_journal(path: Path) -> SqlJournal:
    """The journal in the SQLite file ``path``, made where it is missing. Raises ``JournalUnavailable``."""
    return SqlJournal(sqlite.open_engine(path))


class SqlJournal:
    """A ``Journal`` on any database that SQLAlchemy reaches."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(**{sqlite.READ_ONLY: True})
        self.location = _location(engine.url)
        with self._transaction() as connection:
            tables.metadata.create_all(connection)

    def create(self, header: Header, first: Record | None = None) -> None:
        """See ``Journal.create``."""
        with self._transaction() as connection:
            connection.execute(insert(tables.migrations).values(**rows.header_values(header)))
            if header.domain_uuid:
                self._claim(connection, header.migration, header.domain_uuid)
            if first is not None:
                self._write(connection, header, Entry(header.migration, first))

    def claim(self, migration: str, domain_uuid: str) -> None:
        """See ``Journal.claim``."""
        with self._transaction() as connection:
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
        with self._transaction() as connection:
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
        sequence = (connection.execute(_LAST, {"of": migration}).scalar() or 0) + 1
        written = evolve(record, sequence=sequence, at=record.at or datetime.now(UTC))
        connection.execute(_INSERT, {"migration": migration, **rows.record_values(written)})
        self._update(connection, migration, rows.header_values(header.after(written, final=entry.final)))
        if entry.answers is not None:
            leases.answer(connection, entry.answers)
        if entry.final:
            leases.forget_requests(connection, migration)
            connection.execute(delete(tables.claims).where(tables.claims.c.migration == migration))
        return written

    def header(self, migration: str) -> Header:
        """See ``Journal.header``."""
        with self._transaction() as connection:
            return self._header(connection, migration)

    def headers(self, *, unfinished: bool = False) -> Sequence[Header]:
        """See ``Journal.headers``."""
        query = select(tables.migrations).order_by(*_OLDEST_FIRST)
        if unfinished:
            query = query.where(tables.migrations.c.final.is_(False))
        with self._transaction() as connection:
            return [rows.header(row) for row in connection.execute(query)]

    def records(self, migration: str) -> Sequence[Record]:
        """See ``Journal.records``."""
        query = (
            select(tables.records)
            .where(tables.records.c.migration == migration)
            .order_by(tables.records.c.sequence)
        )
        with self._transaction() as connection:
            self._header(connection, migration)
            return [rows.record(row) for row in connection.execute(query)]

    def events(self, migration: str | None = None) -> Iterator[Decided]:
        """See ``Journal.events``. Page by page, each in a short transaction of its own that only reads."""
        table = tables.records
        key = tuple_(table.c.migration, table.c.sequence)
        query = select(*(table.c[name] for name in events.COLUMNS)).order_by(*key.clauses)
        if migration is not None:
            self.header(migration)
            query = query.where(table.c.migration == migration)
        last: tuple[str, int] | None = None
        while True:  # ends: every page begins behind the one before
            behind = query.where(key > last) if last is not None else query
            with self._transaction(read_only=True) as connection:
                page = connection.execute(behind.limit(PAGE)).all()
            for row in page:
                yield events.of_row(tuple(row))
            if len(page) < PAGE:
                return
            last = (page[-1][0], page[-1][1])

    def beat(self, holder: str, expires: datetime) -> None:
        """See ``Journal.beat``."""
        with self._transaction() as connection:
            leases.beat(connection, holder, expires)

    def acquire(self, migration: str, holder: str, is_dead: Callable[[str], bool]) -> Lease:
        """See ``Journal.acquire``."""
        with self._transaction() as connection:
            self._header(connection, migration)
            return leases.acquire(connection, migration, holder, is_dead)

    def driver(self, migration: str, is_dead: Callable[[str], bool]) -> str:
        """See ``Journal.driver``."""
        with self._transaction() as connection:
            return leases.driver(connection, migration, is_dead)

    def take_over(self, holder: str, is_dead: Callable[[str], bool]) -> Sequence[Taken | FsmError]:
        """See ``Journal.take_over``."""
        unfinished = tables.migrations.c.final.is_(False)
        foreign = (
            select(tables.migrations)
            .outerjoin(tables.leases)
            .where(unfinished, tables.leases.c.holder.is_distinct_from(holder))
        )
        with self._transaction() as connection:
            found = connection.execute(foreign.order_by(*_OLDEST_FIRST)).all()
            read = select(tables.records).join(tables.migrations).where(unfinished)
            histories: dict[str, list[Row[Any]]] = {row.migration: [] for row in found}
            for row in connection.execute(read.order_by(tables.records.c.sequence)):
                histories.setdefault(row.migration, []).append(row)
            known = cache(is_dead)
            return [self._take(connection, row, histories[row.migration], holder, known) for row in found]

    def _take(
        self,
        connection: Connection,
        header: Row[Any],
        records: list[Row[Any]],
        holder: str,
        is_dead: Callable[[str], bool],
    ) -> Taken | FsmError:
        try:
            read = rows.header(header), [rows.record(row) for row in records]
            return Taken(leases.acquire(connection, header.migration, holder, is_dead), *read)
        except (Leased, JournalCorrupt) as error:
            return error

    def release(self, lease: Lease) -> None:
        """See ``Journal.release``."""
        with self._transaction() as connection:
            leases.release(connection, lease)

    def ask(self, migration: str, name: str, data: Data) -> None:
        """See ``Journal.ask``."""
        with self._transaction() as connection:
            self._header(connection, migration)
            leases.ask(connection, migration, name, data)

    def asked(self) -> Sequence[Asked]:
        """See ``Journal.asked``."""
        with self._transaction() as connection:
            return leases.asked(connection)

    def close(self) -> None:
        """See ``Journal.close``."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, read_only: bool = False) -> Iterator[Connection]:
        try:
            with (self._reading if read_only else self._engine).begin() as connection:
                yield connection
        except DBAPIError as error:
            message = f"journal {self._engine.url.render_as_string()}: {error.orig}"
            if sqlite.is_corruption(error.orig):
                raise JournalCorrupt(message, remedy="name another journal, or restore this one") from error
            raise JournalUnavailable(
                message,
                remedy="check the journal's disk and permissions; nothing is done to a host meanwhile",
            ) from error
        except SQLAlchemyError as error:
            raise JournalUnavailable(f"journal {self._engine.url.render_as_string()}: {error}") from error

    def _claim(self, connection: Connection, migration: str, domain_uuid: str) -> None:
        query = select(tables.claims.c.migration).where(tables.claims.c.domain_uuid == domain_uuid)
        holder = connection.execute(query).scalar()
        if holder not in (None, migration):
            raise _busy(domain_uuid, f"the unfinished migration {holder}")
        if holder is None:
            try:
                connection.execute(insert(tables.claims).values(domain_uuid=domain_uuid, migration=migration))
            except IntegrityError as error:
                # On a database that lets two writers look at once, the other one was faster.
                raise _busy(domain_uuid, "a migration that has just begun") from error
        self._update(connection, migration, {"domain_uuid": domain_uuid})

    def _header(self, connection: Connection, migration: str) -> Header:
        row = connection.execute(_HEADER, {"of": migration}).one_or_none()
        if row is None:
            raise BadInput(f"no migration {migration!r} in this journal", remedy="`fsm list` names them all")
        return rows.header(row)

    def _update(self, connection: Connection, migration: str, values: dict[str, Any]) -> None:
        connection.execute(_UPDATE, {"of": migration, **values})


def _location(url: URL) -> str:
    if url.get_backend_name() != "sqlite":
        return url.render_as_string()  # without its password
    return f"{socket.gethostname()}:{Path(url.database or '').absolute()}"


def _busy(domain_uuid: str, holder: str) -> DomainBusy:
    return DomainBusy(
        f"domain {domain_uuid} is taken by {holder}",
        remedy="`fsm list` and `fsm show ID` tell how it stands; wait for its end",
    )
