"""The log's events of simulated migrations, and golden logs."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.hypervisor.simulated import Moment
from fsm.machine.replay import Replay
from tests.machine_helpers import TESTS
from tests.simulation import DESTINATION, SOURCE, Simulation, simulate

GOLDEN = TESTS / "testdata" / "logs"


@contextmanager
def logged() -> Iterator[list[dict[str, Any]]]:
    """The events logged inside, as they come back from the JSON that the command writes."""
    lines: list[dict[str, Any]] = []

    def keep(_logger: object, _name: str, event: structlog.typing.EventDict) -> str:
        lines.append(json.loads(json.dumps(event, default=str)))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        yield lines
    finally:
        structlog.configure(**before)


def transitions_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The transition events alone."""
    return [line for line in lines if re.fullmatch(r"\w+-(intent|outcome)", line["event"])]


def text_of(lines: list[dict[str, Any]]) -> bytes:
    """The lines as a log file has them."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


# Golden logs: each is the log of one migration, by the name of what happened in it


async def _committed(simulation: Simulation) -> str:
    return (await simulation.migrate()).state


async def _rolled_back(simulation: Simulation) -> str:
    simulation.world.fail("migrate", host=SOURCE)
    return (await simulation.migrate()).state


async def _refused(simulation: Simulation) -> str:
    return (await simulation.migrate(exclude_disks=("vdx",))).state


async def _aborted(simulation: Simulation) -> str:
    handle = await simulation.start()
    simulation.world.at_moment(simulation.uuid, Moment.MEMORY, handle.abort)
    return (await handle.wait()).state


async def _stuck_and_retried(simulation: Simulation) -> str:
    world = simulation.world
    world.at("migrate", lambda: world.power_off(DESTINATION))
    stuck = await simulation.migrate()
    assert stuck.state == "stuck"
    world.faults.clear()
    world.power_on(DESTINATION)
    await simulation.engine.ask(stuck.migration, "retry")
    return (await (await simulation.engine.resume(stuck.migration)).wait()).state


async def _commit_failed_twice(simulation: Simulation) -> str:
    simulation.world.fail("start_commit", host=DESTINATION, times=2)
    return (await simulation.migrate()).state


async def _taken_over(simulation: Simulation) -> str:
    handle: Handle | None = None

    def die() -> None:
        assert handle is not None
        handle._task.cancel()

    simulation.world.at("start_commit", lambda: asyncio.get_running_loop().call_soon(die))
    handle = await simulation.start()
    await asyncio.wait((handle._task,))
    other = Engine(simulation.journal, simulation.world, clock=simulation.world.clock)
    return (await (await other.resume(handle.migration)).wait()).state


SCENARIOS: dict[str, tuple[str, Callable[[Simulation], Awaitable[str]]]] = {
    "committed": ("committed", _committed),
    "rolled-back": ("rolled-back", _rolled_back),
    "refused": ("refused", _refused),
    "aborted": ("rolled-back", _aborted),
    "stuck-and-retried": ("rolled-back", _stuck_and_retried),
    "commit-failed-twice": ("committed", _commit_failed_twice),
    "taken-over": ("committed", _taken_over),
}


def golden(name: str) -> Path:
    """A stored log; ``UPDATE_GOLDEN=1 pytest tests`` stores what the engine logs today."""
    path = GOLDEN / f"{name}.jsonl"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(asyncio.run(_record(name)))
    return path


async def _record(name: str) -> bytes:
    end, run = SCENARIOS[name]
    simulation = await simulate()
    with logged() as lines:
        assert await run(simulation) == end
    stamped = [{"level": "info", "timestamp": line.get("at", ""), **line} for line in lines]
    text = text_of(stamped)
    # Names made at random would change with each renewal.
    (migration,) = {line["migration"] for line in lines}
    text = text.replace(migration.encode(), name.encode())
    engines = dict.fromkeys(line["engine"] for line in lines if "engine" in line)
    for number, engine in enumerate(engines, start=1):
        text = text.replace(engine.encode(), f"engine-{number}".encode())
    return text


def states_of(replay: Replay, events: list[Any]) -> list[str]:
    """The states that a log leads through, all records replayed."""
    states = [events[0].state]
    for event in events:
        replay.take(event)
        if event.event == "transition-outcome" and not event.error:
            states.append(event.dest)
    return states
