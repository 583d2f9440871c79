"""The log's transition events: their documented schema, what joins them, and that they keep secrets."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from attrs import evolve
from jsonschema import Draft202012Validator

from fsm.engine.engine import Engine
from fsm.engine.events import EventMaker, public
from fsm.engine.handle import Handle
from fsm.engine.plan import Request
from fsm.errors import HostError
from fsm.hypervisor.uris import safe_text
from fsm.hypervisor.values import SnapshotMetadata
from fsm.journal import events
from fsm.journal.records import Lease, Phase, Record, Step
from tests.log_helpers import logged, transitions_of
from tests.machine_helpers import TESTS
from tests.simulation import SOURCE, simulate

SECRET = "hunter2"  # noqa: S105
SCHEMA = json.loads((TESTS.parent / "docs" / "event.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(events.json_schema())) == SCHEMA


@pytest.mark.parametrize("failing", [None, "migrate", "create_overlays", "snapshots"])
async def test_every_event_follows_the_schema_and_agrees_with_its_record(failing: str | None) -> None:
    simulation = await simulate()
    if failing:
        simulation.world.fail(failing, host=SOURCE)
    with logged() as lines:
        result = await simulation.migrate(correlation="req-7")
    logs = transitions_of(lines)
    records = simulation.journal.records(result.migration)
    assert len(logs) == len(records) > 3
    begun: dict[tuple[str, str], int] = {}
    for line, record in zip(logs, records, strict=True):
        VALIDATOR.validate(line)
        event = msgspec.json.decode(json.dumps(line), type=events.Event)
        assert event.observation == record.observation
        assert (event.sequence, event.at, event.name) == (record.sequence, record.at, record.name)
        assert (event.migration, event.correlation, event.domain) == (result.migration, "req-7", "web")
        assert event.engine
        assert event.lease == 1
        if record.phase is Phase.INTENT:
            begun[record.step, record.name] = record.sequence
            assert event.observation is not None
        elif record.step is not Step.ACTION:
            assert event.intent == begun[record.step, record.name]


async def test_a_takeover_shows_in_the_lease_and_leaves_no_gap() -> None:
    simulation = await simulate()
    handle: Handle | None = None

    def leave() -> None:
        assert handle is not None
        handle._task.cancel()

    simulation.world.at("make_durable", lambda: asyncio.get_running_loop().call_soon(leave))
    with logged() as lines:
        handle = await simulation.start()
        await asyncio.wait((handle._task,))
        other = Engine(simulation.journal, simulation.world, clock=simulation.world.clock)
        await (await other.resume(handle.migration)).wait()
    logs = transitions_of(lines)
    assert [line["sequence"] for line in logs] == list(range(1, len(logs) + 1))
    assert sorted({line["lease"] for line in logs}) == [1, 2]
    assert len({line["engine"] for line in logs}) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"event": "transition-begun"},
        {"sequence": 0},
        {"sequence": True},
        {"sequence": "3"},
        {"at": 5},
        {"observation": {"source": {}}},
        {"observation": {"source": {"reachable": "false"}, "destination": {"reachable": True}}},
        {"migration": None},
    ],
    ids=str,
)
async def test_what_is_no_event_is_refused_by_schema_and_reader(change: dict[str, Any]) -> None:
    simulation = await simulate()
    with logged() as lines:
        await simulation.migrate()
    line = {**transitions_of(lines)[0], **change}
    assert list(VALIDATOR.iter_errors(line))
    with pytest.raises(msgspec.DecodeError):
        events.decode(json.dumps(line).encode())


# Secrets


async def test_no_secret_of_uris_and_xml_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a migration that goes well, nor in one that loses sight of a host, nor in errors."""
    uri = f"sim://admin:{SECRET}@beta/system"
    simulation = await simulate(destination=uri)
    world = simulation.world
    kind = type(await world.connect(SOURCE))
    read = kind.snapshots

    async def snapshots(self: Any, uuid: str) -> tuple[SnapshotMetadata, ...]:
        found = await read(self, uuid)
        graphics = (
            f"<domain><devices><graphics type='vnc' passwd='{SECRET}'/></devices></domain></domainsnapshot>"
        )
        return tuple(evolve(one, xml=one.xml.replace("</domainsnapshot>", graphics)) for one in found)

    monkeypatch.setattr(kind, "snapshots", snapshots)
    request = {"destination_uri": uri}
    quoted = f"can't connect to {uri}: <graphics type='vnc' passwd='{SECRET}'/>"
    with logged() as lines:
        await simulation.migrate(**{**request, "domain": "nobody"})
        world.fail("make_durable", host=uri, error=HostError(quoted, host=uri), times=9)
        assert (await simulation.migrate(**request)).state == "rolled-back"
        world.faults.clear()
        world.at("migrate", lambda: world.power_off(uri))
        lost = await simulation.migrate(**request)
        assert lost.state == "stuck", lost
    text = json.dumps(lines)
    assert "can't connect to sim://admin@beta/system" in text, "the test shows nothing"
    assert "admin@beta/system can't be reached" in text, "the test shows nothing"
    assert "<domain" not in text
    assert SECRET not in text
    assert SECRET not in f"{lost.cause} {lost.remedy} {lost.findings}"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("qemu+tcp://u:p@h/system", "qemu+tcp://u@h/system"),
        (
            "to 'qemu+ssh://u:p@w@h:22/system?x=1' and ssh://a:b@c/",
            "to 'qemu+ssh://u@h:22/system?x=1' and ssh://a@c/",
        ),
        ("qemu+tcp://u@h/system", "qemu+tcp://u@h/system"),
        ("qemu:///system at 10:00, mail a:b@c", "qemu:///system at 10:00, mail a:b@c"),
        ("<graphics passwd='it' port='1'/>", "<graphics passwd=*** port='1'/>"),
        ('<graphics passwd="i t"/>', "<graphics passwd=***/>"),
        ("?password=abc&x=1", "?password=***&x=1"),
    ],
)
def test_texts_lose_their_passwords(text: str, safe: str) -> None:
    assert safe_text(text) == safe


def test_data_that_nobody_has_declared_public_is_not_logged() -> None:
    data = {
        "plan": {"a": 1},
        "bases": "<xml/>",
        "new-key": SECRET,
        "cause": "x",
        "findings": [{"message": "m"}],
    }
    assert public(data) == {"cause": "x", "findings": [{"message": "m"}]}
    record = Record(Step.ACTIVITY, Phase.OUTCOME, "a", "planned", data=data, sequence=4, at=datetime.now(UTC))
    maker = EventMaker("m", Request("web", "sim://b/"), Lease("m", "h", 1))
    assert maker.of(record)["data"] == public(data)
