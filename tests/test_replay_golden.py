"""Logs of past migrations, which today's machine must decide as it did then.

After a change of the machine that is meant to decide otherwise: UPDATE_GOLDEN=1 .venv/bin/pytest tests
"""

from __future__ import annotations

import json

import pytest

from fsm.journal.logfile import LogReader
from fsm.machine.loader import load_default
from fsm.machine.replay import Replay
from tests.log_helpers import GOLDEN, SCENARIOS, golden, states_of

START = ["planned", "snapshotted", "transferring"]
PATHS = {
    "committed": [*START, "committing-dest", "committed"],
    "rolled-back": [*START, "rolling-back-source", "rolled-back"],
    "refused": ["planned", "refused"],
    "aborted": [*START, "rolling-back-source", "rolled-back"],
    "stuck-and-retried": [*START, "stuck", "rolling-back-source", "rolled-back"],
    "commit-failed-twice": [*START, "committing-dest", "committed"],
    "taken-over": [*START, "committing-dest", "committed"],
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_todays_machine_decides_as_then(name: str) -> None:
    events = list(LogReader([golden(name)]))
    replay = Replay(load_default())
    assert states_of(replay, events) == PATHS[name]
    assert (replay.migrations, replay.diverging, replay.missing) == (1, 0, 0)


def test_the_logs_hold_what_their_names_promise() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(SCENARIOS)
    lines = {
        name: [json.loads(line) for line in golden(name).read_text("utf-8").splitlines()]
        for name in SCENARIOS
    }
    failed = [line for line in lines["commit-failed-twice"] if line.get("error")]
    assert len(failed) == 2
    assert {line["lease"] for line in lines["taken-over"] if "lease" in line} == {1, 2}
    assert [line["name"] for line in lines["aborted"] if line["event"] == "request-outcome"] == ["abort"]
