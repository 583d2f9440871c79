"""Ways that a migration can take: together they go through every row of the machine, and a test checks that.

Each arranges what happens to the world. The operator of ``tests.mending`` sets it right.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from attrs import field, frozen

from fsm.engine.plan import Merge
from fsm.engine.space import MARGIN_LEAST_BYTES
from fsm.engine.space_watch import POLL_S
from fsm.errors import HostUnreachable
from fsm.hypervisor.simulated import Denied, Moment, domains
from fsm.machine.observation import DomainState
from tests.lives import Life
from tests.mending import FOREIGN
from tests.simulation import DESTINATION, IMAGES, PLACED, RENAMED, SOURCE, Simulation

Arrange = Callable[[Simulation, Life], None]


@frozen
class Scenario:
    """``request`` is what differs from the plain request, ``state`` the domain's before it."""

    arrange: Arrange
    request: dict[str, object] = field(factory=dict)
    state: DomainState = DomainState.RUNNING


SCENARIOS: dict[str, Scenario] = {}


def _scenario(state: DomainState = DomainState.RUNNING, **request: object) -> Callable[[Arrange], Arrange]:
    def add(arrange: Arrange) -> Arrange:
        SCENARIOS[arrange.__name__.replace("_", "-")] = Scenario(arrange, request, state)
        return arrange

    return add


def unreachable(host: str) -> Callable[[], BaseException]:
    """The error of a host that does not answer."""
    return lambda: HostUnreachable("gone", host=host, call="any")


@_scenario()
def plain(_simulation: Simulation, _life: Life) -> None:
    """Nothing happens."""


@_scenario(merge=Merge.MIRROR)
def merged_by_mirror(_simulation: Simulation, _life: Life) -> None:
    """Nothing happens, another way of merging."""


@_scenario(DomainState.SHUT_OFF)
def shut_off(_simulation: Simulation, _life: Life) -> None:
    """Nothing happens, to a domain that is shut off."""


@_scenario(disk_map=PLACED, destination_name=RENAMED)
def placed_and_renamed(_simulation: Simulation, _life: Life) -> None:
    """Nothing happens; the copies have other paths, and the domain another name."""


@_scenario(DomainState.SHUT_OFF, disk_map=PLACED, destination_name=RENAMED)
def shut_off_placed_and_renamed(_simulation: Simulation, _life: Life) -> None:
    """The same, to a domain that is shut off."""


@_scenario(disk_map=PLACED, destination_name=RENAMED)
def destination_qemu_killed_placed_and_renamed(simulation: Simulation, life: Life) -> None:
    destination_qemu_killed(simulation, life)


@_scenario(DomainState.SHUT_OFF)
def copies_of_one_that_is_shut_off_can_not_be_made(simulation: Simulation, _life: Life) -> None:
    simulation.world.fail("create_sparse")


@_scenario()
def preflight_refuses(simulation: Simulation, _life: Life) -> None:
    simulation.world.put_file(DESTINATION, f"{IMAGES}/web-vda.qcow2", b"somebody's")
    simulation.before.files[DESTINATION].append(f"{IMAGES}/web-vda.qcow2")


@_scenario()
def overlays_can_not_be_made(simulation: Simulation, _life: Life) -> None:
    simulation.world.fail("create_overlays")


@_scenario()
def files_of_copies_can_not_be_made(simulation: Simulation, _life: Life) -> None:
    simulation.world.fail("create_sparse", times=None)


@_scenario()
def copies_can_not_be_written(simulation: Simulation, _life: Life) -> None:
    simulation.world.fail("writer", times=None)


@_scenario()
def abort_while_copying(simulation: Simulation, life: Life) -> None:
    simulation.world.at("make_durable", life.abort)


@_scenario()
def guest_off_while_copying(simulation: Simulation, _life: Life) -> None:
    world = simulation.world
    world.at("make_durable", lambda: world.power_off_guest(simulation.uuid))


@_scenario()
def destination_gone_while_rolling_back(simulation: Simulation, _life: Life) -> None:
    """It answers again for the clean-up."""
    world = simulation.world
    world.fail("writer", times=None)
    gone = {"host": DESTINATION, "error": unreachable(DESTINATION)}
    for nth in (1, 2):
        world.at("pivot", lambda: world.fail("domain", **gone), nth=nth, when="after")


@_scenario()
def destination_qemu_killed(simulation: Simulation, _life: Life) -> None:
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.kill_qemu(DESTINATION, uuid))


@_scenario(merge=Merge.MIRROR)
def destination_qemu_killed_while_merging_by_mirror(simulation: Simulation, life: Life) -> None:
    destination_qemu_killed(simulation, life)


@_scenario()
def abort_while_memory_moves(simulation: Simulation, life: Life) -> None:
    simulation.world.at_moment(simulation.uuid, Moment.MEMORY, life.abort)


@_scenario()
def guest_off_while_migrating(simulation: Simulation, _life: Life) -> None:
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MIRROR, lambda: world.power_off_guest(uuid))


@_scenario()
def source_keeps_what_it_handed_over(simulation: Simulation, _life: Life) -> None:
    world = simulation.world
    world.at_moment(simulation.uuid, Moment.CONFIRM, lambda: world.restart_libvirtd(SOURCE))


@_scenario()
def destination_full(simulation: Simulation, _life: Life) -> None:
    world = simulation.world
    world.at("start_commit", lambda: world.set_free_bytes(DESTINATION, IMAGES, 0))


