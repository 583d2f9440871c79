"""The journal's file: private, durable, any name; and what is said when it is damaged or can't be used."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from fsm.errors import JournalCorrupt
from fsm.journal import sqlite
from fsm.journal.port import JournalUnavailable
from fsm.journal.sql import SqlJournal, open_journal
from tests.journal_helpers import INTENT, header

pytest_plugins = ["tests.journal_fixtures"]


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def test_nobody_else_can_read_the_journal(path: Path, begun: SqlJournal) -> None:
    begun.append("m1", INTENT)
    assert modes(path.parent) == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm"), 384)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_journal_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    path.chmod(0o644)
    journal = open_journal(path)
    journal.create(header())
    assert set(modes(tmp_path).values()) == {0o600}
    journal.close()


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)]
)
def test_sqlite_is_told_to_be_durable(path: Path, pragma: str, value: object) -> None:
    file = sqlite.JournalFile(path)
    with file.transaction() as connection:
        assert tuple(connection.execute(f"PRAGMA {pragma}").fetchone()) == (value,)
    file.close()


@pytest.mark.parametrize(
    "name", ["a b.db", "it's.db", "what?.db", "50%20.db", "a#b.db", "a&b<c>.db", "a\nb.db"]
)
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    journal = open_journal(tmp_path / name)
    journal.create(header())
    journal.close()
    assert (tmp_path / name).stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_relative_name_that_looks_like_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_journal(Path("file:x.db?mode=memory")).close()
    assert [path.name for path in tmp_path.iterdir()] == ["file:x.db?mode=memory"]


def test_journal_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "journal.db", tmp_path, Path("/proc/nowhere/journal.db")):
        with pytest.raises(JournalUnavailable) as error:
            open_journal(path)
        assert str(path) in str(error.value)
        assert "--journal" in error.value.remedy


def test_what_is_no_journal_is_left_as_it_was(tmp_path: Path) -> None:
    """A slip of the keyboard must not take a file from everybody else who reads it."""
    other = tmp_path / "hosts"
    other.write_text("127.0.0.1 localhost\n" * 100)
    other.chmod(0o644)
    with pytest.raises(JournalCorrupt, match="not a database"):
        open_journal(other)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o644)
    with pytest.raises(JournalUnavailable, match="no regular file"):
        open_journal(pipe)
    assert modes(tmp_path) == {"hosts": 0o644, "pipe": 0o644}
    assert other.read_text() == "127.0.0.1 localhost\n" * 100


# -- damage -------------------------------------------------------------------------------------------------


def edit(path: Path, statement: str, *values: object) -> None:
    raw = sqlite3.connect(path)
    with raw:
        raw.execute(statement, values)
    raw.close()


HOST = {"reachable": True, "domain": None, "fenced": False}
DAMAGED_RECORDS = [
    ("observation", "{"),
    ("observation", "5"),
    ("observation", "null"),
    ("observation", "[]"),
    ("observation", json.dumps({"source": HOST})),
    ("observation", json.dumps({"source": HOST, "destination": {"reachable": "false"}})),
    ("observation", json.dumps({"source": HOST, "destination": {"reachable": False, "domain": HOST}})),
    ("observation", json.dumps({"source": HOST, "destination": {**HOST, "fenced": True}})),
    ("observation", json.dumps({"source": HOST, "destination": HOST, "engine": {"preflight": "maybe"}})),
    ("data", "not JSON"),
    ("data", "[]"),
    ("data", b"\xff"),
    ("step", "jump"),
    ("phase", "later"),
    ("at", "yesterday"),
    ("at", b"\xff"),
    ("name", b"\xff"),
    ("sequence", "first"),
]


@pytest.mark.parametrize(("column", "value"), DAMAGED_RECORDS)
def test_damaged_record_is_named(path: Path, begun: SqlJournal, column: str, value: object) -> None:
    begun.append("m1", INTENT)
    edit(path, f"UPDATE records SET {column} = ?", value)  # noqa: S608  # names from the table above
    with pytest.raises(JournalCorrupt, match="of migration m1 can't be read"):
        begun.records("m1")
    assert begun.header("m1").migration == "m1"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("request", "[]"),
        ("request", "{"),
        ("created", "1.1."),
        ("updated", "x"),
        ("state", b"\0"),
    ],
)
def test_damaged_header_is_named(path: Path, begun: SqlJournal, column: str, value: object) -> None:
    edit(path, f"UPDATE migrations SET {column} = ?", value)  # noqa: S608  # names from the table above
    for ask in (lambda: begun.header("m1"), begun.headers, lambda: begun.append("m1", INTENT)):
        with pytest.raises(JournalCorrupt, match="header of migration m1 can't be read"):
            ask()


def test_text_that_is_no_text(path: Path, begun: SqlJournal) -> None:
    begun.append("m1", INTENT)
    edit(path, "UPDATE records SET data = CAST(x'ff' AS TEXT)")
    with pytest.raises(JournalCorrupt):
        begun.records("m1")


def test_tables_of_another_make(path: Path, begun: SqlJournal) -> None:
    begun.append("m1", INTENT)
    edit(path, "ALTER TABLE records DROP COLUMN error")
    with pytest.raises(JournalCorrupt, match="error"):
        begun.records("m1")


def test_file_that_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"It was a dark and stormy night. " * 64)
    with pytest.raises(JournalCorrupt, match="not a database"):
        open_journal(path)


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE songs (name TEXT)")
    theirs.close()
    path.chmod(0o644)
    before = path.read_bytes(), modes(tmp_path)
    with pytest.raises(JournalCorrupt, match="another program's database"):
        open_journal(path)
    assert (path.read_bytes(), modes(tmp_path)) == before
    assert [file.name for file in tmp_path.iterdir()] == ["theirs.db"]


def test_a_damaged_request_is_named(path: Path, begun: SqlJournal) -> None:
    begun.ask("m1", "abort", {})
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("UPDATE requests SET data = '{'")
    raw.close()
    with pytest.raises(JournalCorrupt, match="request 1 of migration m1 can't be read"):
        begun.asked()


def test_locked_journal_is_unavailable(
    path: Path, begun: SqlJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0)
    impatient = open_journal(path)
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalUnavailable, match="locked") as error:
        impatient.append("m1", INTENT)
    assert error.value.remedy
    raw.execute("ROLLBACK")
    raw.close()
    assert impatient.append("m1", INTENT).sequence == 1
    impatient.close()


def test_a_thread_that_keeps_the_journal_is_not_waited_for_for_ever(
    begun: SqlJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0)
    with begun._file.transaction(), pytest.raises(JournalUnavailable, match="another thread"):
        begun.append("m1", INTENT)
    assert begun.append("m1", INTENT).sequence == 1


def test_a_closed_journal_says_so(begun: SqlJournal) -> None:
    begun.close()
    with pytest.raises(JournalUnavailable, match="closed"):
        begun.header("m1")
