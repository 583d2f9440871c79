"""The signs for a host's polkit rule: they stand while the overlay exists, and not a moment longer."""

from __future__ import annotations

import asyncio

import pytest

from fsm.hypervisor.polkit import SIGNS, sign_paths
from fsm.hypervisor.simulated import Moment
from fsm.machine.observation import Merge
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, numbered_calls, simulate


async def guarded(*uris: str) -> Simulation:
    """A world in which these hosts have the rule, seen with it and the pool."""
    simulation = await simulate()
    for uri in uris:
        simulation.world.add_directory(uri, SIGNS)
        simulation.world.add_pool(uri, SIGNS)
        simulation.before.pools[uri] = simulation.world.pools(uri)
    return simulation


def signs(simulation: Simulation, uri: str) -> set[str]:
    return {path for path in simulation.world.files(uri) if path.startswith(SIGNS)}


def expected(simulation: Simulation, uri: str) -> set[str]:
    """The signs for the domain, its bases and its overlays, by the paths of the latter."""
    bases = [f"/var/lib/libvirt/images/web-{target}.qcow2" for target in ("vda", "vdb")]
    overlays = [path for path in simulation.world.files(uri) if "fsm-" in path and not path.startswith(SIGNS)]
    return set(sign_paths(simulation.uuid, [*bases, *overlays]))


def test_the_names_of_signs() -> None:
    assert sign_paths("u", ["/a b/ü'(1)*?.qcow2"]) == (
        f"{SIGNS}/domain-u",
        f"{SIGNS}/volume-%2Fa%20b%2F%C3%BC%27%281%29%2A%3F.qcow2",
    )
    (_, long) = sign_paths("u", ["/" + "ä" * 250])
    assert len(long.removeprefix(f"{SIGNS}/")) < 255


async def test_signs_stand_on_both_hosts_from_before_the_overlay_to_after_it() -> None:
    simulation = await guarded(SOURCE, DESTINATION)
    world, seen = simulation.world, []
    world.at("create_overlays", lambda: seen.append(signs(simulation, SOURCE)))

    def look() -> None:
        assert signs(simulation, SOURCE) == expected(simulation, SOURCE)
        assert signs(simulation, DESTINATION) >= {f"{SIGNS}/domain-{simulation.uuid}"}
        seen.append(signs(simulation, DESTINATION))

    world.at("make_durable", look)
    world.at("pivot", look)
    result = await simulation.migrate()
    assert result.state == "committed"
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 5
    assert signs(simulation, SOURCE) == signs(simulation, DESTINATION) == set()
    await check_end(simulation, result)


async def test_a_roll_back_takes_them_down_on_both_hosts() -> None:
    simulation = await guarded(SOURCE, DESTINATION)
    handle = await simulation.start()
    simulation.world.at_moment(simulation.uuid, Moment.MEMORY, handle.abort)
    result = await handle.wait()
    assert result.state == "rolled-back"
    assert signs(simulation, SOURCE) == signs(simulation, DESTINATION) == set()
    await check_end(simulation, result)


async def test_a_host_without_the_rule_gets_no_signs() -> None:
    simulation = await guarded(DESTINATION)
    made = []
    simulation.world.at(
        "pivot", lambda: made.append((signs(simulation, SOURCE), signs(simulation, DESTINATION)))
    )
    result = await simulation.migrate()
    assert result.state == "committed"
    assert made[0][0] == set()
    assert len(made[0][1]) == 5
    await check_end(simulation, result)


@pytest.mark.parametrize("uri", [SOURCE, DESTINATION])
async def test_without_a_sign_no_overlay_is_made(uri: str) -> None:
    simulation = await guarded(SOURCE, DESTINATION)
    simulation.world.fail("create_sparse", host=uri, times=None)
    result = await simulation.migrate()
    assert result.state == ("refused" if uri == SOURCE else "rolled-back")
    assert signs(simulation, SOURCE) == signs(simulation, DESTINATION) == set()
    await check_end(simulation, result)


async def _calls_about_signs() -> list[tuple[str, str, int]]:
    """The calls of a good migration that are about signs: name, host, and the how-manieth of that kind."""
    simulation = await guarded(SOURCE, DESTINATION)
    await simulation.migrate()
    return [
        number
        for call, number in numbered_calls(simulation)
        if call.arguments and str(call.arguments[0]).startswith(SIGNS)
    ]


CALLS = asyncio.run(_calls_about_signs())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "host", "nth"), CALLS)
async def test_one_failing_call_leaves_no_sign(name: str, host: str, nth: int, when: str) -> None:
    simulation = await guarded(SOURCE, DESTINATION)
    simulation.world.fail(name, host=host, nth=nth, when=when)
    result = await simulation.migrate()
    assert result.state in ("committed", "rolled-back", "refused"), result
    await check_end(simulation, result)  # no file of ours is left, signs among them
    assert signs(simulation, SOURCE) == signs(simulation, DESTINATION) == set()


async def test_merging_by_mirror_has_the_same_signs() -> None:
    simulation = await guarded(SOURCE, DESTINATION)
    stood = []

    def look() -> None:
        stood.extend(len(signs(simulation, uri)) for uri in (SOURCE, DESTINATION))

    simulation.world.at("migrate", look)
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert result.state == "committed"
    assert stood == [5, 5]
    assert signs(simulation, SOURCE) == signs(simulation, DESTINATION) == set()
    await check_end(simulation, result)
