"""A journal is found by its path, by a URL, or is one of the embedder's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fsm.errors import BadInput
from fsm.journal.opening import journal_of
from fsm.journal.port import JournalUnavailable


@pytest.mark.parametrize(
    "named",
    [
        "{path}",
        "sqlite:///{path}",
        "sqlite+pysqlite:///{path}",
        "sqlite:///journal 1.db",
    ],
)
def test_a_path_or_a_url_names_a_file(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "journal.db"
    journal = journal_of(named.format(path=path))
    assert journal.headers() == []
    (made,) = tmp_path.glob("journal*.db")
    assert journal.location.endswith(f":{made}")
    assert made.stat().st_mode & 0o077 == 0
    journal.close()


def test_a_path_object_and_a_journal(tmp_path: Path) -> None:
    class Entry(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "other.db")

    journal = journal_of(Entry())
    assert journal.location.endswith("other.db")
    assert journal_of(journal) is journal
    journal.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://fsm:secret@db/fsm", "only SQLite"),
        ("sqlite://", "survives"),
        ("sqlite:///:memory:", "survives"),
        ("sqlite:///journal.db?mode=ro", "plain file"),
        ("sqlite://host/journal.db", "plain file"),
        ("sqlite://host:port:secret/x", "plain file"),
    ],
)
def test_what_can_not_keep_leases_apart_is_refused(url: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        journal_of(url)
    assert "secret" not in str(caught.value)
    assert caught.value.remedy


def test_a_file_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalUnavailable):
        journal_of(f"sqlite:///{tmp_path}/file/journal.db")
