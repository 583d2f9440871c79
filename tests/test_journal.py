"""What every journal must do, tried on the embedded one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsm.errors import BadInput, JournalCorrupt
from fsm.journal.port import (
    DomainBusy,
    Entry,
    Journal,
    JournalUnavailable,
    Leased,
    LeaseLost,
    Taken,
)
from fsm.journal.records import Phase, Record, Step
from fsm.journal.sql import SqlJournal, open_journal
from fsm.machine.observation import Observation
from tests.journal_helpers import BORN, INTENT, OUTCOME, header
from tests.machine_helpers import ABSENT, GONE, observations

pytest_plugins = ["tests.journal_fixtures"]


def test_header_comes_back_as_it_went(journal: Journal) -> None:
    journal.create(header())
    assert journal.header("m1") == header()


def test_records_come_back_in_order_with_sequence_and_time(begun: Journal) -> None:
    dated = evolve(OUTCOME, at=BORN, error="no space", data={"remedy": "make some"}, spec_digest="abc")
    written = [begun.append("m1", record) for record in (INTENT, dated, OUTCOME)]
    assert [record.sequence for record in written] == [1, 2, 3]
    assert written[1] == evolve(dated, sequence=2)
    assert all(record.at is not None and record.at.tzinfo for record in written)
    assert begun.records("m1") == written


def test_header_follows_the_records(begun: Journal) -> None:
    begun.append("m1", INTENT)
    assert (begun.header("m1").state, begun.header("m1").heading_for) == ("planned", "snapshotted")
    begun.append("m1", Record(Step.ACTION, Phase.OUTCOME, "save-bases", "planned", error="broken"))
    assert (begun.header("m1").state, begun.header("m1").heading_for) == ("planned", "snapshotted")
    # A transition that failed may have had effects: what its destination blocks stays blocked.
    begun.append("m1", evolve(OUTCOME, error="broken"))
    assert (begun.header("m1").state, begun.header("m1").heading_for) == ("planned", "snapshotted")
    begun.append("m1", INTENT)
    last = begun.append("m1", OUTCOME)
    changed = begun.header("m1")
    assert (changed.state, changed.heading_for, changed.final) == ("snapshotted", "", False)
    assert changed.updated == last.at
    assert changed.request == header().request


def test_final_record_ends_the_migration(begun: Journal) -> None:
    begun.append("m1", evolve(OUTCOME, dest="refused"), final=True)
    assert (begun.header("m1").state, begun.header("m1").final) == ("refused", True)


def test_migrations_keep_their_own_histories(begun: Journal) -> None:
    begun.create(header("m2", 1))
    begun.append("m1", INTENT)
    assert begun.append("m2", INTENT).sequence == 1
    assert len(begun.records("m1")) == len(begun.records("m2")) == 1
    assert begun.header("m1").updated != begun.header("m2").created


def test_headers_oldest_first_and_unfinished_alone(journal: Journal) -> None:
    for name, minute in (("late", 30), ("early", 10), ("middle", 20)):
        journal.create(header(name, minute))
    journal.append("middle", evolve(OUTCOME, dest="refused"), final=True)
    assert [h.migration for h in journal.headers()] == ["early", "middle", "late"]
    assert [h.migration for h in journal.headers(unfinished=True)] == ["early", "late"]


def test_claim_keeps_others_off_until_the_end(begun: Journal) -> None:
    begun.create(header("m2"))
    begun.claim("m1", "uuid-1")
    begun.claim("m1", "uuid-1")
    assert begun.header("m1").domain_uuid == "uuid-1"
    with pytest.raises(DomainBusy, match="m1") as busy:
        begun.claim("m2", "uuid-1")
    assert "fsm list" in busy.value.remedy
    assert begun.header("m2").domain_uuid == ""
    begun.claim("m2", "uuid-2")
    begun.append("m1", INTENT)
    with pytest.raises(DomainBusy):
        begun.claim("m2", "uuid-1")
    begun.append("m1", evolve(OUTCOME, dest="refused"), final=True)
    begun.claim("m2", "uuid-1")


def test_claims_outlive_the_process(path: Path, begun: SqlJournal) -> None:
    begun.claim("m1", "uuid-1")
    begun.close()
    again = open_journal(path)
    again.create(header("m2"))
    with pytest.raises(DomainBusy):
        again.claim("m2", "uuid-1")
    again.claim("m1", "uuid-1")
    again.close()


@pytest.mark.parametrize(
    "ask",
    [
        lambda journal: journal.header("nobody"),
        lambda journal: journal.records("nobody"),
        lambda journal: journal.append("nobody", INTENT),
        lambda journal: journal.claim("nobody", "uuid-1"),
    ],
)
def test_unknown_migration_is_bad_input(begun: Journal, ask: Callable[[Journal], object]) -> None:
    with pytest.raises(BadInput, match="'nobody'") as error:
        ask(begun)
    assert error.value.remedy
    begun.claim("m1", "uuid-1")


def test_everything_survives_reopening(path: Path, begun: SqlJournal) -> None:
    written = begun.append("m1", INTENT)
    begun.close()
    again = open_journal(path)
    assert again.records("m1") == [written]
    assert again.header("m1").heading_for == "snapshotted"
    assert again.append("m1", OUTCOME).sequence == 2
    again.close()


def test_what_was_written_is_there_for_others_at_once(path: Path, begun: Journal) -> None:
    written = begun.append("m1", INTENT)
    other = open_journal(path)
    assert other.records("m1") == [written]
    other.close()


def test_many_threads_write_at_once(path: Path, journal: SqlJournal) -> None:
    """Two journals on one file stand for two processes; every migration has two writers here."""
    other = open_journal(path)
    names = [f"m{number}" for number in range(6)]
    for name in names:
        journal.create(header(name))

    def write(job: tuple[SqlJournal, str]) -> list[int]:
        return [job[0].append(job[1], INTENT).sequence for _ in range(8)]

    with ThreadPoolExecutor(12) as pool:
        given_out = list(pool.map(write, [(one, name) for name in names for one in (journal, other)]))
    for index, name in enumerate(names):
        assert sorted(given_out[2 * index] + given_out[2 * index + 1]) == list(range(1, 17))
        assert [record.sequence for record in journal.records(name)] == list(range(1, 17))
    other.close()


def test_two_threads_can_not_claim_one_domain(path: Path, journal: SqlJournal) -> None:
    other = open_journal(path)
    names = [f"m{number}" for number in range(8)]
    for name in names:
        journal.create(header(name))

    def claim(job: tuple[SqlJournal, str]) -> bool:
        try:
            job[0].claim(job[1], "uuid-1")
        except DomainBusy:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, zip([journal, other] * 4, names, strict=True)))
    assert won.count(True) == 1
    other.close()


def test_a_write_that_fails_leaves_nothing(path: Path, begun: SqlJournal) -> None:
    """Record and header change together or not at all."""
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TRIGGER full BEFORE UPDATE ON migrations BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(JournalUnavailable, match="full"):
        begun.append("m1", INTENT)
    assert begun.records("m1") == []
    assert begun.header("m1") == header()


# -- round trip ---------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
records = st.builds(
    Record,
    st.sampled_from(Step),
    st.sampled_from(Phase),
    _words,
    _words,
    _words,
    st.none() | observations,
    _words,
    st.dictionaries(_words, _json, max_size=3),
    at=st.datetimes(timezones=st.just(UTC)),
    spec_digest=_words,
)


@given(record=records)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_record_comes_back_as_it_went(begun: SqlJournal, record: Record) -> None:
    written = begun.append("m1", record)
    assert begun.records("m1")[-1] == written == evolve(record, sequence=written.sequence)


def test_absent_and_unknown_hosts_are_told_apart_after_reading(begun: Journal) -> None:
    begun.append("m1", evolve(INTENT, observation=Observation(ABSENT, GONE)))
    assert begun.records("m1")[0].observation == Observation(ABSENT, GONE)


# -- many at once -------------------------------------------------------------------------------------------


def test_many_records_are_written_in_order_and_one_refusal_stops_no_other(begun: Journal) -> None:
    begun.create(header("m2"))
    lost = begun.acquire("m2", "before", lambda _holder: True)
    lease = begun.acquire("m2", "now", lambda _holder: True)
    entries = [
        Entry("m1", INTENT),
        Entry("nobody", INTENT),
        Entry("m2", INTENT, lease=lost),
        Entry("m2", INTENT, lease=lease),
        Entry("m1", OUTCOME),
    ]
    results = begun.append_all(entries)
    assert [type(one) for one in results] == [Record, BadInput, LeaseLost, Record, Record]
    assert begun.records("m1") == [results[0], results[4]]
    assert begun.records("m2") == [results[3]]
    assert begun.header("m1").state == "snapshotted"


def _alive(journal: Journal, holder: str) -> None:
    journal.beat(holder, datetime.now(UTC) + timedelta(hours=1))


def test_everything_that_nobody_drives_is_taken_over_at_once(begun: Journal) -> None:
    for number, name in enumerate(("ended", "theirs", "dead", "mine", "free"), start=1):
        begun.create(header(name, number))
    begun.append("ended", evolve(OUTCOME, dest="refused"), final=True)
    written = begun.append("free", INTENT)
    for name, holder in (("theirs", "living"), ("dead", "killed"), ("mine", "me")):
        _alive(begun, holder)
        begun.acquire(name, holder, lambda _holder: False)
    found = begun.take_over("me", lambda holder: holder == "killed")
    taken = {one.header.migration: one for one in found if isinstance(one, Taken)}
    (left,) = [one for one in found if not isinstance(one, Taken)]
    assert list(taken) == ["m1", "dead", "free"]
    assert {one.lease.holder for one in taken.values()} == {"me"}
    assert [taken[name].lease.token for name in taken] == [1, 2, 1]
    assert taken["free"].records == [written]
    assert taken["free"].header == begun.header("free")
    assert isinstance(left, Leased)
    assert (left.migration, left.holder) == ("theirs", "living")


def test_a_damaged_migration_is_not_taken_over_and_keeps_no_other_from_it(path: Path, begun: Journal) -> None:
    begun.create(header("m2"))
    begun.append("m1", INTENT)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE records SET data = '['")
    corrupt, taken = sorted(begun.take_over("me", lambda _holder: True), key=lambda one: str(type(one)))
    assert isinstance(corrupt, JournalCorrupt)
    assert isinstance(taken, Taken)
    assert taken.lease.migration == "m2"
    assert begun.acquire("m1", "somebody", lambda _holder: False).token == 1, "its lease was left alone"


def test_words_that_are_no_text_keep_no_record_from_being_written(journal: SqlJournal) -> None:
    """A snapshot's name is whatever bytes an image holds, and errors quote it."""
    for migration in ("m1", "m2"):
        journal.create(header(migration))
    broken = evolve(INTENT, error="snapshots were taken: caf\udcc3")
    journal.append_all([Entry("m1", INTENT), Entry("m2", broken)])
    assert [len(journal.records(migration)) for migration in ("m1", "m2")] == [1, 1]
    assert journal.records("m2")[0].error == "snapshots were taken: caf\\udcc3"
