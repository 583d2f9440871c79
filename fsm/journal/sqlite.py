"""What is particular to SQLite: opening a journal file so that a written record survives a power failure.

Nothing outside this module knows which database is behind the journal.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from fsm.journal.port import JournalUnavailable

BUSY_TIMEOUT_S = 30
READ_ONLY = "fsm_read_only"


def open_engine(path: Path) -> Engine:
    """An engine on the journal file ``path``, which is made, with its directory, where missing.

    The file is readable by its owner alone: it holds domain XML with secrets; SQLite gives the files beside
    it the same permissions. Raises ``JournalUnavailable``.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(path)
    except OSError as error:
        raise JournalUnavailable(
            f"journal {path} can't be opened: {error.strerror}",
            remedy="name another file with --journal or FSM_JOURNAL, or make this one accessible",
        ) from error
    # Not as text: "?" and "%" in a path mean something in a URL. Absolute: "file:" in front would as well.
    url = URL.create("sqlite", database=str(path.absolute()))
    # One connection: a process's threads then take turns in the pool's queue. SQLite's own way of waiting
    # is to sleep and look again, and whoever writes one transaction after another leaves no gap that it hits.
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S},
        pool_size=1,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT_S,
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def is_corruption(error: BaseException | None) -> bool:
    """Whether a database error says that the file is damaged, or no journal of this version."""
    if str(error).startswith("Could not decode to UTF-8"):
        return True
    # A plain SQLITE_ERROR finds fault with the statement; ours are right, so the tables are not ours.
    alien = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in alien


def _make_private(path: Path) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # FULL: a commit returns only when the write-ahead log is on stable storage (https://sqlite.org/wal.html).
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    # Python's own driver would begin a transaction only at the first write, after what the write depends on
    # was read; `_begin` does it instead.
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get(READ_ONLY):
        connection.exec_driver_sql("BEGIN")  # in a write-ahead log, readers hold nobody up
        return
    # IMMEDIATE: one writer at a time from the first read on, so that no two give out the same sequence.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
