"""Leases and requests in the journal's tables. Every function runs inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from fsm.journal.port import Leased, LeaseLost
from fsm.journal.records import Asked, Data, Lease
from fsm.journal.tables import holders, leases, requests

_TOKEN = select(leases.c.token).where(leases.c.migration == bindparam("of"))
_NEVER = datetime.min.replace(tzinfo=UTC)


def beat(connection: Connection, holder: str, expires: datetime) -> None:
    """See ``Journal.beat``."""
    values = {"expires": expires.isoformat()}
    mine = holders.c.holder == holder
    if connection.execute(update(holders).where(mine).values(**values)).rowcount == 0:
        connection.execute(insert(holders).values(holder=holder, **values))


def acquire(connection: Connection, migration: str, holder: str, is_dead: Callable[[str], bool]) -> Lease:
    """See ``Journal.acquire``. The token only grows, so that an older holder is known by its own."""
    row = connection.execute(select(leases).where(leases.c.migration == migration)).one_or_none()
    if row is None:
        connection.execute(insert(leases).values(migration=migration, token=1, holder=holder))
        return Lease(migration, holder, 1)
    if driver(connection, migration, is_dead):
        raise Leased(migration, row.holder, _alive_until(connection, row.holder))
    taken = Lease(migration, holder, row.token + 1)
    values = {"token": taken.token, "holder": holder}
    connection.execute(update(leases).where(leases.c.migration == migration).values(**values))
    return taken


def driver(connection: Connection, migration: str, is_dead: Callable[[str], bool]) -> str:
    """See ``Journal.driver``."""
    query = select(leases.c.holder).where(leases.c.migration == migration)
    holder = connection.execute(query).scalar() or ""
    alive = _alive_until(connection, holder) > datetime.now(UTC) and not is_dead(holder)
    return holder if alive else ""


def _alive_until(connection: Connection, holder: str) -> datetime:
    expires = connection.execute(select(holders.c.expires).where(holders.c.holder == holder)).scalar()
    return datetime.fromisoformat(expires) if expires else _NEVER


def check(connection: Connection, lease: Lease) -> None:
    """Raise ``LeaseLost`` unless this is the migration's lease still."""
    token = connection.execute(_TOKEN, {"of": lease.migration}).scalar()
    if token != lease.token:
        raise LeaseLost(
            f"migration {lease.migration} was taken over by another engine",
            remedy=f"`fsm show {lease.migration}` tells how it stands",
        )


def release(connection: Connection, lease: Lease) -> None:
    """See ``Journal.release``. The row stays, and with it the token."""
    mine = (leases.c.migration == lease.migration) & (leases.c.token == lease.token)
    connection.execute(update(leases).where(mine).values(holder=""))


def ask(connection: Connection, migration: str, name: str, data: Data) -> None:
    """See ``Journal.ask``."""
    values = {"migration": migration, "name": name, "data": json.dumps(data)}
    connection.execute(insert(requests).values(at=datetime.now(UTC).isoformat(), **values))


def asked(connection: Connection) -> Sequence[Asked]:
    """See ``Journal.asked``."""
    found = connection.execute(select(requests).order_by(requests.c.request))
    return [Asked(row.request, row.migration, row.name, json.loads(row.data)) for row in found]


def forget_requests(connection: Connection, migration: str) -> None:
    """Nothing can be asked of a migration that has ended."""
    connection.execute(delete(requests).where(requests.c.migration == migration))


def answer(connection: Connection, number: int) -> None:
    """Take a request off the list."""
    connection.execute(delete(requests).where(requests.c.request == number))
