"""What an operator is told when a migration has left its way."""

from __future__ import annotations

from contextlib import suppress

import pytest
import structlog

from fsm.engine.causes import of_trigger, tells_more
from fsm.engine.engine import Engine
from fsm.engine.plan import Request
from fsm.errors import HostError
from fsm.hypervisor.simulated import GuestStopped, Moment
from fsm.machine.observation import Disk, Domain, DomainState, Host, Layer, Observation
from tests.simulation import DESTINATION, SOURCE, check_end, simulate

IMAGES = "/var/lib/libvirt/images"
REQUEST = Request("web", destination_uri="qemu+tcp://b/system", source_uri="qemu+tcp://a/system")
HERE = Host(reachable=True)
GONE = Host(reachable=False)
WAITING = Host(reachable=True, domain=Domain(DomainState.PAUSED, "starting-up"))


@pytest.mark.parametrize(
    ("trigger", "seen", "words"),
    [
        ("lose-sight", Observation(HERE, GONE), ("destination qemu+tcp://b", "--fenced destination")),
        ("lose-sight", Observation(GONE, HERE), ("source qemu+tcp://a", "--fenced source")),
        ("lose-sight", Observation(HERE, HERE), ("nothing has changed",)),
        ("lose-sight", Observation(HERE, WAITING), ("waits for a migration", "/run/libvirt/qemu")),
        ("find-split-brain", Observation(HERE, HERE), ("both hosts run", "fsm retry m1")),
        ("find-unexpected", Observation(HERE, HERE), ("neither host", "--recorded-xml")),
        ("abort", Observation(HERE, HERE), ("abort was asked for",)),
    ],
)
def test_each_way_into_trouble_has_its_words(trigger: str, seen: Observation, words: tuple[str, ...]) -> None:
    cause = of_trigger(trigger, seen, REQUEST, "m1")
    assert all(word in f"{cause.what}; {cause.remedy}" for word in words)


@pytest.mark.parametrize(
    ("trigger", "seen", "more"),
    [
        ("lose-sight", Observation(HERE, GONE), True),
        ("lose-sight", Observation(GONE, HERE), True),
        ("lose-sight", Observation(HERE, WAITING), True),
        ("lose-sight", Observation(HERE, HERE), False),
        ("find-split-brain", Observation(HERE, HERE), True),
        ("give-up", Observation(GONE, GONE), False),
    ],
)
def test_the_failed_steps_own_words_count_where_the_hosts_show_no_reason(
    trigger: str, seen: Observation, *, more: bool
) -> None:
    assert tells_more(trigger, seen) is more


def test_a_foreign_layer_is_named() -> None:
    disk = Disk("vdb", Layer.FOREIGN, ("/x.qcow2", "/vdb.qcow2"))
    seen = Observation(Host(reachable=True, domain=Domain(DomainState.RUNNING, disks=(disk,))), HERE)
    cause = of_trigger("find-unexpected", seen, REQUEST, "m1")
    assert "vdb" in cause.what
    assert "/x.qcow2 on /vdb.qcow2" in cause.what


async def test_a_full_file_system_is_named_with_what_to_do() -> None:
    simulation = await simulate()
    world = simulation.world

    def fill() -> None:
        simulation.write()
        world.set_free_bytes(DESTINATION, "/var/lib/libvirt/images", 0)

    world.at("start_commit", fill)
    result = await simulation.migrate()
    assert result.state == "stuck"
    assert "0 MiB free" in result.cause
    assert result.remedy.startswith("free space in /var/lib/libvirt/images")


async def test_an_unreachable_destination_is_named_with_both_ways_out() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.power_off(DESTINATION))
    result = await simulation.migrate()
    assert result.state == "stuck"
    assert DESTINATION in result.cause
    assert "--fenced destination" in result.remedy


