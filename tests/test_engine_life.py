"""The guest's own life goes on while it is migrated: whatever happens to it, in every state, ends right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
from attrs import frozen

from fsm.engine.transfer import RETURN_S
from fsm.errors import HostError
from fsm.hypervisor.simulated import Denied, Moment, SimulatedWorld
from fsm.hypervisor.simulated.host import SimulatedHost
from fsm.hypervisor.simulated.state import MigrationJob
from fsm.machine.observation import DomainState
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

IMAGES = "/var/lib/libvirt/images"

RUNS, PAUSED, CRASHED, OFF = (
    DomainState.RUNNING,
    DomainState.PAUSED,
    DomainState.CRASHED,
    DomainState.SHUT_OFF,
)


def _destroy(world: SimulatedWorld, uuid: str) -> None:
    for uri in world.running_at(uuid):
        world.destroy(uri, uuid)


def _suspend(world: SimulatedWorld, uuid: str) -> None:
    for uri in world.running_at(uuid):
        world.pause(uri, uuid)


def _suspend_and_resume(world: SimulatedWorld, uuid: str) -> None:
    for uri in world.running_at(uuid):
        world.pause(uri, uuid)
        with suppress(Denied):  # while it migrates, libvirt lets nobody resume it
            world.resume(uri, uuid)


@frozen
class Life:
    """Something that happens to a guest, and how it is afterwards."""

    happens: Callable[[SimulatedWorld, str], None]
    leads_to: DomainState
    ends_the_process: bool = False


LIVES = {
    "powers-off": Life(lambda world, uuid: world.power_off_guest(uuid), OFF, ends_the_process=True),
    "reboots": Life(lambda world, uuid: world.reboot_guest(uuid), RUNS),
    "crashes-destroyed": Life(lambda world, uuid: world.crash_guest(uuid, "destroy"), OFF),
    "crashes-preserved": Life(lambda world, uuid: world.crash_guest(uuid, "preserve"), CRASHED),
    "crashes-restarted": Life(lambda world, uuid: world.crash_guest(uuid, "restart"), RUNS),
    "is-destroyed": Life(_destroy, OFF, ends_the_process=True),
    "is-suspended": Life(_suspend, PAUSED),
    "is-suspended-and-resumed": Life(_suspend_and_resume, RUNS),
}


@frozen
class When:
    """A moment in a state, and where the domain may be at the end."""

    state: str
    at: str | Moment
    ends: tuple[str, ...]
    on: str | None = None
    way: str = ""
    libvirt_holds_it: bool = False
    """Its migration job runs: libvirt suspends for the job only, and does nothing about a crash."""


BACK_OR_THERE = ("rolled-back", "committed")
WHEN = {
    "planned": When("planned", "objections", ("refused", *BACK_OR_THERE)),
    "planned-and-passed": When("planned", "create_overlays", ("refused", *BACK_OR_THERE)),
    "snapshotted": When("snapshotted", "make_durable", BACK_OR_THERE),
    "transfer-prepared": When("snapshotted", "create_overlay", BACK_OR_THERE, DESTINATION),
    "transferring-disks": When("transferring", Moment.MIRROR, BACK_OR_THERE, libvirt_holds_it=True),
    "transferring-memory": When("transferring", Moment.MEMORY, BACK_OR_THERE, libvirt_holds_it=True),
    "transferring-arrived": When("transferring", Moment.CONFIRM, ("committed",)),
    "commit-begins-there": When("committing-dest", "start_commit", ("committed",), DESTINATION),
    "committing-there": When("committing-dest", Moment.COMMIT, ("committed",)),
    "commit-ready-there": When("committing-dest", Moment.COMMIT_READY, ("committed",)),
    "pivoting-there": When("committing-dest", "pivot", ("committed",), DESTINATION),
    "finishing-there": When("committing-dest", "define_snapshots", ("committed",), DESTINATION),
    "commit-begins-here": When("rolling-back-source", "start_commit", ("rolled-back",), SOURCE, "abort"),
    "committing-here": When("rolling-back-source", Moment.COMMIT, ("rolled-back",), way="abort"),
    "commit-ready-here": When("rolling-back-source", Moment.COMMIT_READY, ("rolled-back",), way="abort"),
    "pivoting-here": When("rolling-back-source", "pivot", ("rolled-back",), SOURCE, "abort"),
    "finishing-here": When("rolling-back-source", "define_snapshots", ("rolled-back",), SOURCE, "abort"),
}


async def home_of(simulation: Simulation) -> tuple[str, DomainState, str]:
    """Where the domain is, and how."""
    found = []
    for uri in (SOURCE, DESTINATION):
        facts = await (await simulation.world.connect(uri)).domain(simulation.uuid)
        if facts is not None:
            found.append((uri, facts.state, facts.reason))
    (only,) = found
    return only


async def check_life(simulation: Simulation, leads_to: DomainState) -> None:
    """The guest is as its own life has left it."""
    _, state, reason = await home_of(simulation)
    assert state is leads_to, reason
    if state is PAUSED:
        assert reason == "user"


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("when", WHEN)
async def test_whatever_happens_to_the_guest_ends_right(when: str, life: str) -> None:
    moment, lived = WHEN[when], LIVES[life]
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    seen: list[str] = []

    def happen() -> None:
        (header,) = simulation.engine.migrations()
        seen.append(header.state)
        assert world.running_at(uuid), "it runs, so that something can happen to it"
        lived.happens(world, uuid)

    handle = await simulation.start()
    if moment.way == "abort":
        world.at("make_durable", lambda: asyncio.get_running_loop().call_soon(handle.abort))
    if isinstance(moment.at, Moment):
        world.at_moment(uuid, moment.at, happen)
    else:
        world.at(moment.at, happen, host=moment.on)
    result = await handle.wait()
    assert seen == [moment.state]
    assert result.state in moment.ends, result
    passes = moment.libvirt_holds_it and not lived.ends_the_process
    await check_life(simulation, RUNS if passes else lived.leads_to)
    await check_end(simulation, result)


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("side", [SOURCE, DESTINATION])
async def test_whatever_happens_to_the_guest_in_stuck_ends_right(side: str, life: str) -> None:
    lived = LIVES[life]
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid

    def fill() -> None:
        simulation.write()
        world.set_free_bytes(side, IMAGES, 0)

    world.at("start_commit", fill, host=side)
    handle = await simulation.start()
    if side == SOURCE:
        world.at("make_durable", lambda: asyncio.get_running_loop().call_soon(handle.abort))
    stuck = await handle.wait()
    assert stuck.state == "stuck"
    world.set_free_bytes(side, IMAGES, 1 << 40)
    if not world.running_at(uuid):  # a write of its own has paused it; its user makes it run
        world.resume(side, uuid)
    lived.happens(world, uuid)
    await simulation.engine.ask(stuck.migration, "retry")
    result = await (await simulation.engine.resume(stuck.migration)).wait()
    assert result.state == ("rolled-back" if side == SOURCE else "committed")
    await check_life(simulation, lived.leads_to)
    await check_end(simulation, result)


_until_ended = SimulatedHost._until_ended  # the test's stand-in calls it


async def _returns_only_after_success(self: SimulatedHost, uuid: str, job: MigrationJob) -> None:
    """As libvirt 9.0 may do it when QEMU ends while memory moves."""
    try:
        await _until_ended(self, uuid, job)
    except HostError:
        await asyncio.Event().wait()


@pytest.mark.parametrize("happens", [SimulatedWorld.power_off_guest, _destroy])
async def test_a_guest_that_ended_is_not_waited_for_when_libvirts_call_does_not_return(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[SimulatedWorld, str], None]
) -> None:
    monkeypatch.setattr(SimulatedHost, "_until_ended", _returns_only_after_success)
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    ended_at_s = []

    def ends() -> None:
        ended_at_s.append(world.clock.monotonic_s())
        happens(world, uuid)

    world.at_moment(uuid, Moment.MEMORY, ends)
    result = await simulation.migrate()
    (error,) = [record.error for record in simulation.records if record.step == "activity" and record.error]
    assert "does not return" in error
    assert world.clock.monotonic_s() - ended_at_s[0] < RETURN_S + 10
    assert result.state == "rolled-back"
    await check_end(simulation, result)
