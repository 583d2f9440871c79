"""A domain that was shut off is started, paused, for its commit; one that somebody else starts is his."""

from __future__ import annotations

import pytest

from fsm.errors import HostError
from fsm.hypervisor.simulated import Moment
from fsm.machine.observation import DomainState
from tests.lives import Life, Point
from tests.simulation import SOURCE, Simulation, check_end, simulate


async def expect_suspended(simulation: Simulation) -> None:
    """The user's guest is still there, as he has left it."""
    facts = await (await simulation.world.connect(SOURCE)).domain(simulation.uuid)
    assert facts is not None
    assert (facts.state, facts.reason) == (DomainState.PAUSED, "user")


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
    await expect_suspended(simulation)
    await check_end(simulation, result)


@pytest.mark.parametrize(
    "when", ["start", "start-and-suspend", Moment.COMMIT, "pivot", "between-two-engines"]
)
async def test_a_guest_that_its_user_lets_run_during_the_commit_is_never_stopped(when: str) -> None:
    """It is paused by libvirt's own word for both, the engine's start and the user's suspension."""
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.power_off_guest(uuid))

    def lives() -> None:
        if world.active_at(uuid):
            world.resume(SOURCE, uuid)
        else:
            world.start(SOURCE, uuid)
        if when != "start":
            world.pause(SOURCE, uuid)

    def hook(life: Life, point: Point) -> None:
        match when, point.moment, point.name:
            case "start" | "start-and-suspend", "calling", "start_paused":
                lives()
            case "start", "calling", "pivot":
                world.pause(SOURCE, uuid)
            case "pivot", "calling", "pivot":
                lives()
            case "between-two-engines", "called", "start_paused":
                life.kill()

    if isinstance(when, Moment):
        world.at_moment(uuid, when, lives)
    result = await Life(simulation, hook).run(None)
    if when == "between-two-engines":
        lives()
        (header,) = simulation.journal.headers()
        result = await Life(simulation).run(header.migration)
    assert result is not None
    assert result.state == "rolled-back"
    await expect_suspended(simulation)
    await check_end(simulation, result)
