"""Somebody defines the domain at the destination while it is migrated: nothing is given up for that."""

from __future__ import annotations

import pytest

from fsm.engine.plan import MergeChoice
from fsm.hypervisor.simulated import Moment, domains
from fsm.machine.decision import decide
from fsm.machine.loader import load_default
from fsm.machine.observation import (
    Activity,
    Disk,
    Domain,
    DomainState,
    Engine,
    Host,
    Layer,
    Observation,
)
from tests.simulation import DESTINATION, SOURCE, check_end, simulate


@pytest.mark.parametrize("merge", [MergeChoice.COMMIT, MergeChoice.MIRROR])
async def test_a_definition_that_did_not_arrive_by_migration_takes_nothing_over(merge: MergeChoice) -> None:
    """The guest powers off mid-way; the newest that it wrote is in the source's overlay."""
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid

    def define() -> None:
        with world.changing() as state:
            domains.define(state, state.hosts[DESTINATION], simulation.before.definition)

    def power_off() -> None:
        world.power_off_guest(uuid)
        world.at("domain", define, host=DESTINATION)

    world.at_moment(uuid, Moment.MEMORY, power_off)
    result = await simulation.migrate(merge=merge)
    assert (result.state, world.lost_writes(uuid, at=SOURCE)) == ("stuck", [])
    assert f"{DESTINATION}: a domain of its UUID is there that did not come by" in result.cause
    # As the remedy says.
    await (await world.connect(DESTINATION)).undefine(uuid)
    await simulation.engine.ask(result.migration, "retry")
    result = await (await simulation.engine.resume(result.migration)).wait()
    assert result.state == "rolled-back"
    await check_end(simulation, result)


def test_a_source_that_is_paused_is_not_destroyed_for_it() -> None:
    """It has handed its memory over, to an instance that is gone, and may be the only one that has it."""
    disks = (Disk("vda", Layer.OVERLAY),)
    paused = Domain(DomainState.PAUSED, "migration", disks=disks, marker="m")
    for stranger in (True, False):
        there = Domain(DomainState.SHUT_OFF, "shutdown", disks=disks, marked_by_another=stranger)
        hosts = Host(reachable=True, domain=paused), Host(reachable=True, domain=there)
        seen = Observation(*hosts, Engine(transfer_begun=True, activity=Activity.FAILED))
        trigger = decide(load_default(), "transferring", seen).trigger
        assert trigger == ("find-unexpected" if stranger else "supersede-source")
