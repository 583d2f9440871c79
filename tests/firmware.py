"""A domain that is shut off and has UEFI variables, on simulated hosts."""

from __future__ import annotations

from fsm.hypervisor import domain_xml
from fsm.hypervisor.simulated import files
from fsm.machine.observation import DomainState
from tests.simulation import DESTINATION, SOURCE, Before, Simulation, simulate

PLACE = "/var/lib/libvirt/qemu/nvram"
VARIABLES, TEMPLATE = f"{PLACE}/web_VARS.fd", f"{PLACE}/template.fd"
CONTENT = b"variables" * 1000
NAMED = f"<nvram template='{TEMPLATE}'>{VARIABLES}</nvram></os>"


async def firm(nvram: str = NAMED, path: str = VARIABLES) -> Simulation:
    """A domain that is shut off, with variables at the source."""
    simulation = await simulate(state=DomainState.SHUT_OFF)
    world = simulation.world
    for uri in (SOURCE, DESTINATION):
        world.add_directory(uri, PLACE)
        world.put_file(uri, TEMPLATE, b"template")
    if path:
        world.put_file(SOURCE, path, CONTENT)
    described(simulation, "</os>", nvram)
    return simulation


def described(simulation: Simulation, old: str, new: str) -> None:
    """Somebody changes the domain's definition."""
    with simulation.world.changing() as state:
        record = state.hosts[SOURCE].domains[simulation.uuid]
        assert record.definition is not None
        changed = record.definition.replace(old, new)
        record.definition = domain_xml.serialize(domain_xml.parse(changed))
    simulation.before = Before.of(simulation.world, simulation.uuid)


def content(simulation: Simulation, uri: str, path: str = VARIABLES) -> bytes | None:
    """What the file holds on a host, None where it is not there."""
    with simulation.world.changing() as state:
        found = files.find(state, state.hosts[uri], path)
        return files.read(found, 0, found.size) if found is not None else None
