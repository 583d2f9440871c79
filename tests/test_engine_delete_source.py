"""The source's bases are removed behind a migration, for those who ask for it, when nothing is against it."""

from __future__ import annotations

from typing import Any

import pytest

from fsm.engine.plan import MergeChoice, StorageChoice
from fsm.errors import BadInput, HostError
from fsm.hypervisor.simulated import Moment, SimulatedDisk, domains, files, images
from fsm.machine.observation import DomainState
from tests.lives import Life, Point
from tests.simulation import (
    DESTINATION,
    IMAGES,
    ON_SHARED,
    PLACED,
    SHARED,
    SOURCE,
    Simulation,
    check_end,
    simulate,
)

BASES = {f"{IMAGES}/web-{target}.qcow2" for target in ("vda", "vdb")}


def at_source(simulation: Simulation) -> set[str]:
    """The domain's bases that are there."""
    return BASES.intersection(simulation.world.files(SOURCE))


def told(simulation: Simulation, key: str) -> list[Any]:
    return [record.data[key] for record in simulation.records if key in record.data]


@pytest.mark.parametrize("merge", [MergeChoice.COMMIT, MergeChoice.MIRROR])
async def test_what_was_copied_goes_when_all_is_committed(merge: MergeChoice) -> None:
    simulation = await simulate()
    result = await simulation.migrate(merge=merge, delete_source=True)
    assert (result.state, result.left_behind) == ("committed", ())
    assert at_source(simulation) == set()
    assert [set(paths) for paths in told(simulation, "removing") + told(simulation, "removed")] == [
        BASES,
        BASES,
    ]
    names = [record.name for record in simulation.records]
    assert names.index("undefine-source") < names.index("remove-source-bases")
    await check_end(simulation, result)


async def test_it_stays_unless_that_is_asked_for() -> None:
    simulation = await simulate()
    result = await simulation.migrate()
    assert result.state == "committed"
    assert at_source(simulation) == BASES
    assert told(simulation, "removing") == []


@pytest.mark.parametrize("moment", Moment)
async def test_a_rollback_removes_nothing(moment: Moment) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(delete_source=True)
    assert at_source(simulation) == (set() if result.state == "committed" else BASES), result
    await check_end(simulation, result)


async def test_a_refused_one_removes_nothing() -> None:
    simulation = await simulate()
    simulation.world.put_file(DESTINATION, min(BASES), b"somebody's")
    result = await simulation.migrate(delete_source=True)
    assert result.state == "refused"
    assert at_source(simulation) == BASES


async def test_a_shared_base_is_never_removed() -> None:
    simulation = await simulate((ON_SHARED[0], "vdb"))
    result = await simulation.migrate(delete_source=True, merge=MergeChoice.AUTO)
    assert (result.state, result.left_behind) == ("committed", ())
    assert str(ON_SHARED[0].path) in simulation.world.files(SOURCE)
    assert at_source(simulation) == set()
    await check_end(simulation, result)


async def test_shared_storage_and_removing_exclude_each_other() -> None:
    simulation = await simulate()
    with pytest.raises(BadInput, match="not copied"):
        await simulation.start(delete_source=True, storage=StorageChoice.SHARED)


async def test_of_one_that_is_shut_off_goes_what_is_on_stable_storage() -> None:
    simulation = await simulate()
    disks = (SimulatedDisk("vda", format="raw"), "vdb")
    simulation.world.add_domain(SOURCE, "plain", disks, state=DomainState.SHUT_OFF)
    result = await simulation.migrate(domain="plain", delete_source=True)
    assert result.state == "committed"
    assert f"{IMAGES}/plain-vdb.qcow2" not in simulation.world.files(SOURCE)
    assert f"{IMAGES}/plain-vda.raw" in simulation.world.files(SOURCE)
    (left,) = result.left_behind
    assert left.startswith(f"{SOURCE}: {IMAGES}/plain-vda.raw (")
    assert "stable storage" in left


async def kept(simulation: Simulation, **changes: Any) -> str:
    """One of the two stays; why."""
    result = await simulation.migrate(delete_source=True, **changes)
    assert result.state == "committed"
    assert at_source(simulation) == {f"{IMAGES}/web-vda.qcow2"}
    (left,) = result.left_behind
    assert left.startswith(f"{SOURCE}: {IMAGES}/web-vda.qcow2 (")
    return left


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUT_OFF])
async def test_what_another_domain_stands_on_stays(state: DomainState) -> None:
    """Whether it runs or not: its own image names the base, two files further down."""
    simulation = await simulate()
    world = simulation.world
    middle = SimulatedDisk("vda", "/srv/middle.qcow2", backing=(f"{IMAGES}/web-vda.qcow2", "qcow2"))
    world.add_domain(SOURCE, "between", [middle], state=DomainState.SHUT_OFF)
    top = SimulatedDisk("vdb", "/boot/top.qcow2", backing=("/srv/middle.qcow2", "qcow2"))
    world.add_domain(SOURCE, "clone", [top], state=state)
    host = await world.connect(SOURCE)
    await host.undefine(await host.resolve("between"))
    simulation.before.pools[SOURCE] = world.pools(SOURCE)
    assert "domain clone uses it" in await kept(simulation)
    assert world.pools(SOURCE) == simulation.before.pools[SOURCE]


