"""A journal is lost at any point of a migration: the domain's marker and both hosts suffice to finish it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from attrs import define, evolve, field, frozen

from fsm.engine.adoption import AdoptionRefused
from fsm.engine.cases import Case, Examined, Kind
from fsm.engine.engine import Engine
from fsm.engine.plan import Side
from fsm.engine.result import Result
from fsm.hypervisor.port import CHANGES
from fsm.hypervisor.simulated import Moment, SimulatedDisk, files
from fsm.hypervisor.values import Marker
from fsm.journal.records import Record
from fsm.journal.sql import SqlJournal
from fsm.machine.observation import DomainState, Job, Merge
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

HOSTS = (SOURCE, DESTINATION)


def _delete(journal: SqlJournal) -> None:
    Path(journal.location.partition(":")[2]).unlink()


async def _lose_journal(simulation: Simulation) -> Engine:
    """An engine that knows nothing; the journal from before is gone."""
    await simulation.engine.close()
    _delete(simulation.journal)
    simulation.journal = fresh_journal()
    world = simulation.world
    simulation.engine = Engine(simulation.journal, world, clock=world.clock, deliver=in_loop)
    return simulation.engine


def _kill_destination(simulation: Simulation) -> None:
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.kill_qemu(DESTINATION, uuid))


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
            _kill_destination(simulation)

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


async def _die_after(simulation: Simulation, count: int, merge: Merge = Merge.COMMIT, **also: object) -> str:
    """Drive until ``count`` records are written, then let go at once, as a killed process does."""
    died = asyncio.Event()

    def on_record(record: Record) -> None:
        simulation.write()
        if record.sequence >= count:
            died.set()

    request = simulation.request(merge=merge, **also)
    handle = await simulation.engine.start(request, on_record=on_record)
    await asyncio.wait(
        (asyncio.ensure_future(died.wait()), asyncio.ensure_future(handle.wait())),
        return_when=asyncio.FIRST_COMPLETED,
    )
    await handle.detach()
    return handle.migration


async def _settle(simulation: Simulation) -> None:
    """Libvirt's own migration ends without an engine; a block commit becomes ready."""
    simulation.world.tick(1000)


async def _marker_at(simulation: Simulation, uri: str) -> Marker | None:
    facts = await (await simulation.world.connect(uri)).domain(simulation.uuid)
    return facts.marker if facts else None


def _waiting(examined: tuple[Examined, ...]) -> list[Case]:
    found = {case.migration: case for host in examined for case in host.cases if case.waits}
    return list(found.values())


async def _adopt(engine: Engine, uris: tuple[str, ...] = HOSTS) -> Result | None:
    """What ``fsm doctor --adopt`` does; None where nothing waits."""
    examined = await engine.examine(uris)
    cases = _waiting(examined)
    if not cases:
        return None
    (case,) = cases
    return await (await engine.adopt(case, examined)).wait()


async def _check(simulation: Simulation, result: Result | None) -> None:
    """The end is right; where nothing waited the domain is whole on the host that has it."""
    if result is None:
        there = await (await simulation.world.connect(DESTINATION)).domain(simulation.uuid)
        result = Result("", "web", "committed" if there else "rolled-back")
    assert result.state in ("committed", "rolled-back"), result
    await check_end(simulation, result)
    host = await simulation.world.connect(DESTINATION if result.state == "committed" else SOURCE)
    described = [
        evolve(one, xml=simulation.described_at(host.uri, one.xml)) for one in simulation.before.metadata
    ]
    assert list(await host.snapshots(simulation.uuid)) == described, "descriptions are lost"


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
    await _die_after(simulation, count, course.merge, **course.also)
    await _settle(simulation)
    engine = await _lose_journal(simulation)
    marked = [await _marker_at(simulation, uri) for uri in HOSTS] != [None, None]
    result = await _adopt(engine)
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
    await _check(simulation, result)
    # Nothing is left that would have to be explained.
    assert _waiting(await engine.examine(HOSTS)) == []


