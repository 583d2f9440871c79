"""A journal is lost at any point of a migration: the domain's marker and both hosts suffice to finish it."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve, field, frozen

from fsm.engine.cases import Kind
from fsm.engine.engine import Engine
from fsm.engine.plan import Side
from fsm.engine.result import Result
from fsm.hypervisor.simulated import Moment, SimulatedDisk, files
from fsm.hypervisor.values import Marker
from fsm.journal.records import Record
from fsm.machine.observation import DomainState, Job, Merge
from tests.lost_journals import (
    AFTER_START,
    HOSTS,
    Lost,
    adopt,
    adopted,
    changes_of,
    check_adopted,
    die_after,
    kill_destination,
    lose_journal,
    lost,
    mark,
    settle,
    waiting,
)
from tests.simulation import (
    DESTINATION,
    ON_SHARED,
    ON_TEMPLATE,
    PLACED,
    RENAMED,
    SHARED,
    SOURCE,
    TEMPLATE,
    Simulation,
    check_end,
    fresh_journal,
    in_loop,
    simulate,
)

__all__ = ["lost"]  # a fixture


@frozen
class Course:
    """A way that a migration goes."""

    merge: Merge
    harm: bool = False
    disks: tuple[SimulatedDisk | str, ...] = ("vda", "vdb")
    state: DomainState = DomainState.RUNNING
    also: dict[str, object] = field(factory=dict)

    def begin(self, simulation: Simulation) -> None:
        """Prepare what will happen."""
        if self.harm:
            kill_destination(simulation)

    async def records(self) -> int:
        """How many records it writes when nobody dies."""
        simulation = await simulate(self.disks, state=self.state)
        self.begin(simulation)
        result = await simulation.migrate(merge=self.merge, **self.also)
        return len(simulation.journal.records(result.migration))


ELSEWHERE: dict[str, object] = {"disk_map": PLACED, "destination_name": RENAMED}
COURSES = {
    "commit": Course(Merge.COMMIT),
    "rollback": Course(Merge.COMMIT, harm=True),
    "mirror": Course(Merge.MIRROR),
    "template": Course(Merge.COMMIT, disks=ON_TEMPLATE, harm=True),
    "elsewhere": Course(Merge.COMMIT, also={"overlay_directory": SHARED}),
    "shared": Course(Merge.COMMIT, disks=ON_SHARED),
    "shut-off": Course(Merge.COMMIT, state=DomainState.SHUT_OFF),
    "placed": Course(Merge.COMMIT, also=ELSEWHERE),
    "placed-rollback": Course(Merge.COMMIT, harm=True, also=ELSEWHERE),
    "placed-shut-off": Course(Merge.COMMIT, state=DomainState.SHUT_OFF, also=ELSEWHERE),
}
POINTS = [
    pytest.param(course, count, id=f"{name}-{count}")
    for name, course in COURSES.items()
    for count in range(1, asyncio.run(course.records()) + 1)
]


async def _marker_at(simulation: Simulation, uri: str) -> Marker | None:
    facts = await (await simulation.world.connect(uri)).domain(simulation.uuid)
    return facts.marker if facts else None


def _remove_what_is_named(simulation: Simulation, result: Result) -> None:
    """Only a marker has told where these copies are: its word is not enough to remove a file."""
    for left in result.left_behind:
        path = left.partition(": ")[2].partition(",")[0]
        assert path in simulation.moved.values()
        with simulation.world.changing() as state:
            files.remove(state, state.hosts[DESTINATION], path)


def _kept_template(simulation: Simulation, result: Result) -> list[str]:
    """A marker's word does not suffice to remove a template: others may stand on it."""
    back = result.state == "rolled-back"
    return [path for path in simulation.world.files(DESTINATION) if back and path == TEMPLATE]


@pytest.mark.parametrize(("course", "count"), POINTS)
async def test_a_journal_lost_after_any_record_loses_nothing(course: Course, count: int) -> None:
    simulation = await simulate(course.disks, state=course.state)
    course.begin(simulation)
    await die_after(simulation, count, course.merge, **course.also)
    await settle(simulation)
    engine = await lose_journal(simulation)
    marked = [await _marker_at(simulation, uri) for uri in HOSTS] != [None, None]
    result = await adopt(engine)
    assert (result is not None) == marked
    if result is not None:
        runs = [SOURCE] if course.state is DomainState.RUNNING else []
        assert result.state == "committed" or simulation.world.running_at(simulation.uuid) == runs
        kept = _kept_template(simulation, result)
        simulation.before.files[DESTINATION] += kept
        if course.also:
            _remove_what_is_named(simulation, result)
        else:
            assert list(result.left_behind) == [
                f"{DESTINATION}: {path}, which may be a copy of this migration or not" for path in kept
            ]
    await check_adopted(simulation, result)
    # Nothing is left that would have to be explained.
    assert waiting(await engine.examine(HOSTS)) == []


@pytest.mark.parametrize("count", range(1, 32, 3))
async def test_the_adopting_engine_may_die_as_well(count: int) -> None:
    """Also with its journal: whoever comes next adopts again."""
    simulation = await simulate()
    await die_after(simulation, count)
    await settle(simulation)
    for records in (2, 4, 8):
        engine = await lose_journal(simulation)
        examined = await engine.examine(HOSTS)
        if not waiting(examined):
            break
        died = asyncio.Event()

        def on_record(record: Record, died: asyncio.Event = died, records: int = records) -> None:
            if record.sequence >= records:
                died.set()

        handle = await engine.adopt(waiting(examined)[0], examined, on_record=on_record)
        ended = asyncio.ensure_future(handle.wait())
        await asyncio.wait((asyncio.ensure_future(died.wait()), ended), return_when=asyncio.FIRST_COMPLETED)
        await handle.detach()
        await settle(simulation)
    await check_adopted(simulation, await adopt(await lose_journal(simulation)))


