"""The operator who sets right whatever can be set right."""

from __future__ import annotations

from fsm.hypervisor.simulated import commit, domains, files, images
from fsm.hypervisor.simulated.state import HostState, Instance, WorldState
from tests.simulation import DESTINATION, IMAGES, SOURCE, Simulation

PLENTY_BYTES = 1 << 40
FOREIGN = f"{IMAGES}/an-operators-own.qcow2"


def mended(simulation: Simulation) -> None:
    """Every accident ends and the operator takes back what he did."""
    world, uuid = simulation.world, simulation.uuid
    world.faults.clear()
    world.clock.forget_alarms()
    world._moments.clear()
    world.mend(SOURCE, DESTINATION)
    for uri in (SOURCE, DESTINATION):
        host = world.state.hosts[uri]
        world.reconnect(uri)
        world.power_on(uri) if not host.powered else world.start_libvirtd(uri)
        world.set_free_bytes(uri, IMAGES, PLENTY_BYTES)
        if (instance := _instance(host, uuid)) is not None and instance.ghost:
            world.lay_ghost(uri, uuid)
        with world.changing() as state:
            _merge_foreign_layers(state, host, uuid)
    if simulation.second_at:
        _end_split_brain(simulation)


def _instance(host: HostState, uuid: str) -> Instance | None:
    record = host.domains.get(uuid)
    return record.instance if record else None


def _merge_foreign_layers(state: WorldState, host: HostState, uuid: str) -> None:
    """What ``virsh blockcommit`` would do."""
    if (record := host.domains.get(uuid)) is None or record.instance is None:
        return
    for disk in record.instance.disks.values():
        if disk.layers[0][0] != FOREIGN:
            continue
        top, below = disk.layers[:2]
        for block in images.blocks(files.existing(state, host, FOREIGN), "qcow2"):
            content = images.read_block(state, host, (top,), block)
            images.write_block(state, host, below, block, content)
        disk.layers = disk.layers[1:]
        commit.follow(record, disk.target, below)
        files.remove(state, host, FOREIGN)
        state.touch(host, uuid)


def _end_split_brain(simulation: Simulation) -> None:
    """The instance that the operator made is not the one that goes on."""
    world, uuid = simulation.world, simulation.uuid
    if len(world.active_at(uuid)) < 2:
        return
    world.destroy(simulation.second_at, uuid)
    if simulation.second_at == DESTINATION:
        with world.changing() as state:
            domains.undefine(state, state.hosts[DESTINATION], uuid)