@pytest.mark.parametrize("count", range(1, 32, 3))
async def test_the_adopting_engine_may_die_as_well(count: int) -> None:
    """Also with its journal: whoever comes next adopts again."""
    simulation = await simulate()
    await _die_after(simulation, count)
    await _settle(simulation)
    for records in (2, 4, 8):
        engine = await _lose_journal(simulation)
        examined = await engine.examine(HOSTS)
        if not _waiting(examined):
            break
        died = asyncio.Event()

        def on_record(record: Record, died: asyncio.Event = died, records: int = records) -> None:
            if record.sequence >= records:
                died.set()

        handle = await engine.adopt(_waiting(examined)[0], examined, on_record=on_record)
        ended = asyncio.ensure_future(handle.wait())
        await asyncio.wait((asyncio.ensure_future(died.wait()), ended), return_when=asyncio.FIRST_COMPLETED)
        await handle.detach()
        await _settle(simulation)
    await _check(simulation, await _adopt(await _lose_journal(simulation)))


async def test_an_adopted_migration_is_one_like_any_other() -> None:
    """It is in the journal, another engine resumes it, and its domain is claimed."""
    simulation = await simulate()
    migration = await _die_after(simulation, AFTER_START)
    engine = await _lose_journal(simulation)
    examined = await engine.examine(HOSTS)
    handle = await engine.adopt(_waiting(examined)[0], examined)
    await handle.detach()
    (header,) = engine.migrations(unfinished=True)
    assert (header.migration, header.domain, header.domain_uuid) == (migration, "web", simulation.uuid)
    assert (header.source_uri, header.destination_uri) == HOSTS
    (case,) = _waiting(await engine.examine(HOSTS))
    assert case.kind is Kind.UNFINISHED
    assert case.remedy == f"fsm resume {migration}"
    other = Engine(simulation.journal, simulation.world, clock=simulation.world.clock, deliver=in_loop)
    result = await (await other.resume(migration)).wait()
    assert result.state == "rolled-back"
    await _check(simulation, result)
    assert [host.cases for host in await other.examine(HOSTS)] == [(), ()]


async def _after_start() -> int:
    """So many records are written when the domain is on its overlay, with the copies made."""
    simulation = await simulate()
    result = await simulation.migrate()
    records = simulation.journal.records(result.migration)
    return next(record.sequence for record in records if record.name == "copy-bases")


AFTER_START = asyncio.run(_after_start())


@define
class Lost:
    """A migration cut off while the bases were being copied, and an engine that does not know it."""

    simulation: Simulation
    migration: str
    engine: Engine

    async def examined(self, uris: tuple[str, ...] = HOSTS) -> tuple[Case, tuple[Examined, ...]]:
        examined = await self.engine.examine(uris)
        (case,) = _waiting(examined)
        return case, examined

    async def refused(self, uris: tuple[str, ...] = HOSTS) -> str:
        """Why it is not adopted; nothing was done."""
        case, examined = await self.examined(uris)
        before = simulation_calls(self.simulation)
        with pytest.raises(AdoptionRefused) as refusal:
            await self.engine.adopt(case, examined)
        assert self.migration in str(refusal.value)
        assert refusal.value.remedy
        assert simulation_calls(self.simulation) == before
        assert self.engine.migrations() == []
        return f"{refusal.value}; {refusal.value.remedy}"

    async def marked(self, **changes: object) -> None:
        """Change the marker."""
        host = await self.simulation.world.connect(SOURCE)
        facts = await host.domain(self.simulation.uuid)
        assert facts is not None
        assert facts.marker is not None
        await host.mark(self.simulation.uuid, evolve(facts.marker, **changes))


def simulation_calls(simulation: Simulation) -> list[str]:
    """All changes so far."""
    harmless = {"mark", "release"}
    return [call.name for call in simulation.world.calls if call.name in CHANGES - harmless]


@pytest.fixture
async def lost() -> Lost:
    simulation = await simulate()
    migration = await _die_after(simulation, AFTER_START)
    return Lost(simulation, migration, await _lose_journal(simulation))


async def test_the_other_host_is_found_by_the_marker(lost: Lost) -> None:
    result = await _adopt(lost.engine, (SOURCE,))
    await _check(lost.simulation, result)


async def test_a_uri_that_could_run_a_command_is_not_taken_from_a_marker(lost: Lost) -> None:
    for uri in ("qemu+ext:///system?command=/bin/x", "qemu+ssh://b/system?command=/bin/x", "qemu:///system"):
        await lost.marked(destination_uri=uri)
        assert "--host" in await lost.refused((SOURCE,))
    # Named by the operator, the host is known by its UUID, whatever the marker says.
    await _check(lost.simulation, await _adopt(lost.engine))


