"""Opens a journal by whatever names it: a path, a URL, or a journal of the embedder's own."""

from __future__ import annotations

import os
from pathlib import Path

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


def _path_of(url: str) -> Path:
    """The file that a URL names; behind the third slash, so that an absolute path begins with a fourth."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] != "sqlite":
        # Two engines could both be given a lease where two transactions may look at once. The URL itself is
        # not told, for it may hold a password.
        raise BadInput(
            f"a journal at {scheme}://: only SQLite files are known to keep leases apart",
            remedy="name a SQLite file, or give an object that implements fsm.Journal",
        )
    host, _, path = rest.partition("/")
    if host or path in ("", ":memory:") or "?" in path:
        raise BadInput("the journal's URL must name a plain file, which survives the process", remedy=EXAMPLE)
    return Path(path)
