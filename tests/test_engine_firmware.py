"""UEFI variables of a running domain, on simulated hosts."""

from __future__ import annotations

from fsm.hypervisor.firmware_xml import variables_file
from tests.simulation import DESTINATION, SOURCE, Simulation, simulate


def described(simulation: Simulation, nvram: str) -> None:
    """Somebody gives the domain a file of UEFI variables, which is at the source alone."""
    with simulation.world.changing() as state:
        record = state.hosts[SOURCE].domains[simulation.uuid]
        assert record.definition is not None
        assert record.instance is not None
        record.definition = record.definition.replace("</os>", f"{nvram}</os>")
        record.instance.xml = record.instance.xml.replace("</os>", f"{nvram}</os>")


async def test_a_file_of_variables_need_not_be_there_before() -> None:
    simulation = await simulate()
    described(simulation, "<nvram template='/t.fd'>/v.fd</nvram>")
    for uri in (SOURCE, DESTINATION):
        simulation.world.put_file(uri, "/t.fd", b"template")
    result = await simulation.migrate()
    assert (result.state, result.findings) == ("committed", ())
    assert "<nvram" in await (await simulation.world.connect(DESTINATION)).persistent_xml(simulation.uuid)


async def test_variables_of_another_domain_are_not_overwritten_under_another_name() -> None:
    """Their file is called as the domain was, and so may be that of a domain that has this name there."""
    simulation = await simulate()
    described(simulation, "<nvram template='/t.fd'>/v.fd</nvram>")
    for uri in (SOURCE, DESTINATION):
        simulation.world.put_file(uri, "/t.fd", b"template")
    simulation.world.put_file(DESTINATION, "/v.fd", b"another's")
    result = await simulation.migrate(destination_name="mail")
    assert [(one.check, "/v.fd" in one.message) for one in result.findings] == [("path-taken", True)]


async def test_a_file_that_is_libvirts_choice_stays_the_domains_under_another_name() -> None:
    """libvirt 9.0 names it in what runs alone, and would look for one by the new name at the next start."""
    simulation = await simulate()
    named = "<nvram template='/t.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>"
    described(simulation, named)
    with simulation.world.changing() as state:
        record = state.hosts[SOURCE].domains[simulation.uuid]
        record.definition = (
            (record.definition or "").replace(named, "").replace("<os>", "<os firmware='efi'>")
        )
    for uri in (SOURCE, DESTINATION):
        simulation.world.put_file(uri, "/t.fd", b"template")
        simulation.world.add_directory(uri, "/var/lib/libvirt/qemu/nvram")
    result = await simulation.migrate(destination_name="mail")
    assert (result.state, result.findings) == ("committed", ())
    host = await simulation.world.connect(DESTINATION)
    files = [
        variables_file(xml)
        for xml in (await host.domain_xml(simulation.uuid), await host.persistent_xml(simulation.uuid))
    ]
    assert files == ["/var/lib/libvirt/qemu/nvram/web_VARS.fd"] * 2


async def test_snapshots_of_variables_are_not_lost_unseen() -> None:
    simulation = await simulate()
    described(simulation, "<nvram format='qcow2'>/v.fd</nvram>")
    result = await simulation.migrate()
    assert (result.state, [finding.check for finding in result.findings]) == ("refused", ["variable-store"])
    assert "/v.fd" in result.findings[0].message
