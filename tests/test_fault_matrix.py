"""Every state with every fault, on simulated hosts: an engine killed at each point that it comes to, and
everything that can strike the hosts, the network, the journal or the guest. The engine is killed at every
point each time; what strikes from outside does so before one act in three, another third with each fault, and
before every act where ``FSM_EVERY_STRIKE`` is set, as ``./dev faults`` does.

After the accident the operator comes (``mended``), and another engine takes over; there is no double
instance at any moment, and the end is as ``check_end`` demands.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import cache

import pytest
from attrs import frozen

from fsm.engine.result import Result
from fsm.journal.records import Record
from fsm.machine.conditions import CONDITIONS
from fsm.machine.loader import load_default
from fsm.machine.spec import Row
from fsm.machine.vocabulary import ACTIONS, ACTIVITIES
from tests.accidents import FAULTS, Happening
from tests.lives import CALLED, CALLING, FAILPOINTS, Life, Point
from tests.mending import mended
from tests.scenarios import SCENARIOS
from tests.simulation import check_end, simulate, without_threads

SPEC = load_default()
LIVES = 8
LIVE = [name for name in SPEC.states if not SPEC.is_final(name)]
# A scenario that comes through the state with nothing else going on there.
THROUGH = {
    "planned": ("plain", "shut-off"),
    "snapshotted": ("plain", "merged-by-mirror", "shut-off"),
    "transferring": ("plain", "merged-by-mirror", "shut-off"),
    "committing-dest": ("plain", "merged-by-mirror", "shut-off"),
    "rolling-back-source": ("destination-qemu-killed", "destination-qemu-killed-while-merging-by-mirror"),
    "stuck": ("source-can-not-commit",),
}


@pytest.fixture(autouse=True)
def _inline() -> Iterator[None]:
    all_points()  # once, and outside of any test's event loop
    with without_threads():
        yield


@frozen
class Story:
    """How a migration came to its end: every point of every engine, the result and the records."""

    points: tuple[Point, ...]
    result: Result
    records: tuple[Record, ...]


async def live(name: str, strike: Happening | None = None, at: int = -1) -> Story:
    """A scenario through one engine after another; ``strike`` happens at the point of that number."""
    simulation = await simulate(state=SCENARIOS[name].state)
    points: list[Point] = []

    def hook(life: Life, point: Point) -> None:
        points.append(point)
        if strike is not None and len(points) == at + 1:
            strike(simulation, life)

    life = Life(simulation, hook)
    SCENARIOS[name].arrange(simulation, life)
    result = await life.run(None, **SCENARIOS[name].request)
    (header,) = simulation.journal.headers()
    for _ in range(LIVES):
        if result is not None and SPEC.is_final(result.state):
            break
        mended(simulation)
        simulation.journal.ask(header.migration, "retry", {})
        result = await Life(simulation, hook).run(header.migration)
    assert result is not None
    assert SPEC.is_final(result.state), result
    mended(simulation)
    await check_end(simulation, result)
    records = tuple(simulation.journal.records(header.migration))
    simulation.put_away()
    return Story(tuple(points), result, records)


@cache
def undisturbed(name: str) -> Story:
    """A scenario in which nothing strikes besides."""
    with without_threads():
        return asyncio.run(live(name))


def points_of(name: str) -> dict[Point, int]:
    """The points of a scenario, each with the number at which it is come to first."""
    found: dict[Point, int] = {}
    for number, point in enumerate(undisturbed(name).points):
        found.setdefault(point, number)
    return found


@cache
def all_points() -> dict[tuple[object, Point], tuple[str, int]]:
    """Every point that an engine comes to, on every way to it: the first scenario that does, and when."""
    found: dict[tuple[object, Point], tuple[str, int]] = {}
    for name, scenario in SCENARIOS.items():
        for point, number in points_of(name).items():
            way = scenario.request.get("merge"), scenario.request.get("disk_map"), scenario.state
            found.setdefault((way, point), (name, number))
    return found


KILL: Happening = lambda _simulation, life: life.kill()  # noqa: E731
KILLS = [(state, moment) for state in LIVE for moment in (*FAILPOINTS, CALLING, CALLED)]
STRIKES = [(state, fault) for state in LIVE for fault in FAULTS]
APART = 1 if os.environ.get("FSM_EVERY_STRIKE") else 3


def test_the_scenarios_go_through_the_whole_machine() -> None:
    records = [record for name in SCENARIOS for record in undisturbed(name).records]
    done = {record.name for record in records if record.step == "action"}
    begun = {record.name for record in records if record.step == "activity"}
    # What somebody puts into an overlay, and what is done about it, is tested with the alterations.
    assert done >= set(ACTIONS) - {"cancel-source-commits", "cancel-destination-commits"}
    assert begun == set(ACTIVITIES) - {"rescue-snapshots"}
    intents = [record for record in records if record.step == "transition" and record.phase == "intent"]
    # What was adopted begins elsewhere: see the tests of adoption.
    wanted = {row for row in SPEC.rows if row.trigger not in ("adopt", "find-alteration")}
    assert {row for row in SPEC.rows if any(_takes(row, one) for one in intents)} == wanted


def _takes(row: Row, intent: Record) -> bool:
    way = (row.trigger, row.source, row.dest) == (intent.name, intent.state, intent.dest)
    seen = intent.observation
    return way and seen is not None and all(CONDITIONS[name].holds(seen) for name in row.conditions)


@pytest.mark.parametrize(("state", "moment"), KILLS)
async def test_engine_killed(state: str, moment: str) -> None:
    """At every record and at every call, on every way that the scenarios come to it."""
    for (_, point), (name, number) in all_points().items():
        if (point.state, point.moment) == (state, moment):
            await live(name, KILL, number)


@pytest.mark.parametrize(("state", "fault"), STRIKES)
async def test_struck(state: str, fault: str) -> None:
    """Before acts in the state: the faults that strike hosts come before each of them, between them."""
    for scenario, name in enumerate(THROUGH[state]):
        wanted = places(name, state, fault)
        assert wanted
        first = (list(FAULTS).index(fault) + scenario) % min(APART, len(wanted))
        for number in wanted[first::APART]:
            await live(name, FAULTS[fault], number)


def places(name: str, state: str, fault: str) -> list[int]:
    """Where a fault makes a difference: before each record for the journal, else before each call."""
    here = {point: number for point, number in points_of(name).items() if point.state == state}
    if fault == "journal's disk full":
        return [number for point, number in here.items() if point.moment in FAILPOINTS]
    calls = [number for point, number in here.items() if point.moment == CALLING]
    begun = [number for point, number in here.items() if point.moment == "after-intent"]
    return calls + begun
