"""A journal's file, opened so that a written record survives a power failure."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fsm.errors import FsmError, JournalCorrupt
from fsm.journal.port import JournalUnavailable
from fsm.journal.tables import FIRST

BUSY_TIMEOUT_S = 30

WRITING = "BEGIN IMMEDIATE"
"""One writer at a time from the first read on, so that no two give out the same sequence."""

READING = "BEGIN"
"""In a write-ahead log, readers hold nobody up."""


class JournalFile:
    """An open journal file.

    It has one connection, at which a process's threads take turns. SQLite's own way of waiting is to sleep
    and look again, and whoever writes one transaction after another leaves no gap that it hits.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``, which is made, with its directory, where missing. Raises ``JournalUnavailable``.

        The file is readable by its owner alone: it holds domain XML with secrets; SQLite gives the files
        beside it the same permissions.
        """
        self.path = path.absolute()  # and so no URI, whatever it begins with
        self._turn = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path)
            with self._explained():
                self._connection = _connect(self.path)
        except OSError as error:
            raise JournalUnavailable(
                f"journal {path} can't be opened: {error.strerror}",
                remedy="name another file with --journal or FSM_JOURNAL, or make this one accessible",
            ) from error

    @contextmanager
    def transaction(self, begin: str = WRITING) -> Iterator[sqlite3.Connection]:
        """All of it is written, to stable storage, or nothing.

        Raises ``JournalUnavailable``, and ``JournalCorrupt`` for a file that is damaged or no journal.
        """
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            raise self._unavailable("another thread holds it")
        try:
            with self._explained():
                self._connection.execute(begin)
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if _is_corruption(error):
                raise JournalCorrupt(
                    f"journal {self.path}: {error}", remedy="name another journal, or restore this one"
                ) from error
            raise self._unavailable(str(error)) from error

    def _unavailable(self, why: str) -> FsmError:
        return JournalUnavailable(
            f"journal {self.path}: {why}",
            remedy="check the journal's disk and permissions; nothing is done to a host meanwhile",
        )


def _connect(path: Path) -> sqlite3.Connection:
    # Python's driver would begin a transaction only at the first write, after what the write depends on was
    # read; without an isolation level it leaves that to ``JournalFile.transaction``.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    tables = [row["name"] for row in found]
    if tables and FIRST not in tables:
        connection.close()
        raise JournalCorrupt(
            f"{path} is no journal but another program's database", remedy="name another file with --journal"
        )
    _close_to_others(path)
    # FULL: a commit returns only when the write-ahead log is on stable storage (https://sqlite.org/wal.html).
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _is_corruption(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, or no journal of this version."""
    if str(error).startswith("Could not decode to UTF-8"):
        return True
    # A plain SQLITE_ERROR finds fault with the statement; ours are right, so the tables are not ours.
    alien = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in alien


def _make(path: Path) -> None:
    """Make the file where it is missing."""
    if path.exists() and not path.is_file():  # not even opened: a device may do something by that
        raise OSError(errno.EINVAL, "it is no regular file")
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _close_to_others(path: Path) -> None:
    """A journal's file and those beside it, which have got its permissions."""
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(FileNotFoundError):  # whoever closes it last takes those beside it away
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)