@pytest.mark.parametrize(
    ("message", "models", "cause", "remedy"),
    [
        ("Could not reopen file: Permission denied", (), "QEMU may not write to a base", "web-vda.qcow2"),
        ("Operation not permitted", (), "QEMU may not write to a base", "let QEMU on"),
        (
            "Could not reopen file: Permission denied",
            ("apparmor",),
            "AppArmor confines",
            "AppArmor abstraction",
        ),
        ("No space left on device", (), "MiB free", "free space in /var/lib/libvirt/images"),
        ("unable to execute 'block-commit': Need a root block node", (), "kept a filter", "shut itself down"),
        ("something else", (), "something else", "look into libvirt's and QEMU's logs"),
    ],
)
async def test_what_libvirt_says_of_a_commit_is_explained(
    message: str, models: tuple[str, ...], cause: str, remedy: str
) -> None:
    simulation = await simulate()
    world = simulation.world
    world.state.hosts[DESTINATION].security_models = models
    error = HostError(message, host=DESTINATION, call="start_commit")
    world.fail("start_commit", host=DESTINATION, times=None, error=error)
    result = await simulation.migrate(accept=("apparmor",))
    assert result.state == "stuck"
    assert message in result.cause
    assert cause in result.cause
    assert "the guest's data is in the overlay" in result.cause
    assert remedy in result.remedy
    assert result.remedy.endswith(f"then: fsm retry {result.migration}")


async def test_cause_and_remedy_are_in_the_event_too() -> None:
    captured = structlog.testing.LogCapture()
    simulation = await simulate()
    world = simulation.world
    log = structlog.wrap_logger(None, [captured], structlog.BoundLogger)
    simulation.engine = Engine(simulation.journal, world, clock=world.clock, log=log)
    error = HostError("Permission denied", host=DESTINATION, call="start_commit")
    simulation.world.fail("start_commit", host=DESTINATION, times=None, error=error)
    result = await simulation.migrate()
    stuck = [entry for entry in captured.entries if entry.get("dest") == "stuck" and "data" in entry]
    assert stuck
    assert stuck[-1]["data"] == {"cause": result.cause, "remedy": result.remedy}


async def test_a_guest_paused_for_want_of_space_goes_on_as_soon_as_there_is_some() -> None:
    """Not only behind the commit: that may take long."""
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid

    def fill() -> None:
        simulation.write()
        world.set_free_bytes(DESTINATION, IMAGES, 0)

    world.at("start_commit", fill)
    stuck = await simulation.migrate()
    assert stuck.state == "stuck"
    for block in range(900, 1000):
        with suppress(GuestStopped):
            world.guest_write(uuid, "vda", block, b"more")
    assert world.running_at(uuid) == []
    await simulation.engine.ask(stuck.migration, "retry")
    again = await (await simulation.engine.resume(stuck.migration)).wait()
    assert (again.state, world.running_at(uuid)) == ("stuck", [])
    world.set_free_bytes(DESTINATION, IMAGES, 1 << 40)
    running: list[list[str]] = []
    world.at("start_commit", lambda: running.append(world.running_at(uuid)))
    await simulation.engine.ask(stuck.migration, "retry")
    result = await (await simulation.engine.resume(stuck.migration)).wait()
    assert result.state == "committed"
    assert running == [[DESTINATION]]
    await check_end(simulation, result)


async def test_what_is_coming_is_told_while_the_destination_commits() -> None:
    simulation = await simulate()
    world = simulation.world

    def tighten() -> None:
        simulation.write()
        world.set_free_bytes(DESTINATION, IMAGES, 1 << 20)

    world.at("start_commit", tighten, host=DESTINATION)
    result = await simulation.migrate()
    assert result.state == "committed"
    told = [r.data["warning"] for r in simulation.records if r.name == "space-short"]
    assert len(told) == 1
    assert f"{DESTINATION}: {IMAGES} would be full before the end" in told[0]


async def test_what_was_to_be_done_in_stuck_is_not_asked_for_at_the_end() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.take_snapshot(SOURCE, uuid, "theirs"))
    stuck = await simulation.migrate()
    assert "fsm rescue" in stuck.remedy
    await simulation.engine.ask(stuck.migration, "rescue")
    ended = await (await simulation.engine.resume(stuck.migration)).wait()
    assert (ended.state, ended.cause, ended.remedy) == ("rolled-back", stuck.cause, "")


async def test_stuck_is_tried_again_with_the_policys_jitter() -> None:
    """Thousands that got stuck together are not to come back together."""
    moments = []
    for spread in (-1.0, 1.0):
        simulation = await simulate()
        simulation.world.clock.spread = lambda spread=spread: spread  # type: ignore[method-assign]
        simulation.world.fail("start_commit", host=DESTINATION, times=None)
        result = await simulation.migrate()
        assert result.state == "stuck"
        moments.append(simulation.world.clock.monotonic_s())
    assert moments[0] < moments[1]
