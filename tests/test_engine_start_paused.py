"""A domain that was shut off is started, paused, for its commit; one that somebody else starts is his."""

from __future__ import annotations

import pytest

from fsm.errors import HostError
from fsm.machine.observation import DomainState
from tests.simulation import SOURCE, check_end, simulate


@pytest.mark.parametrize("suspended", ["at-once", "while-committed"])
async def test_a_guest_that_its_user_has_started_and_suspended_is_never_stopped(suspended: str) -> None:
    """The engine's own start had failed, and was recorded: that must not make the user's guest its own."""
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.power_off_guest(uuid))

    def suspend() -> None:
        world.pause(SOURCE, uuid)

    def start() -> None:
        world.start(SOURCE, uuid)
        if suspended == "at-once":
            suspend()
        else:
            world.at("start_commit", suspend)

    def fail() -> HostError:
        world.at("domain", start, host=SOURCE)
        return HostError("Cannot allocate memory", host=SOURCE, call="start_paused")

    world.fail("start_paused", error=fail)
    result = await simulation.migrate()
    assert result.state == "rolled-back"
    facts = await (await world.connect(SOURCE)).domain(uuid)
    assert facts is not None
    assert (facts.state, facts.reason) == (DomainState.PAUSED, "user")
    await check_end(simulation, result)
