"""A migration that an earlier revision began, which kept its journal by SQLAlchemy, is taken over and ended.

``former-journal.sql`` is that journal as its engine has left it, killed behind the switch-over; the names of
its machine and of the process, and the time, have been changed. All other names were made of ``ab``.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from pathlib import Path

import pytest

from fsm.engine.engine import Engine
from fsm.journal.records import Phase, Step
from fsm.journal.sql import SqlJournal, open_journal
from fsm.machine.loader import load_default
from fsm.machine.replay import Replay
from tests.machine_helpers import TESTS
from tests.simulation import Simulation, check_end, simulate

FORMER = (TESTS / "testdata" / "former-journal.sql").read_text("utf-8")
MIGRATION = "ab" * 6


@pytest.fixture
def former(tmp_path: Path) -> SqlJournal:
    path = tmp_path / "journal.db"
    file = sqlite3.connect(path)
    file.executescript(FORMER)
    file.close()
    return open_journal(path)


async def as_it_was_left(monkeypatch: pytest.MonkeyPatch) -> Simulation:
    """The hosts where that engine was killed: today's one does the same up to there."""
    monkeypatch.setattr(secrets, "token_hex", lambda count: "ab" * count)
    simulation = await simulate()
    struck = asyncio.Event()
    handle = await simulation.start()

    def strike() -> None:
        struck.set()
        asyncio.get_running_loop().call_soon(handle._task.cancel)

    simulation.world.at("start_commit", strike)
    await asyncio.wait((handle._task,))
    assert struck.is_set()
    return simulation


def test_it_is_read(former: SqlJournal) -> None:
    (header,) = former.headers(unfinished=True)
    assert (header.migration, header.domain, header.state) == (MIGRATION, "web", "committing-dest")
    records = former.records(MIGRATION)
    assert [record.sequence for record in records] == [*range(1, len(records) + 1)]
    assert (records[-1].step, records[-1].phase) == (Step.ACTIVITY, Phase.INTENT)
    replay = Replay(load_default())
    for event in former.events(MIGRATION):
        replay.take(event)
    assert (replay.migrations, replay.missing) == (1, 0)


@pytest.mark.parametrize("asked", ["", "retry", "abort"])
async def test_it_is_taken_over_and_ended(
    asked: str, former: SqlJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = await as_it_was_left(monkeypatch)
    async with Engine(former, simulation.world, clock=simulation.world.clock) as engine:
        if asked:
            await engine.ask(MIGRATION, asked)
        (handle,), left = await engine.resume_all()
        result = await handle.wait()
    assert (left, result.migration, result.state) == ([], MIGRATION, "committed")
    await check_end(simulation, result)
