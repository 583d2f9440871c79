"""Faults and accidents of the simulated hypervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fsm.errors import HostError, HostUnreachable, OutcomeUnknown
from fsm.hypervisor.simulated import Denied, GuestStopped, Moment, Pace, SimulatedWorld
from fsm.hypervisor.values import Overlay
from fsm.machine.observation import DomainState, Job
from tests.simulated_hosts import IMAGES, A, B, facts_of, overlay_at, prepare, two_hosts


@pytest.fixture
def world() -> SimulatedWorld:
    return two_hosts()


async def test_a_call_fails_before_its_effect(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    host = await world.connect(A)
    point = world.fail("destroy", host=A, nth=2)
    await host.destroy("somebody else")
    with pytest.raises(HostError):
        await host.destroy(uuid)
    assert world.running_at(uuid) == [A]
    assert point.spent
    await host.destroy(uuid)
    assert world.running_at(uuid) == []
    assert [call.outcome for call in world.calls if call.name == "destroy"] == [
        "ok",
        f"{A}: a fault was injected",
        "ok",
    ]


async def test_a_call_loses_its_answer_after_its_effect(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    host = await world.connect(A)
    world.fail("destroy", when="after")
    with pytest.raises(OutcomeUnknown):
        await host.destroy(uuid)
    assert world.running_at(uuid) == []
    world.fail("domain", when="after")
    with pytest.raises(HostUnreachable):
        await host.domain(uuid)


async def test_a_fault_of_ones_own_and_for_good(world: SimulatedWorld) -> None:
    class Mine(BaseException):
        pass

    host = await world.connect(A)
    world.fail("identity", error=Mine, times=None)
    for _ in range(3):
        with pytest.raises(Mine):
            await host.identity()
    world.faults.clear()
    await host.identity()


async def test_a_misspelt_call_is_refused(world: SimulatedWorld) -> None:
    with pytest.raises(LookupError, match="pivto"):
        world.fail("pivto")
    with pytest.raises(LookupError, match="during"):
        world.fail("pivot", when="during")


async def test_something_happens_at_a_call(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    host = await world.connect(A)
    world.at("resume", lambda: world.power_off_guest(uuid), host=A)
    with pytest.raises(HostError, match="not running"):
        await host.resume(uuid)
    world.at("identity", lambda: world.disconnect(A), when="after")
    with pytest.raises(HostUnreachable):
        await host.identity()


async def test_the_caller_of_a_migration_is_cut_off_and_it_goes_on(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    _, request = await prepare(world, uuid)
    world.guest_write(uuid, "vda", 5, b"on the way")
    world.fail("migrate", when="during")
    source = await world.connect(A)
    with pytest.raises(OutcomeUnknown):
        await source.migrate(uuid, request)
    assert (await facts_of(source, uuid)).job is Job.MIGRATION_OUT
    for _ in range(50):
        if await source.domain(uuid) is None:
            break
    assert world.running_at(uuid) == [B]
    assert world.lost_writes(uuid) == []


MOMENTS = [Moment.MIRROR, Moment.MEMORY, Moment.SWITCH, Moment.CONFIRM]
Accident = Callable[[SimulatedWorld, str], object]
ACCIDENTS: dict[str, Accident] = {
    "destination QEMU": lambda world, uuid: world.kill_qemu(B, uuid),
    "source QEMU": lambda world, uuid: world.kill_qemu(A, uuid),
    "destination libvirtd": lambda world, _: world.restart_libvirtd(B),
    "source libvirtd": lambda world, _: world.restart_libvirtd(A),
    "link": lambda world, _: world.cut(A, B),
    "destination host": lambda world, _: world.power_off(B),
    "abort": lambda world, uuid: world.abort_job(A, uuid),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("accident", ACCIDENTS)
async def test_never_two_and_never_a_lost_write(world: SimulatedWorld, moment: Moment, accident: str) -> None:
    uuid = world.add_domain(A, "web")
    _, request = await prepare(world, uuid)
    world.guest_write(uuid, "vda", 5, b"before")

    def happens() -> None:
        try:
            ACCIDENTS[accident](world, uuid)
        except Denied:
            assert moment is Moment.CONFIRM, "too late to abort"

    world.at_moment(uuid, moment, happens)
    try:
        await (await world.connect(A)).migrate(uuid, request)
        ended = True
    except HostError:
        ended = False
    assert len(world.running_at(uuid)) <= 1
    handed_over = moment is Moment.CONFIRM
    homes = [B] if handed_over else [A]
    assert ended == (handed_over and accident in ("abort", "destination QEMU")), accident
    assert world.lost_writes(uuid, at=homes[0]) == []
    other = A if handed_over else B
    record = world.state.hosts[other].domains.get(uuid)
    assert record is None or record.instance is None or record.instance.reason == "migration"
    assert world.state.jobs == {}


async def test_a_link_that_comes_back_in_time_does_no_harm(world: SimulatedWorld) -> None:
    world.pace = Pace.MANUAL
    uuid = world.add_domain(A, "web")
    _, request = await prepare(world, uuid)
    task = asyncio.create_task((await world.connect(A)).migrate(uuid, request))
    for _ in range(5):
        await asyncio.sleep(0)
    world.cut(A, B)
    world.tick(3)
    world.mend(A, B)
    world.tick(20)
    await task
    assert world.running_at(uuid) == [B]


async def test_a_host_without_power_has_no_running_domain_but_all_its_files(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    await overlay_at(world, A, uuid)
    world.guest_write(uuid, "vda", 3, b"x")
    files = world.files(A)
    host = await world.connect(A)
    world.power_off(A)
    with pytest.raises(HostUnreachable):
        await host.domain(uuid)
    world.power_on(A)
    assert (await facts_of(host, uuid)).state is DomainState.SHUT_OFF
    assert world.files(A) == files
    world.start(A, uuid)
    assert world.lost_writes(uuid) == []


async def test_a_ghost_at_the_destination_stays_until_the_operator_lays_it(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    _, request = await prepare(world, uuid)
    world.at_moment(uuid, Moment.MIRROR, lambda: world.leave_ghost(B, uuid))
    with pytest.raises(HostError, match="socket"):
        await (await world.connect(A)).migrate(uuid, request)
    assert world.running_at(uuid) == [A]
    destination = await world.connect(B)
    world.restart_libvirtd(B)
    facts = await facts_of(destination, uuid)
    assert (facts.state, facts.reason, facts.job) == (DomainState.PAUSED, "starting-up", Job.MIGRATION_IN)
    with pytest.raises(HostError, match="lock"):
        await destination.destroy(uuid)
    world.lay_ghost(B, uuid)
    assert await destination.domain(uuid) is None
    await (await world.connect(A)).migrate(uuid, request)
    assert world.running_at(uuid) == [B]


async def test_a_crashed_guest_still_has_its_process(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    host = await world.connect(A)
    world.crash_guest(uuid)
    assert (await facts_of(host, uuid)).state is DomainState.CRASHED
    with pytest.raises(GuestStopped):
        world.guest_write(uuid, "vda", 1)
    with pytest.raises(HostError):
        await host.resume(uuid)
    await host.destroy(uuid)
    assert (await facts_of(host, uuid)).state is DomainState.SHUT_OFF


async def test_a_transient_domain_vanishes_when_it_ends(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web", persistent=False)
    host = await world.connect(A)
    assert not (await facts_of(host, uuid)).persistent
    world.power_off_guest(uuid)
    assert await host.domain(uuid) is None


async def test_a_migrating_domain_is_left_alone_by_everybody_else(world: SimulatedWorld) -> None:
    world.pace = Pace.MANUAL
    uuid = world.add_domain(A, "web", snapshots={"s1": None})
    source, destination = await world.connect(A), await world.connect(B)
    saved = await source.snapshots(uuid)
    overlay, request = await prepare(world, uuid)
    task = asyncio.create_task(source.migrate(uuid, request))
    for _ in range(5):
        await asyncio.sleep(0)
    changes: list[Awaitable[None]] = [
        source.define_snapshots(uuid, saved),
        source.start_commit(uuid, overlay),
        source.create_overlays(uuid, [Overlay("vda", f"{IMAGES}/more", overlay.path, "qcow2")]),
        source.migrate(uuid, request),
        destination.resume(uuid),
    ]
    for change in changes:
        with pytest.raises(HostError):
            await change
    assert (await facts_of(destination, uuid)).job is Job.MIGRATION_IN
    await destination.destroy(uuid)
    with pytest.raises(HostError):
        await task
    assert world.running_at(uuid) == [A]
    assert await destination.domain(uuid) is None
