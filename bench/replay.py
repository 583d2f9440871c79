"""How fast a log is replayed: ``python -m bench.replay``. One process, one core, no hosts."""

from __future__ import annotations

import asyncio
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import structlog

from fsm.engine.engine import Engine
from fsm.engine.plan import Request
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.journal.logfile import LogReader
from fsm.journal.sql import open_journal
from fsm.machine.loader import load_default
from fsm.machine.replay import TRANSITION_INTENT, Replay

SOURCE, DESTINATION = "sim://alpha/system", "sim://beta/system"
# What each logged migration is a copy of: one that goes well, one that rolls back, one on two disks.
FAULTS: tuple[str | None, ...] = (None, "migrate", None)


async def _log_one(directory: Path, failing: str | None) -> list[bytes]:
    """The log of one simulated migration, as the command writes it."""
    lines: list[bytes] = []

    def keep(_logger: object, _name: str, event: structlog.typing.EventDict) -> str:
        lines.append(
            json.dumps({"level": "info", "timestamp": "2024-02-29T12:00:00Z", **event}).encode() + b"\n"
        )
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    world = SimulatedWorld()
    world.add_host(SOURCE)
    world.add_host(DESTINATION)
    world.add_domain(SOURCE, "web", disks=("vda", "vdb"), snapshots={"s1": None, "s2": "s1"})
    if failing:
        world.fail(failing, host=SOURCE)
    async with Engine(open_journal(directory / "journal.db"), world, clock=world.clock) as engine:
        await engine.migrate(Request("web", DESTINATION, SOURCE))
    return lines


def _transitions_alone(lines: list[bytes]) -> list[bytes]:
    """The same migration as if it had no actions and activities: two records for each transition."""
    events = [json.loads(line) for line in lines]
    kept = [event for event in events if event["event"].startswith("transition-")]
    return [json.dumps({**event, "sequence": n}).encode() + b"\n" for n, event in enumerate(kept, start=1)]


def _write(path: Path, templates: list[list[bytes]], migrations: int) -> None:
    """A log of so many migrations, of which always some are under way at once."""
    with path.open("wb") as file:
        for first in range(0, migrations, len(templates)):
            batch = []
            for offset, lines in enumerate(templates[: migrations - first]):
                old = json.loads(lines[0])["migration"].encode()
                new = f"{first + offset:012x}".encode()
                batch.append([line.replace(old, new) for line in lines])
            for index in range(max(map(len, batch))):
                file.writelines(lines[index] for lines in batch if index < len(lines))


def _replay(path: Path) -> dict[str, Any]:
    replay, records, decisions, transitions = Replay(load_default()), 0, 0, 0
    began_s = time.process_time()
    for event in LogReader([path]):
        records += 1
        if replay.take(event) is not None:
            decisions += 1
            transitions += event.event == TRANSITION_INTENT
    seconds = time.process_time() - began_s
    return {
        "size_mib": path.stat().st_size >> 20,
        "records": records,
        "decisions": decisions,
        "transitions": transitions,
        "cpu_s": round(seconds, 2),
        "records_per_s": round(records / seconds),
        "decisions_per_s": round(decisions / seconds),
        "transitions_per_s": round(transitions / seconds),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


@click.command()
@click.option("--migrations", type=click.IntRange(1), default=100_000, show_default=True)
def main(migrations: int) -> None:
    """Write a log of simulated migrations, and replay a tenth of it, all of it, and its transitions alone."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        templates = []
        for number, failing in enumerate(FAULTS):
            place = directory / str(number)
            place.mkdir()
            templates.append(asyncio.run(_log_one(place, failing)))
        log = directory / "log.jsonl"
        alone = [_transitions_alone(lines) for lines in templates]
        for what, kept, count in (
            ("whole log, a tenth", templates, max(migrations // 10, 1)),
            ("whole log", templates, migrations),
            ("transitions alone", alone, migrations),
        ):
            _write(log, kept, count)
            click.echo(json.dumps({"what": what, "migrations": count, **_replay(log)}))


if __name__ == "__main__":
    main()
