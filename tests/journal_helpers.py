"""What the tests of the journal share."""

from __future__ import annotations

from datetime import UTC, datetime

from attrs import evolve

from fsm.journal.records import Header, Phase, Record, Step
from fsm.machine.observation import Engine, Observation
from tests.machine_helpers import GONE, running

BORN = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
SEEN = Observation(running(), GONE, Engine(abort_requested=True))
INTENT = Record(Step.TRANSITION, Phase.INTENT, "start", "planned", "snapshotted", observation=SEEN)
OUTCOME = evolve(INTENT, phase=Phase.OUTCOME, observation=None)


def header(migration: str = "m1", minute: int = 0) -> Header:
    return Header(
        migration=migration,
        created=BORN.replace(minute=minute),
        domain="web 'ü' <1>",
        source_uri="qemu+tls://a/system",
        destination_uri="qemu+tls://b/system",
        state="planned",
        request={"domain": "web", "connections": 4, "nested": {"a": [1, None, True]}},
    )
