"""UEFI variables of a running domain, on simulated hosts."""

from __future__ import annotations

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


async def test_snapshots_of_variables_are_not_lost_unseen() -> None:
    simulation = await simulate()
    described(simulation, "<nvram format='qcow2'>/v.fd</nvram>")
    result = await simulation.migrate()
    assert (result.state, [finding.check for finding in result.findings]) == ("refused", ["variable-store"])
    assert "/v.fd" in result.findings[0].message
