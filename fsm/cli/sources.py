"""What ``fsm replay`` reads: a migration or all of them from the journal, or log files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
from attrs import define

from fsm.cli.app import has_journal
from fsm.errors import BadInput, JournalCorrupt
from fsm.journal.events import Decided
from fsm.journal.logfile import STDIN, LogReader, with_rotated
from fsm.journal.sql import open_journal

WHOLE_JOURNAL = "journal"
_SQLITE = b"SQLite format 3\0"


@define
class Source:
    """Records to be replayed. ``where`` says where the last one stands, ``torn`` which files end early."""

    events: Iterator[Decided]
    where: Callable[[], str]
    torn: Sequence[Path] = ()


def open_source(
    context: click.Context, words: Sequence[str], on_damage: Callable[[JournalCorrupt], None]
) -> Source:
    """What the words of the command name. Raises ``BadInput`` where they name nothing."""
    paths = [STDIN if word == "-" else Path(word) for word in words]
    files = [path for path in paths if path == STDIN or path.is_file()]
    if not files and len(words) == 1:
        migration = None if words[0] == WHOLE_JOURNAL else words[0]
        return _journal(context.obj["journal"], migration)
    if len(files) < len(paths):
        missing = ", ".join(str(path) for path in paths if path not in files)
        raise BadInput(
            f"no such log file: {missing}", remedy="name log files, or one migration, or `journal`"
        )
    if len(files) == 1 and _is_journal(files[0]):
        return _journal(files[0], None)
    # One file stands for the whole log; several are just these.
    named = with_rotated(files[0]) if len(files) == 1 and files[0] != STDIN else files
    reader = LogReader(named, on_damage)
    return Source(iter(reader), lambda: f"{reader.where}: ", reader.torn)


def _is_journal(path: Path) -> bool:
    if path == STDIN:
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error


def _journal(path: Path, migration: str | None) -> Source:
    if not has_journal(path):
        wanted = f", and no file {migration!r}" if migration else ""
        raise BadInput(f"there is no journal {path}{wanted}", remedy="--journal or FSM_JOURNAL names another")
    return Source(_events(path, migration), lambda: "")


def _events(path: Path, migration: str | None) -> Iterator[Decided]:
    journal = open_journal(path)
    try:
        yield from journal.events(migration)
    finally:
        journal.close()