async def test_an_adopted_migration_is_one_like_any_other() -> None:
    """It is in the journal, another engine resumes it, and its domain is claimed."""
    simulation = await simulate()
    migration = await die_after(simulation, AFTER_START)
    engine = await lose_journal(simulation)
    examined = await engine.examine(HOSTS)
    handle = await engine.adopt(waiting(examined)[0], examined)
    await handle.detach()
    (header,) = engine.migrations(unfinished=True)
    assert (header.migration, header.domain, header.domain_uuid) == (migration, "web", simulation.uuid)
    assert (header.source_uri, header.destination_uri) == HOSTS
    (case,) = waiting(await engine.examine(HOSTS))
    assert case.kind is Kind.UNFINISHED
    assert case.remedy == f"fsm resume {migration}"
    other = Engine(simulation.journal, simulation.world, clock=simulation.world.clock, deliver=in_loop)
    result = await (await other.resume(migration)).wait()
    assert result.state == "rolled-back"
    await check_adopted(simulation, result)
    assert [host.cases for host in await other.examine(HOSTS)] == [(), ()]


async def test_nothing_is_adopted_while_something_goes_on() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    died = asyncio.Event()
    world.at_moment(uuid, Moment.MEMORY, died.set)
    handle = await simulation.start(bandwidth_mib_per_s=1)
    await died.wait()
    await handle.detach()
    lost = Lost(simulation, handle.migration, await lose_journal(simulation))
    facts = await (await world.connect(SOURCE)).domain(uuid)
    assert facts is not None
    assert facts.job is Job.MIGRATION_OUT
    assert "a job of it runs" in await lost.refused()
    await settle(simulation)
    result = await adopted(lost.engine)
    assert result.state == "committed"
    await check_adopted(simulation, result)


async def test_a_domain_that_changes_while_it_is_looked_at_is_left_alone(lost: Lost) -> None:
    world, uuid = lost.simulation.world, lost.simulation.uuid
    world.at("domain", lambda: world.pause(SOURCE, uuid), host=SOURCE, nth=3)
    assert "something goes on" in await lost.refused()


async def test_an_engine_that_comes_back_after_the_adoption_touches_nothing() -> None:
    """It was stopped, not dead, and its journal is the one that was thought to be lost."""
    simulation = await simulate()
    migration = await die_after(simulation, AFTER_START)
    old_journal, old_engine = simulation.journal, simulation.engine
    simulation.journal = fresh_journal()
    await mark(simulation, journal="another-machine:/journal.db")
    engine = Engine(simulation.journal, simulation.world, clock=simulation.world.clock, deliver=in_loop)
    # The destination's file system is full, so the adopted migration waits on the overlay.
    simulation.world.fail("start_commit", times=None)
    result = await adopted(engine)
    assert result.state == "stuck"
    changes = changes_of(simulation)
    woken = await (await old_engine.resume(migration)).wait()
    assert woken.state == "stuck"
    assert "marker" in woken.cause
    assert changes_of(simulation) == changes
    simulation.world.faults.clear()
    await engine.ask(migration, "retry")
    result = await (await engine.resume(migration)).wait()
    await check_adopted(simulation, result)
    old_journal.close()


async def test_the_destination_is_gone_with_the_journal() -> None:
    """The operator's word that it is off lets the source be made whole; without it nothing is done."""
    simulation = await simulate()
    migration = await die_after(simulation, AFTER_START)
    simulation.world.power_off(DESTINATION)
    engine = await lose_journal(simulation)
    result = await adopted(engine)
    assert result.state == "stuck"
    assert "--fenced destination" in result.remedy
    await engine.ask(migration, "retry", [Side.DESTINATION])
    result = await (await engine.resume(migration)).wait()
    assert result.state == "rolled-back"
    assert any(DESTINATION in left for left in result.left_behind)
    assert simulation.world.lost_writes(simulation.uuid, at=SOURCE) == []


async def test_a_guest_that_was_started_only_to_be_committed_is_shut_off_again() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.power_off_guest(uuid))
    died = asyncio.Event()

    def die() -> None:
        # An engine that is killed cleans nothing up.
        world.fail("destroy", times=None, error=asyncio.CancelledError())
        died.set()

    world.at("start_commit", die)
    handle = await simulation.start()
    await died.wait()
    await handle.detach()
    world.faults.clear()
    await settle(simulation)
    assert world.active_at(uuid) == [SOURCE]
    result = await adopted(await lose_journal(simulation))
    assert result.state == "rolled-back"
    assert world.active_at(uuid) == []
    await check_end(simulation, result)


async def test_a_password_that_the_marker_does_not_hold_is_replaced() -> None:
    """The domain has moved, and the source has forgotten its snapshots: nobody has the password any more."""
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    source = await world.connect(SOURCE)
    graphics = "<graphics type='vnc' passwd='geheim'/></devices>"
    saved = await source.snapshots(uuid)
    with_display = [evolve(one, xml=one.xml.replace("</devices>", graphics)) for one in saved[:1]]
    await source.define_snapshots(uuid, [*with_display, *saved[1:]])
    result = await _adopt_after_migrating(simulation)
    assert result.state == "committed"
    after = await (await world.connect(DESTINATION)).snapshots(uuid)
    display = after[0].xml.partition("passwd=")[2]
    assert display
    assert "geheim" not in display
    assert after[1:] == tuple(saved[1:])


async def _adopt_after_migrating(simulation: Simulation) -> Result:
    died = asyncio.Event()
    simulation.world.at("start_commit", died.set)
    handle = await simulation.start()
    await died.wait()
    await handle.detach()
    await settle(simulation)
    return await adopted(await lose_journal(simulation))
