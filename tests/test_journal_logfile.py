"""Reading events out of log files in whatever state, and out of the journal."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sqlite3
from pathlib import Path

import pytest

from fsm.errors import BadInput, JournalCorrupt
from fsm.journal.events import of_record
from fsm.journal.logfile import LogReader, with_rotated
from fsm.journal.sql import PAGE, open_journal
from tests.journal_helpers import INTENT, OUTCOME, header
from tests.log_helpers import golden, text_of

LINES = golden("committed").read_bytes().splitlines(keepends=True)
EVENTS = list(LogReader([golden("committed")]))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "fsm.log"


def test_all_events_of_a_log() -> None:
    assert [event.sequence for event in EVENTS] == list(range(1, len(EVENTS) + 1))
    assert len(EVENTS) == sum(b"-intent" in line or b"-outcome" in line for line in LINES)


def test_other_lines_in_between(log: Path) -> None:
    others = [
        b"\n",
        b'plain text with a "sequence" in it\n',
        b'{"event": "request", "sequence": 3, "path": "/x-intent"}\n',
        b'["sequence", "transition-intent"]\n',
        b'"sequence"\n',
        b'\xff\xfe\x00 "sequence"\n',
        b'{"sequence": {"deep": ' + b"[" * 3000 + b"]" * 3000 + b"}}\n",
        b"\0" * 5000 + b"\n",
        b'{"event": "heartbeat", "migration": "m", "sequence": "x"}\n',
    ]
    log.write_bytes(b"".join(b"".join(others) + line for line in LINES))
    assert list(LogReader([log])) == EVENTS


def test_lines_behind_a_prefix(log: Path) -> None:
    log.write_bytes(b"".join(b"Feb 29 12:00:00 host fsm[17]: " + line for line in LINES))
    assert list(LogReader([log])) == EVENTS


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_whatever_they_are_called(log: Path, compress) -> None:
    log.write_bytes(compress(b"".join(LINES)))
    assert list(LogReader([log])) == EVENTS


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_damaged_compressed_file(log: Path, compress) -> None:
    whole = compress(b"".join(LINES) * 50)
    for broken in (whole[:-20], whole[: len(whole) // 2], whole[:99] + b"\x55" * 40 + whole[139:]):
        log.write_bytes(broken)
        with pytest.raises(JournalCorrupt, match=r"fsm\.log"):
            list(LogReader([log]))


def test_rotated_files_oldest_first(log: Path) -> None:
    third = len(LINES) // 3
    Path(f"{log}.2.gz").write_bytes(gzip.compress(b"".join(LINES[:third])))
    Path(f"{log}.1").write_bytes(b"".join(LINES[third : 2 * third]))
    log.write_bytes(b"".join(LINES[2 * third :]))
    for other in (f"{log}.bak", f"{log}x", f"{log}.1.lock"):
        Path(other).write_bytes(b"".join(LINES))
    named = with_rotated(log)
    assert {path.name for path in named} == {"fsm.log", "fsm.log.1", "fsm.log.2.gz"}
    assert list(LogReader(named)) == EVENTS
    assert list(LogReader(named[::-1])) == EVENTS


def test_rotated_files_named_by_date(log: Path) -> None:
    Path(f"{log}-20240229.xz").write_bytes(lzma.compress(b"".join(LINES[:9])))
    log.write_bytes(b"".join(LINES[9:]))
    assert list(LogReader(with_rotated(log))) == EVENTS


def test_a_torn_last_line_is_left_out_and_named(log: Path) -> None:
    whole = b"".join(LINES)
    for end in range(1, len(LINES[-1])):
        log.write_bytes(whole[:-end])
        reader = LogReader([log])
        found = list(reader)
        # What misses the line's end alone is whole all the same.
        assert found == (EVENTS if end == 1 else EVENTS[:-1])
        assert set(reader.torn) <= {log}


def test_a_line_torn_in_the_middle_of_a_log_is_damage(log: Path) -> None:
    torn = LINES[3][:-40]
    log.write_bytes(b"".join([*LINES[:3], torn, *LINES[4:]]))
    with pytest.raises(JournalCorrupt, match=r"fsm\.log:4: the line is damaged"):
        list(LogReader([log]))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "has schema 2, not 1"),
        ({"schema": None}, "has schema None, not 1"),
        ({"sequence": "4"}, "sequence"),
        ({"state": 7}, "state"),
        ({"at": "yesterday"}, "at"),
        ({"observation": {"source": {"reachable": True}}}, "destination"),
        (
            {
                "observation": {
                    "source": {"reachable": True, "fenced": True},
                    "destination": {"reachable": True},
                }
            },
            "fenced",
        ),
    ],
    ids=str,
)
def test_damage_is_named_and_can_be_passed_over(log: Path, change: dict[str, object], told: str) -> None:
    number = next(i for i, line in enumerate(LINES) if b'"transition-intent"' in line)
    line = {**json.loads(LINES[number]), **change}
    log.write_bytes(b"".join([*LINES[:number], text_of([line]), *LINES[number + 1 :]]))
    with pytest.raises(JournalCorrupt, match=rf"fsm\.log:{number + 1}: .*{told}"):
        list(LogReader([log]))
    damage: list[JournalCorrupt] = []
    found = list(LogReader([log], damage.append))
    assert len(found) == len(EVENTS) - 1
    assert len(damage) == 1


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(BadInput, match=str(path)):
            list(LogReader([path]))


# The journal


def test_the_journals_records_as_events(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = open_journal(path)
    for migration in ("m2", "m1"):
        journal.create(header(migration))
        written = [journal.append(migration, record) for record in (INTENT, OUTCOME)]
        assert list(journal.events(migration)) == [_decided(migration, record) for record in written]
    assert [(event.migration, event.sequence) for event in journal.events()] == [
        ("m1", 1),
        ("m1", 2),
        ("m2", 1),
        ("m2", 2),
    ]
    with pytest.raises(BadInput):
        list(journal.events("m3"))
    journal.close()


def _decided(migration: str, record):
    event = of_record(migration, record)
    return type(EVENTS[0])(**{name: getattr(event, name) for name in EVENTS[0].__struct_fields__})


def test_reading_much_holds_no_writer_up(tmp_path: Path) -> None:
    journal, other = (open_journal(tmp_path / "journal.db") for _ in range(2))
    journal.create(header())
    for _ in range(PAGE + 10):
        journal.append("m1", OUTCOME)
    reading = journal.events()
    seen = [next(reading)]
    other.append("m1", OUTCOME)
    seen += reading
    assert [event.sequence for event in seen] == list(range(1, PAGE + 12))
    journal.close()
    other.close()


def test_a_damaged_record_of_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = open_journal(path)
    journal.create(header())
    journal.append("m1", INTENT)
    with sqlite3.connect(path) as connection:
        connection.execute("update records set observation = '{\"source\": 1}'")
    connection.close()
    with pytest.raises(JournalCorrupt, match="record 1 of migration m1"):
        list(journal.events())
    journal.close()
