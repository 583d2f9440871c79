"""What the engine believes, and until when: an operator's word, a domain that stands where ours should be."""

from __future__ import annotations

from fsm.engine.adoption import Adoption
from fsm.hypervisor.domain_xml import with_disk_sources
from fsm.hypervisor.simulated import domains
from fsm.machine.guard import permits
from fsm.machine.loader import load_default
from fsm.machine.operations import Operation
from tests.lost_journals import Lost, lost
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

__all__ = ["lost"]  # a fixture
SPEC = load_default()


async def _define_at_destination(simulation: Simulation) -> None:
    """Somebody carries the domain over by hand."""
    world, uuid = simulation.world, simulation.uuid
    with world.changing() as state:
        facts = domains.facts(state.hosts[SOURCE], uuid)
        assert facts is not None
        assert facts.marker is not None
        bases = {one.target: (one.base, one.base_format) for one in facts.marker.overlays}
        definition = with_disk_sources(domains.persistent_xml(state.hosts[SOURCE], uuid), bases)
        domains.define(state, state.hosts[DESTINATION], definition)
    await (await world.connect(DESTINATION)).unmark(uuid)


async def test_an_adopted_migration_is_guarded_before_anything_is_done(lost: Lost) -> None:
    case, examined = await lost.examined()
    world = lost.simulation.world
    adoption = Adoption(world, lost.engine.journal, world.clock, case, examined)
    header, _first = await adoption.prepared(SPEC)
    for operation in (Operation.SNAPSHOT_CREATE_INTERNAL, Operation.BLOCK_RESIZE, Operation.START):
        assert not permits(SPEC, header.state, operation, heading_for=header.heading_for).permitted


async def test_a_domain_defined_by_hand_is_not_taken_for_an_arrived_one(lost: Lost) -> None:
    await _define_at_destination(lost.simulation)
    assert "carries no marker" in await lost.refused()


async def test_the_word_that_a_host_is_off_holds_until_it_is_seen_again() -> None:
    simulation = await simulate()
    world = simulation.world
    world.at("migrate", lambda: world.power_off(DESTINATION))
    stuck = await simulation.migrate()
    assert stuck.state == "stuck"
    world.faults.clear()
    # The source's own libvirtd is away, so that nothing is decided before the destination is back.
    world.stop_libvirtd(SOURCE)
    await simulation.engine.ask(stuck.migration, "retry", fenced=("destination",))
    world.power_on(DESTINATION)
    again = await (await simulation.engine.resume(stuck.migration)).wait()
    assert again.state == "stuck"
    words = [
        record.data["unfenced"]
        for record in simulation.journal.records(stuck.migration)
        if "unfenced" in record.data
    ]
    assert words == [["destination"]]
    world.start_libvirtd(SOURCE)
    await simulation.engine.ask(stuck.migration, "retry")
    ended = await (await simulation.engine.resume(stuck.migration)).wait()
    # Cleaned up like any other: nothing is left behind at a host that is there.
    assert (ended.state, ended.left_behind) == ("rolled-back", ())
    await check_end(simulation, ended)
