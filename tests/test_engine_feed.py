"""What a migration's listeners hear: every record once and in order, however late and slow they are."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from fsm.engine import feed as feeds
from fsm.engine.context import Progress
from fsm.engine.feed import Feed, Mailbox
from fsm.journal.port import Journal, JournalUnavailable
from fsm.journal.records import Record
from tests.simulation import Simulation, simulate


def heard(mailbox: Mailbox) -> list[int | str]:
    """All that waits: numbers of records, phases of progress."""
    events = []
    while (event := mailbox.next()) is not None:
        events.append(event.sequence if isinstance(event, Record) else f"{event.phase} {event.done_bytes}")
    return events


async def recorded() -> tuple[Simulation, list[Record]]:
    """A migration that has ended, with its records."""
    simulation = await simulate()
    result = await simulation.migrate()
    return simulation, list(simulation.journal.records(result.migration))


def feed_of(simulation: Simulation, newest: int = 0) -> Feed:
    (header,) = simulation.journal.headers()
    return Feed(header.migration, simulation.journal, newest)


def progress(phase: str, done_bytes: int) -> Progress:
    return Progress("m", phase, done_bytes, 9)


async def test_progress_of_one_phase_is_told_by_the_newest_in_its_place() -> None:
    simulation, records = await recorded()
    feed = feed_of(simulation)
    mailbox = feed.listen(lambda: None)
    for event in (progress("copy", 1), progress("copy", 2), records[0], progress("copy", 3)):
        feed.tell(event)
    feed.tell(progress("memory", 1))
    feed.tell(progress("memory", 2))
    assert heard(mailbox) == ["copy 2", 1, "copy 3", "memory 2"]
    assert feed.progress == progress("memory", 2)


async def test_who_is_too_slow_has_records_read_back_and_loses_none() -> None:
    simulation, records = await recorded()
    feed = feed_of(simulation)
    with patch.object(feeds, "MOST_WAITING", 3):
        mailbox = feed.listen(lambda: None)
        for record in records:
            feed.tell(record)
            feed.tell(progress("copy", record.sequence))
        assert mailbox.missing
        assert len(mailbox._waiting) == 3
        found = heard(mailbox)
    assert [one for one in found if isinstance(one, int)] == [record.sequence for record in records]
    assert mailbox.empty
    feed.tell(progress("copy", 1))
    assert heard(mailbox) == ["copy 1"], "it has caught up"


async def test_who_comes_late_hears_everything_since_the_feed_began() -> None:
    simulation, records = await recorded()
    feed = feed_of(simulation, newest=4)
    for record in records[4:]:
        feed.tell(record)
    assert heard(feed.listen(lambda: None)) == [record.sequence for record in records[4:]]
    feed.end()
    assert [event.sequence for event in feed.follow() if isinstance(event, Record)] == [
        record.sequence for record in records[4:]
    ]
    assert [event async for event in feed.follow_along()] == records[4:]


async def test_the_feed_knows_only_what_was_told() -> None:
    """Records of another engine, which took over, are not this feed's."""
    simulation, records = await recorded()
    feed = feed_of(simulation)
    feed.tell(records[0])
    assert heard(feed.listen(lambda: None)) == [1]


async def test_who_stops_to_iterate_leaves_nothing_behind() -> None:
    simulation, records = await recorded()
    feed = feed_of(simulation)
    feed.tell(records[0])
    following = feed.follow()
    assert next(following) == records[0]
    following.close()
    assert feed._mailboxes == []


async def test_a_journal_that_can_not_be_read_back_is_told_to_who_iterates() -> None:
    simulation, records = await recorded()
    feed = feed_of(simulation)
    feed.tell(records[0])
    with (
        patch.object(type(simulation.journal), "records", side_effect=JournalUnavailable("gone")),
        pytest.raises(JournalUnavailable),
    ):
        next(feed.follow())
    journal: Journal = simulation.journal
    assert next(feed.follow()) == journal.records(feed.migration)[0]
