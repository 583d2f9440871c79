"""Opens a journal by whatever names it: a path, a URL, or a journal of the embedder's own."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from fsm.errors import BadInput
from fsm.journal.port import Journal
from fsm.journal.sql import open_journal

EXAMPLE = "for example sqlite:////path/to/file"

Named = str | os.PathLike[str] | Journal


def journal_of(named: Named) -> Journal:
    """The journal at a path or at a URL such as ``sqlite:////var/lib/app/fsm.db``, or the one given.

    Raises ``BadInput`` for a URL of anything but a SQLite file, and ``JournalUnavailable``.
    """
    if isinstance(named, os.PathLike):
        return open_journal(Path(named))
    if not isinstance(named, str):
        return named
    return open_journal(_path_of(named) if "://" in named else Path(named))


def _path_of(text: str) -> Path:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise BadInput("the journal's URL can't be read", remedy=EXAMPLE) from None  # it may hold a password
    shown = url.render_as_string()
    if url.get_backend_name() != "sqlite":
        # Two engines could both be given a lease where two transactions may look at once.
        raise BadInput(
            f"journal {shown}: only SQLite files are known to keep leases apart",
            remedy="name a SQLite file, or give an object that implements fsm.Journal",
        )
    if url.host or not url.database or url.database == ":memory:" or url.query:
        raise BadInput(
            f"journal {shown}: it must be a plain file, which survives the process", remedy=EXAMPLE
        )
    return Path(url.database)