def _source_runs_short(simulation: Simulation) -> None:
    """Somebody takes space; the watch over it is due to look again."""
    world = simulation.world
    world.set_free_bytes(SOURCE, IMAGES, MARGIN_LEAST_BYTES // 2)
    world.clock.pass_until(world.clock.monotonic_s() + POLL_S)


@_scenario(bandwidth_mib_per_s=1)
def source_short_of_space_while_copying(simulation: Simulation, _life: Life) -> None:
    simulation.world.at("make_durable", lambda: _source_runs_short(simulation))


@_scenario(bandwidth_mib_per_s=1)
def source_short_of_space_while_migrating(simulation: Simulation, _life: Life) -> None:
    simulation.world.at_moment(simulation.uuid, Moment.MEMORY, lambda: _source_runs_short(simulation))


@_scenario()
def source_can_not_commit(simulation: Simulation, _life: Life) -> None:
    simulation.world.fail("writer", times=None)
    simulation.world.fail("start_commit", times=4)


@_scenario(bandwidth_mib_per_s=1)
def source_out_of_sight_while_migrating(simulation: Simulation, _life: Life) -> None:
    """The migration still runs when it can be seen again."""
    world = simulation.world
    world.at_moment(simulation.uuid, Moment.MEMORY, lambda: world.disconnect(SOURCE))


@_scenario()
def out_of_sight_when_handed_over(simulation: Simulation, _life: Life) -> None:
    world = simulation.world

    def happen() -> None:
        world.restart_libvirtd(SOURCE)
        world.disconnect(DESTINATION)

    world.at_moment(simulation.uuid, Moment.CONFIRM, happen)


@_scenario()
def source_out_of_sight_at_the_start(simulation: Simulation, _life: Life) -> None:
    simulation.world.at("create_overlays", lambda: simulation.world.disconnect(SOURCE))


@_scenario()
def source_out_of_sight_while_copying(simulation: Simulation, _life: Life) -> None:
    simulation.world.at("make_durable", lambda: simulation.world.disconnect(SOURCE))


@_scenario()
def source_out_of_sight_while_committing(simulation: Simulation, _life: Life) -> None:
    world = simulation.world
    world.at_moment(simulation.uuid, Moment.COMMIT, lambda: world.disconnect(SOURCE))


@_scenario()
def source_out_of_sight_while_rolling_back(simulation: Simulation, _life: Life) -> None:
    simulation.world.fail("writer", times=None)
    source_out_of_sight_while_committing(simulation, _life)


@_scenario()
def operator_resumes_what_was_handed_over(simulation: Simulation, _life: Life) -> None:
    world = simulation.world

    def happen() -> None:
        world.restart_libvirtd(SOURCE)
        simulation.second_at = SOURCE
        world.resume(SOURCE, simulation.uuid)

    world.at_moment(simulation.uuid, Moment.CONFIRM, happen)


@_scenario()
def operator_starts_it_at_the_source_again(simulation: Simulation, life: Life) -> None:
    world, uuid = simulation.world, simulation.uuid
    source_keeps_what_it_handed_over(simulation, life)
    world.at_moment(uuid, Moment.COMMIT, lambda: _start(simulation, SOURCE))


@_scenario()
def operator_starts_it_at_the_destination(simulation: Simulation, life: Life) -> None:
    world, uuid = simulation.world, simulation.uuid
    destination_qemu_killed(simulation, life)

    def happen() -> None:
        source, destination = world.state.hosts[SOURCE], world.state.hosts[DESTINATION]
        domains.define(world.state, destination, domains.persistent_xml(source, uuid))
        _start(simulation, DESTINATION)

    world.at("start_commit", happen)


def _operator_adds_a_layer(simulation: Simulation, host: str, call: str, nth: int = 1) -> None:
    world = simulation.world
    world.at(call, lambda: world.add_layer(host, simulation.uuid, "vda", FOREIGN), nth=nth)


@_scenario()
def operator_adds_a_layer_at_the_start(simulation: Simulation, _life: Life) -> None:
    _operator_adds_a_layer(simulation, SOURCE, "create_overlays")


@_scenario()
def operator_adds_a_layer_while_copying(simulation: Simulation, _life: Life) -> None:
    _operator_adds_a_layer(simulation, SOURCE, "make_durable")


@_scenario()
def operator_adds_a_layer_when_the_migration_failed(simulation: Simulation, life: Life) -> None:
    world, uuid = simulation.world, simulation.uuid
    destination_qemu_killed(simulation, life)
    world.at_moment(uuid, Moment.MEMORY, lambda: world.add_layer(SOURCE, uuid, "vda", FOREIGN))


@_scenario()
def operator_adds_a_layer_before_migrating(simulation: Simulation, _life: Life) -> None:
    _operator_adds_a_layer(simulation, SOURCE, "domain_xml", nth=3)


@_scenario()
def operator_adds_a_layer_before_committing(simulation: Simulation, _life: Life) -> None:
    _operator_adds_a_layer(simulation, DESTINATION, "start_commit")


@_scenario()
def operator_adds_a_layer_before_rolling_back(simulation: Simulation, _life: Life) -> None:
    simulation.world.fail("writer", times=None)
    _operator_adds_a_layer(simulation, SOURCE, "start_commit")


def _start(simulation: Simulation, host: str) -> None:
    simulation.second_at = host
    with suppress(Denied):  # what can't be started is not
        simulation.world.start(host, simulation.uuid)
