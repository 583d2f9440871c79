"""Who stands on a file is found by its pool's name, and by another path of it, as well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fsm.engine.plan import MergeChoice
from fsm.hypervisor.simulated import Moment, SimulatedDisk
from fsm.machine.observation import DomainState
from tests.chains import GOLDEN, MIDDLE, chained
from tests.simulation import DESTINATION, IMAGES, SOURCE, Simulation, simulate


def by_volume(simulation: Simulation, uri: str, uuid: str, path: str, pool: str) -> None:
    """Have the domain's definition name that file as a volume of a pool."""
    name = path.rpartition("/")[2]
    with simulation.world.changing() as state:
        record = state.hosts[uri].domains[uuid]
        named = (record.definition or "").replace(f'file="{path}"', f'pool="{pool}" volume="{name}"')
        record.definition = named.replace('type="file" device', 'type="volume" device')
        assert "pool=" in named


async def keeps_its_template(simulation: Simulation, other_domain: Callable[[], object]) -> None:
    """The migration that the other domain comes into is rolled back, and leaves what that stands on."""
    world = simulation.world
    world.at_moment(simulation.uuid, Moment.MIRROR, other_domain)
    result = await simulation.migrate(merge=MergeChoice.COMMIT)
    assert result.state == "rolled-back"
    assert {GOLDEN, MIDDLE} <= set(world.files(DESTINATION))
    assert all("on which domain clone stands" in left for left in result.left_behind)


@pytest.mark.parametrize("pool", ["images", "no-such"])
async def test_a_source_base_stays_that_another_domain_has_as_a_volume(pool: str) -> None:
    simulation = await simulate()
    world, path = simulation.world, f"{IMAGES}/web-vda.qcow2"
    twin = world.add_domain(
        SOURCE, "twin", [SimulatedDisk("vda", "/srv/twin.qcow2")], state=DomainState.SHUT_OFF
    )
    with world.changing() as state:
        record = state.hosts[SOURCE].domains[twin]
        record.definition = (record.definition or "").replace("/srv/twin.qcow2", path)
    by_volume(simulation, SOURCE, twin, path, pool)
    result = await simulation.migrate(delete_source=True)
    assert result.state == "committed"
    stays = pool == "images"
    assert (path in world.files(SOURCE)) is stays
    assert ["domain twin uses it" in left for left in result.left_behind] == [True] * stays


async def test_a_template_stays_that_a_volume_stands_on() -> None:
    """The other domain is shut off, so that only the volume's own header names the template."""
    simulation = await chained(there=False)
    world, uuid = simulation.world, simulation.uuid
    top = "/srv/top.qcow2"

    def other_domain() -> None:
        disk = SimulatedDisk("vda", top, backing=(MIDDLE, "qcow2"))
        clone = world.add_domain(DESTINATION, "clone", [disk], state=DomainState.SHUT_OFF)
        world.add_pool(DESTINATION, "/srv")
        by_volume(simulation, DESTINATION, clone, top, "srv")
        world.kill_qemu(DESTINATION, uuid)

    await keeps_its_template(simulation, other_domain)


LINK = "/srv/linked"


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUT_OFF])
async def test_a_source_base_stays_that_another_domain_stands_on_by_a_linked_directory(
    state: DomainState,
) -> None:
    simulation = await simulate()
    world, path = simulation.world, f"{IMAGES}/web-vda.qcow2"
    world.add_link(SOURCE, LINK, IMAGES)

    def other_domain() -> None:
        """Once the migrated one is gone from there."""
        disk = SimulatedDisk("vda", "/srv/top.qcow2", backing=(f"{LINK}/web-vda.qcow2", "qcow2"))
        world.add_domain(SOURCE, "clone", [disk], state=state)

    world.at("define_snapshots", other_domain, host=DESTINATION)
    before = world.pools(SOURCE)
    result = await simulation.migrate(delete_source=True)
    assert result.state == "committed"
    assert path in world.files(SOURCE)
    (left,) = result.left_behind
    assert "domain clone uses it" in left
    assert world.pools(SOURCE) == before


async def test_a_source_base_stays_that_is_another_domains_own_by_a_linked_directory() -> None:
    simulation = await simulate()
    world, path = simulation.world, f"{IMAGES}/web-vda.qcow2"
    world.add_link(SOURCE, LINK, IMAGES)
    twin = world.add_domain(
        SOURCE, "twin", [SimulatedDisk("vda", "/srv/twin.qcow2")], state=DomainState.SHUT_OFF
    )
    with world.changing() as state:
        record = state.hosts[SOURCE].domains[twin]
        record.definition = (record.definition or "").replace("/srv/twin", f"{LINK}/web-vda")
    result = await simulation.migrate(delete_source=True)
    assert result.state == "committed"
    assert path in world.files(SOURCE)
    assert "domain twin uses it" in result.left_behind[0]


async def test_a_template_stays_that_a_domain_has_by_a_linked_directory() -> None:
    simulation = await chained(there=False)
    world, uuid = simulation.world, simulation.uuid
    world.add_link(DESTINATION, LINK, IMAGES)

    def other_domain() -> None:
        disk = SimulatedDisk("vda", "/srv/top.qcow2", backing=(f"{LINK}/middle.qcow2", "qcow2"))
        world.add_domain(DESTINATION, "clone", [disk], state=DomainState.SHUT_OFF)
        world.kill_qemu(DESTINATION, uuid)

    await keeps_its_template(simulation, other_domain)
