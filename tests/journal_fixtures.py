"""A journal in a file of its own, and one with a migration ``m1`` that has just begun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm.journal.sql import SqlJournal, open_journal
from tests.journal_helpers import header


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqlJournal]:
    opened = open_journal(path)
    yield opened
    opened.close()


@pytest.fixture
def begun(journal: SqlJournal) -> SqlJournal:
    journal.create(header())
    return journal