async def test_another_host_is_not_taken_for_the_destination(lost: Lost) -> None:
    await lost.marked(destination_host="8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11")
    assert "is not its destination" in await lost.refused()


async def test_a_journal_that_is_there_is_not_lost(lost: Lost, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    host = lost.engine.journal.location.partition(":")[0]
    await lost.marked(journal=f"{host}:{path}")
    assert f"fsm --journal {path} resume {lost.migration}" in await lost.refused()
    await lost.marked(journal=f"another-machine:{path}")
    await _check(lost.simulation, await _adopt(lost.engine))


@pytest.mark.parametrize("changes", [{"migration": "../../x"}, {"overlays": ()}], ids=["id", "no-disks"])
async def test_a_marker_is_believed_as_far_as_it_is_borne_out(lost: Lost, changes: dict[str, object]) -> None:
    await lost.marked(**changes)
    case, examined = await lost.examined()
    with pytest.raises(AdoptionRefused):
        await lost.engine.adopt(case, examined)


async def test_copies_that_nobody_vouches_for_are_left_and_named(lost: Lost) -> None:
    """The marker does not say that they were made; only one that holds nothing at all is known for ours."""
    await lost.marked(bases=(), snapshots="")
    copy = "/var/lib/libvirt/images/web-vda.qcow2"
    with lost.simulation.world.changing() as state:
        files.write(state, state.hosts[DESTINATION], copy, 0, b"something")
    result = await _adopt(lost.engine)
    assert result is not None
    assert result.state == "rolled-back"
    assert any(copy in left for left in result.left_behind)
    assert copy in lost.simulation.world.files(DESTINATION)


async def test_a_marker_that_conceals_that_both_hosts_share_a_base_removes_no_base() -> None:
    simulation = await simulate(ON_SHARED)
    migration = await _die_after(simulation, AFTER_START)
    lost = Lost(simulation, migration, await _lose_journal(simulation))
    facts = await (await simulation.world.connect(SOURCE)).domain(simulation.uuid)
    assert facts is not None
    assert facts.marker is not None
    assert all(overlay.shared for overlay in facts.marker.overlays)
    await lost.marked(overlays=[evolve(overlay, shared=False) for overlay in facts.marker.overlays])
    result = await _adopt(lost.engine)
    assert result is not None
    assert result.state == "rolled-back"
    assert [disk.path for disk in ON_SHARED if any(str(disk.path) in left for left in result.left_behind)]
    await check_end(simulation, result)


async def test_files_that_are_not_the_domains_are_never_touched(lost: Lost) -> None:
    overlay = "/etc/shadow.fsm-" + lost.migration
    simulation = lost.simulation
    host = await simulation.world.connect(SOURCE)
    facts = await host.domain(simulation.uuid)
    assert facts is not None
    assert facts.marker is not None
    first, second = facts.marker.overlays
    await lost.marked(overlays=(evolve(first, base="/etc/shadow", path=overlay), second))
    await lost.refused()


async def test_a_file_at_a_place_that_only_a_marker_tells_is_left_and_named(lost: Lost) -> None:
    """Whoever may describe the domain could have any file of the destination removed otherwise."""
    simulation, victim = lost.simulation, "/srv/somebodys"
    facts = await (await simulation.world.connect(SOURCE)).domain(simulation.uuid)
    assert facts is not None
    assert facts.marker is not None
    size_bytes = facts.marker.bases[0].size_bytes
    simulation.world.put_file(DESTINATION, victim, {0: b"precious"}, size_bytes=size_bytes)
    first, second = facts.marker.overlays
    await lost.marked(overlays=(evolve(first, destination_base=victim), second))
    result = await _adopt(lost.engine)
    assert result is not None
    assert result.state == "rolled-back"
    assert any(victim in left for left in result.left_behind)
    assert victim in simulation.world.files(DESTINATION)


async def test_a_copy_that_has_another_length_than_recorded_is_left_and_named(lost: Lost) -> None:
    """The guest has run on it, or it is another file: either way nobody may remove it."""
    simulation = lost.simulation
    base = "/var/lib/libvirt/images/web-vda.qcow2"
    with simulation.world.changing() as state:
        files.remove(state, state.hosts[DESTINATION], base)
    simulation.world.put_file(DESTINATION, base, {0: b"precious"}, size_bytes=1 << 16)
    result = await _adopt(lost.engine)
    assert result is not None
    assert result.state == "rolled-back"
    assert any(base in left for left in result.left_behind)
    assert base in simulation.world.files(DESTINATION)
    assert "/var/lib/libvirt/images/web-vdb.qcow2" not in simulation.world.files(DESTINATION)


async def test_a_copy_that_a_failed_mirror_has_written_into_is_removed_or_named() -> None:
    """It has its recorded length only by chance; another file may have any."""
    simulation = await simulate()
    _kill_destination(simulation)
    reached = asyncio.Event()
    simulation.world.at("start_commit", reached.set)
    handle = await simulation.start(merge=Merge.MIRROR)
    await reached.wait()
    await handle.detach()
    await _settle(simulation)
    result = await _adopt(await _lose_journal(simulation))
    assert result is not None
    assert result.state == "rolled-back"
    copies = [path for path in simulation.world.files(DESTINATION) if "web-" in path]
    assert [left.partition(": ")[2].partition(",")[0] for left in result.left_behind] == copies
    assert not any(".fsm-" in path for path in simulation.world.files(SOURCE))


async def test_nothing_is_adopted_while_something_goes_on() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    died = asyncio.Event()
    world.at_moment(uuid, Moment.MEMORY, died.set)
    handle = await simulation.start(bandwidth_mib_per_s=1)
    await died.wait()
    await handle.detach()
    lost = Lost(simulation, handle.migration, await _lose_journal(simulation))
    facts = await (await world.connect(SOURCE)).domain(uuid)
    assert facts is not None
    assert facts.job is Job.MIGRATION_OUT
    assert "a job of it runs" in await lost.refused()
    await _settle(simulation)
    result = await _adopt(lost.engine)
    assert result is not None
    assert result.state == "committed"
    await _check(simulation, result)


async def test_a_domain_that_changes_while_it_is_looked_at_is_left_alone(lost: Lost) -> None:
    world, uuid = lost.simulation.world, lost.simulation.uuid
    world.at("domain", lambda: world.pause(SOURCE, uuid), host=SOURCE, nth=3)
    assert "something goes on" in await lost.refused()


async def test_an_engine_that_comes_back_after_the_adoption_touches_nothing() -> None:
    """It was stopped, not dead, and its journal is the one that was thought to be lost."""
    simulation = await simulate()
    migration = await _die_after(simulation, AFTER_START)
    old_journal, old_engine = simulation.journal, simulation.engine
    simulation.journal = fresh_journal()
    host = await simulation.world.connect(SOURCE)
    facts = await host.domain(simulation.uuid)
    assert facts is not None
    assert facts.marker is not None
    await host.mark(simulation.uuid, evolve(facts.marker, journal="another-machine:/journal.db"))
    engine = Engine(simulation.journal, simulation.world, clock=simulation.world.clock, deliver=in_loop)
    # The destination's file system is full, so the adopted migration waits on the overlay.
    simulation.world.fail("start_commit", times=None)
    result = await _adopt(engine)
    assert result is not None
    assert result.state == "stuck"
    changes = simulation_calls(simulation)
    woken = await (await old_engine.resume(migration)).wait()
    assert woken.state == "stuck"
    assert "marker" in woken.cause
    assert simulation_calls(simulation) == changes
    simulation.world.faults.clear()
    await engine.ask(migration, "retry")
    result = await (await engine.resume(migration)).wait()
    await _check(simulation, result)
    old_journal.close()


async def test_the_destination_is_gone_with_the_journal() -> None:
    """The operator's word that it is off lets the source be made whole; without it nothing is done."""
    simulation = await simulate()
    migration = await _die_after(simulation, AFTER_START)
    simulation.world.power_off(DESTINATION)
    engine = await _lose_journal(simulation)
    result = await _adopt(engine)
    assert result is not None
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
    await _settle(simulation)
    assert world.active_at(uuid) == [SOURCE]
    result = await _adopt(await _lose_journal(simulation))
    assert result is not None
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
    await _settle(simulation)
    result = await _adopt(await _lose_journal(simulation))
    assert result is not None
    return result
