"""Leases and requests in the journal's tables. Every function runs inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from sqlite3 import Connection
from typing import Any

from fsm.journal import rows
from fsm.journal.port import Leased, LeaseLost
from fsm.journal.records import Asked, Data, Lease

_NEVER = datetime.min.replace(tzinfo=UTC)


def beat(connection: Connection, holder: str, expires: datetime) -> None:
    """See ``Journal.beat``."""
    connection.execute(
        "INSERT OR REPLACE INTO holders (holder, expires) VALUES (?, ?)", (holder, expires.isoformat())
    )


def acquire(connection: Connection, migration: str, holder: str, is_dead: Callable[[str], bool]) -> Lease:
    """See ``Journal.acquire``. The token only grows, so that an older holder is known by its own."""
    row = _first(connection, "SELECT holder, token FROM leases WHERE migration = ?", migration)
    if row is None:
        connection.execute(
            "INSERT INTO leases (migration, token, holder) VALUES (?, 1, ?)", (migration, holder)
        )
        return Lease(migration, holder, 1)
    if driver(connection, migration, is_dead):
        raise Leased(migration, row["holder"], _alive_until(connection, row["holder"]))
    taken = Lease(migration, holder, row["token"] + 1)
    connection.execute(
        "UPDATE leases SET token = ?, holder = ? WHERE migration = ?", (taken.token, holder, migration)
    )
    return taken


def driver(connection: Connection, migration: str, is_dead: Callable[[str], bool]) -> str:
    """See ``Journal.driver``."""
    row = _first(connection, "SELECT holder FROM leases WHERE migration = ?", migration)
    holder = row["holder"] if row is not None else ""
    alive = _alive_until(connection, holder) > datetime.now(UTC) and not is_dead(holder)
    return holder if alive else ""


def _alive_until(connection: Connection, holder: str) -> datetime:
    row = _first(connection, "SELECT expires FROM holders WHERE holder = ?", holder)
    return datetime.fromisoformat(row["expires"]) if row is not None else _NEVER


def _first(connection: Connection, query: str, *values: object) -> Any:
    return connection.execute(query, values).fetchone()


def check(connection: Connection, lease: Lease) -> None:
    """Raise ``LeaseLost`` unless this is the migration's lease still."""
    row = _first(connection, "SELECT token FROM leases WHERE migration = ?", lease.migration)
    if row is None or row["token"] != lease.token:
        raise LeaseLost(
            f"migration {lease.migration} was taken over by another engine",
            remedy=f"`fsm show {lease.migration}` tells how it stands",
        )


def release(connection: Connection, lease: Lease) -> None:
    """See ``Journal.release``. The row stays, and with it the token."""
    mine = (lease.migration, lease.token)
    connection.execute("UPDATE leases SET holder = '' WHERE migration = ? AND token = ?", mine)


def ask(connection: Connection, migration: str, name: str, data: Data) -> None:
    """See ``Journal.ask``."""
    connection.execute(
        "INSERT INTO requests (migration, name, data, at) VALUES (?, ?, ?, ?)",
        (migration, name, json.dumps(data), datetime.now(UTC).isoformat()),
    )


def asked(connection: Connection) -> Sequence[Asked]:
    """See ``Journal.asked``."""
    found = connection.execute("SELECT request, migration, name, data FROM requests ORDER BY request")
    return [rows.asked(row) for row in found]


def forget_requests(connection: Connection, migration: str) -> None:
    """Nothing can be asked of a migration that has ended."""
    connection.execute("DELETE FROM requests WHERE migration = ?", (migration,))


def answer(connection: Connection, number: int) -> None:
    """Take a request off the list."""
    connection.execute("DELETE FROM requests WHERE request = ?", (number,))
