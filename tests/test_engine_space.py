"""A file system that would get full before the end: the migration goes back in time."""

from __future__ import annotations

import pytest

from fsm.engine import space
from fsm.engine.space import MARGIN_LEAST_BYTES, MIB, Demand
from fsm.engine.space_watch import POLL_S
from fsm.hypervisor.simulated import Moment
from fsm.hypervisor.values import FileFacts, Overlay
from fsm.machine.observation import DomainState
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

IMAGES = "/var/lib/libvirt/images"
# A guest that writes so much to each of its two disks needs it twice, in the overlay and in the base.
BLOCKS = range(600, 1400)
WRITTEN_BYTES = 2 * len(BLOCKS) * 4096


def fill(simulation: Simulation) -> None:
    """The guest writes more than it should for its host's file system."""
    for block in BLOCKS:
        for target in ("vda", "vdb"):
            simulation.world.guest_write(simulation.uuid, target, block, b"x")


def tighten(simulation: Simulation, uri: str, free_bytes: int) -> None:
    """Behind preflight, somebody else takes space."""
    simulation.world.at(
        "create_overlays", lambda: simulation.world.set_free_bytes(uri, IMAGES, free_bytes), when="after"
    )


def let_time_pass(simulation: Simulation) -> None:
    """The watch is due to look again."""
    clock = simulation.world.clock
    clock.pass_until(clock.monotonic_s() + POLL_S)


async def check_gone_back(simulation: Simulation, uri: str, moment: str | Moment) -> None:
    """Migrate with a guest that writes too much at that moment: it never notices."""
    world, uuid = simulation.world, simulation.uuid
    if isinstance(moment, Moment):
        world.at_moment(uuid, moment, lambda: fill(simulation))
    else:
        world.at(moment, lambda: fill(simulation))
    # So slow that the watch comes to look before the migration's end.
    result = await simulation.migrate(bandwidth_mib_per_s=1)
    assert result.state == "rolled-back"
    assert f"{uri}: {IMAGES} would be full before the end" in result.cause
    assert f"free space in {IMAGES} on {uri}" in result.remedy
    assert world.running_at(uuid) == [SOURCE]
    fired = [record.name for record in simulation.records if record.step == "transition"]
    assert "run-short" in fired
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", ["make_durable", Moment.MIRROR, Moment.MEMORY])
async def test_the_source_would_get_full(moment: str | Moment) -> None:
    simulation = await simulate()
    tighten(simulation, SOURCE, MARGIN_LEAST_BYTES + WRITTEN_BYTES)
    await check_gone_back(simulation, SOURCE, moment)


async def test_the_destination_would_get_full_by_the_commit() -> None:
    """It could take the overlays, but not their commit as well. No event tells of that."""
    simulation = await simulate()
    tighten(simulation, DESTINATION, MARGIN_LEAST_BYTES + 2 * MIB + WRITTEN_BYTES)
    simulation.world.at_moment(simulation.uuid, Moment.MIRROR, lambda: let_time_pass(simulation))
    await check_gone_back(simulation, DESTINATION, Moment.MIRROR)


async def test_what_somebody_else_writes_is_seen_without_an_event() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid

    def take() -> None:
        world.set_free_bytes(SOURCE, IMAGES, MARGIN_LEAST_BYTES // 2)
        let_time_pass(simulation)

    world.at_moment(uuid, Moment.MIRROR, take)
    result = await simulation.migrate(bandwidth_mib_per_s=1)
    assert result.state == "rolled-back"
    assert "would be full" in result.cause
    await check_end(simulation, result)


async def test_enough_space_is_enough() -> None:
    simulation = await simulate()
    tighten(simulation, SOURCE, MARGIN_LEAST_BYTES + 2 * WRITTEN_BYTES + MIB)
    simulation.world.at("make_durable", lambda: fill(simulation))
    result = await simulation.migrate()
    assert result.state == "committed"
    await check_end(simulation, result)


async def test_a_host_that_does_not_tell_its_space_is_migrated_from_all_the_same() -> None:
    simulation = await simulate()
    for call in ("space", "set_threshold"):
        simulation.world.fail(call, times=None)
    result = await simulation.migrate()
    assert result.state == "committed"
    await check_end(simulation, result)


async def test_the_watch_leaves_a_paused_guest_paused() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    tighten(simulation, SOURCE, MARGIN_LEAST_BYTES + WRITTEN_BYTES)

    def fill_and_pause() -> None:
        fill(simulation)
        world.pause(SOURCE, uuid)

    world.at("make_durable", fill_and_pause)
    result = await simulation.migrate()
    assert result.state == "rolled-back"
    facts = await (await world.connect(SOURCE)).domain(uuid)
    assert facts is not None
    assert (facts.state, facts.reason) == (DomainState.PAUSED, "user")


def test_the_reserve_of_preflight_lets_the_overlays_grow() -> None:
    """A migration that preflight lets begin is not given up before the overlay has grown at all."""
    bases = [FileFacts(f"/{size_mib}", 0, 0, size_mib * MIB, "qcow2") for size_mib in (8, 100_000)]
    overlays = [Overlay("vda", f"{base.path}.fsm", base.path, "qcow2") for base in bases]
    reserve_bytes = space.reserves(overlays, bases)["/"]
    held_bytes = space.OVERLAY_LEAST_BYTES + 100_000 * MIB // space.OVERLAY_SHARE
    for grown_bytes, short in ((0, False), (held_bytes, False), (held_bytes + 1, True)):
        demand = Demand("/", reserve_bytes - grown_bytes, 1 << 50, grown_bytes)
        found = space.shortage("qemu:///system", [demand], space.margin_bytes(0))
        assert (found is not None) == short


def test_a_guest_that_writes_fast_needs_a_greater_margin() -> None:
    assert space.margin_bytes(0) == space.MARGIN_LEAST_BYTES
    assert space.margin_bytes(100 * MIB) == 100 * MIB * space.REACTION_S


def test_directories_of_one_file_system_share_its_space() -> None:
    one, other = Demand("/a", 100 * MIB, 1 << 30, 30 * MIB), Demand("/b", 101 * MIB, 1 << 30, 30 * MIB)
    elsewhere = Demand("/c", 100 * MIB, 1 << 31, 30 * MIB)
    assert space.shortage("x", [one, elsewhere], MARGIN_LEAST_BYTES) is None
    found = space.shortage("x", [one, other, elsewhere], MARGIN_LEAST_BYTES)
    assert found is not None
    assert (found.directory, found.free_bytes, found.need_bytes) == ("/a", 100 * MIB, 60 * MIB)