async def test_what_was_written_to_since_stays() -> None:
    simulation = await simulate()

    def write() -> None:
        with simulation.world.changing() as state:
            files.write(state, state.hosts[SOURCE], f"{IMAGES}/web-vda.qcow2", 0, b"x")

    simulation.world.at("remove", write, host=SOURCE)  # of the first overlay
    assert "has changed since it was copied" in await kept(simulation)


async def test_a_snapshot_that_is_not_there_any_more_keeps_it() -> None:
    simulation = await simulate()
    world = simulation.world

    def drop() -> None:
        with world.changing() as state:
            images.delete_snapshot(state, state.hosts[DESTINATION], f"{IMAGES}/web-vda.qcow2", "s2")

    world.at("remove", drop, host=SOURCE)
    assert "does not hold the snapshots s2" in await kept(simulation)


async def test_what_the_host_does_not_remove_is_told() -> None:
    simulation = await simulate()
    world = simulation.world
    refusal = HostError("Operation not permitted", host=SOURCE)
    world.fail("remove", host=SOURCE, nth=3, error=refusal)  # behind the two overlays
    assert "Operation not permitted" in await kept(simulation)


async def test_a_domain_that_is_back_keeps_all() -> None:
    """Somebody has defined it again at the source, on the same images."""
    simulation = await simulate()
    world = simulation.world

    def back() -> None:
        with world.changing() as state:
            domains.define(state, state.hosts[SOURCE], simulation.before.definition)

    world.at("remove", back, host=SOURCE)
    result = await simulation.migrate(delete_source=True)
    assert at_source(simulation) == BASES
    assert all("still defined" in left for left in result.left_behind)


def _deletes(point: Point) -> bool:
    return point.state == "committing-dest"


async def _points() -> list[Point]:
    """Every point at which an engine may die behind the switch-over."""
    found: list[Point] = []
    simulation = await simulate()
    await Life(simulation, lambda _life, point: found.append(point)).run(None, delete_source=True)
    return [point for point in found if _deletes(point)]


async def test_an_engine_killed_at_any_point_is_followed_by_one_that_ends_it() -> None:
    points = await _points()
    assert any(point.name == "remove" for point in points)
    for number in range(len(points)):
        simulation = await simulate()
        passed = 0

        def hook(life: Life, point: Point, number: int = number) -> None:
            nonlocal passed
            if _deletes(point):
                passed += 1
                if passed == number + 1:
                    life.kill()

        await Life(simulation, hook).run(None, delete_source=True)
        (header,) = simulation.journal.headers()
        result = None
        if not header.final:
            result = await Life(simulation).run(header.migration)
            assert result is not None
            assert (result.state, result.left_behind) == ("committed", ())
            await check_end(simulation, result)
        assert at_source(simulation) == set(), points[number]


async def test_where_the_copies_lie_makes_no_difference() -> None:
    """One of them has the path of another's original."""
    simulation = await simulate()
    result = await simulation.migrate(delete_source=True, disk_map=PLACED)
    assert (result.state, result.left_behind) == ("committed", ())
    assert at_source(simulation) == set()
    assert "/srv/first.qcow2" in simulation.world.files(DESTINATION)


async def test_what_a_domain_of_the_destination_stands_on_stays() -> None:
    """Its copy lies elsewhere, and both hosts see the original."""
    simulation = await simulate()
    world = simulation.world
    base = f"{SHARED}/plain.qcow2"
    world.add_domain(SOURCE, "plain", [SimulatedDisk("vda", base)])
    clone = SimulatedDisk("vda", f"{IMAGES}/clone.qcow2", backing=(base, "qcow2"))
    world.add_domain(DESTINATION, "clone", [clone], state=DomainState.SHUT_OFF)
    elsewhere = (f"vda={IMAGES}/plain.qcow2",)
    result = await simulation.migrate(domain="plain", delete_source=True, disk_map=elsewhere)
    assert result.state == "committed"
    assert base in world.files(SOURCE)
    assert "domain clone uses it" in result.left_behind[0]


async def test_what_a_domain_of_the_destination_has_by_another_path_stays() -> None:
    """Both hosts see the original, each at a path of its own."""
    simulation = await simulate()
    world = simulation.world
    base = f"{SHARED}/plain.qcow2"
    world.add_domain(SOURCE, "plain", [SimulatedDisk("vda", base)])
    world.add_link(DESTINATION, "/srv/there", SHARED)
    clone = SimulatedDisk("vda", f"{IMAGES}/clone.qcow2", backing=("/srv/there/plain.qcow2", "qcow2"))
    world.add_domain(DESTINATION, "clone", [clone], state=DomainState.SHUT_OFF)
    elsewhere = (f"vda={IMAGES}/plain.qcow2",)
    result = await simulation.migrate(domain="plain", delete_source=True, disk_map=elsewhere)
    assert result.state == "committed"
    assert base in world.files(SOURCE)
    assert "domain clone uses it" in result.left_behind[0]
