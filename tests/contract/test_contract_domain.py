"""What a host tells of a domain; starting, stopping and removing it."""

from __future__ import annotations

import pytest

from fsm.errors import HostError, NotFound
from fsm.hypervisor import domain_xml
from fsm.machine.observation import DomainState, Job
from tests.contract.contract_rig import (
    KIB,
    MIB,
    Rig,
    RigDisk,
    committed,
    disk_of,
    facts_of,
    put_overlay,
    until,
)

NOBODY = "8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11"
DISKS = (
    RigDisk("vda"),
    RigDisk("vdb", format="raw", capacity_mib=4),
    RigDisk("vdc", read_only=True),
    RigDisk("hdc", format="raw", device="cdrom", read_only=True, path=""),
)


async def test_a_domain_is_found_by_name_and_by_uuid(rig: Rig) -> None:
    uuid = rig.domain("it's <web> & more")
    host = await rig.host(rig.source)
    assert await host.resolve("it's <web> & more") == uuid
    assert await host.resolve(uuid.upper()) == uuid
    for wrong in (NOBODY, "nobody", ""):
        with pytest.raises(NotFound):
            await host.resolve(wrong)


async def test_of_an_unknown_domain_there_is_nothing_to_tell(rig: Rig) -> None:
    host = await rig.host(rig.source)
    assert await host.domain(NOBODY) is None
    assert await host.migration_progress(NOBODY) is None
    for question in (host.domain_xml, host.persistent_xml, host.snapshots):
        with pytest.raises(NotFound):
            await question(NOBODY)


async def test_a_running_domain_and_its_disks(rig: Rig) -> None:
    uuid = rig.domain("web", DISKS)
    facts = await facts_of(await rig.host(rig.source), uuid)
    assert (facts.uuid, facts.name, facts.state) == (uuid, "web", DomainState.RUNNING)
    assert facts.persistent
    assert facts.job is Job.NONE
    assert (facts.snapshots, facts.current_snapshot, facts.disk_errors) == ((), None, ())
    assert not facts.backup_running
    vda, vdb, vdc, drive = (disk_of(facts, target) for target in ("vda", "vdb", "vdc", "hdc"))
    assert (vda.chain, vda.formats) == ((f"{rig.images}/web-vda.qcow2",), ("qcow2",))
    assert (vdb.chain, vdb.formats) == ((f"{rig.images}/web-vdb.raw",), ("raw",))
    assert (vda.read_only, vdc.read_only) == (False, True)
    assert (drive.device, drive.chain, drive.source) == ("cdrom", (), "")
    assert all(disk.block_job is None for disk in facts.disks)


async def test_a_shut_off_domain_tells_its_active_layers(rig: Rig) -> None:
    uuid = rig.domain("web", DISKS, running=False)
    facts = await facts_of(await rig.host(rig.source), uuid)
    assert facts.state is DomainState.SHUT_OFF
    assert disk_of(facts, "vda").chain == (f"{rig.images}/web-vda.qcow2",)


async def test_the_xml_describes_the_domain(rig: Rig) -> None:
    uuid = rig.domain("it's <web> & more", DISKS)
    host = await rig.host(rig.source)
    for xml in (await host.domain_xml(uuid), await host.persistent_xml(uuid)):
        assert domain_xml.name(xml) == "it's <web> & more"
        assert domain_xml.uuid(xml) == uuid
        assert [disk.target for disk in domain_xml.disks(xml)] == ["vda", "vdb", "vdc", "hdc"]


async def test_a_host_objects_to_a_machine_type_that_it_does_not_know(rig: Rig) -> None:
    uuid = rig.domain("web")
    source, destination = await rig.host(rig.source), await rig.host(rig.destination)
    xml = await source.domain_xml(uuid)
    assert await destination.objections(xml) == ()
    machine = domain_xml.platform(xml).machine
    assert machine
    objections = await destination.objections(xml.replace(machine, "pc-i440fx-99.0"))
    assert any("pc-i440fx-99.0" in objection for objection in objections)


async def test_starting_resuming_and_stopping_twice_is_like_once(rig: Rig) -> None:
    uuid = rig.domain("web", running=False)
    host = await rig.host(rig.source)
    await host.start_paused(uuid)
    await host.start_paused(uuid)
    facts = await facts_of(host, uuid)
    assert (facts.state, facts.reason) == (DomainState.PAUSED, "user")
    await host.resume(uuid)
    await host.resume(uuid)
    await host.start_paused(uuid)  # it has been started: nothing is left to do
    facts = await facts_of(host, uuid)
    assert (facts.state, facts.reason) == (DomainState.RUNNING, "unpaused")
    await host.destroy(uuid)
    await host.destroy(uuid)
    facts = await facts_of(host, uuid)
    assert (facts.state, facts.reason) == (DomainState.SHUT_OFF, "destroyed")


async def test_whether_a_guest_has_run_since_its_process_began(rig: Rig) -> None:
    """Also when it is suspended again; a commit of what it has written is none of its doing."""
    uuid = rig.domain("web", running=False)
    host = await rig.host(rig.source)
    assert not await host.has_run(uuid)
    assert not await host.has_run(NOBODY)
    await host.start_paused(uuid)
    overlay = await put_overlay(host, uuid)
    await committed(host, uuid, overlay)
    assert not await host.has_run(uuid)
    await host.resume(uuid)
    assert await until(lambda: host.has_run(uuid), bool)
    rig.pause(rig.source, uuid)
    rig.remove_file(rig.source, overlay.path)
    overlay = await put_overlay(host, uuid)
    assert await host.has_run(uuid)
    await committed(host, uuid, overlay)
    assert await host.has_run(uuid)
    await host.destroy(uuid)
    assert not await host.has_run(uuid)
    await host.start_paused(uuid)
    assert not await host.has_run(uuid)


async def test_a_domain_without_its_image_does_not_start(rig: Rig) -> None:
    uuid = rig.domain("web", running=False)
    host = await rig.host(rig.source)
    rig.remove_file(rig.source, f"{rig.images}/web-vda.qcow2")
    with pytest.raises(HostError):
        await host.start_paused(uuid)
    assert (await facts_of(host, uuid)).state is DomainState.SHUT_OFF


async def test_a_shut_off_domain_is_not_resumed(rig: Rig) -> None:
    uuid = rig.domain("web", running=False)
    host = await rig.host(rig.source)
    with pytest.raises(HostError):
        await host.resume(uuid)


async def test_what_is_done_to_an_unknown_domain(rig: Rig) -> None:
    host = await rig.host(rig.source)
    await host.destroy(NOBODY)
    await host.undefine(NOBODY)
    await host.abort_job(NOBODY)
    await host.limit_memory(NOBODY, 1)
    for change in (host.start_paused, host.resume):
        with pytest.raises(NotFound):
            await change(NOBODY)


async def test_a_definition_is_removed_only_when_the_domain_is_off(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    with pytest.raises(HostError):
        await host.undefine(uuid)
    assert (await facts_of(host, uuid)).persistent
    await host.destroy(uuid)
    await host.undefine(uuid)
    await host.undefine(uuid)
    assert await host.domain(uuid) is None
    assert rig.exists(rig.source, f"{rig.images}/web-vda.qcow2")


async def test_a_definition_goes_to_another_host(rig: Rig) -> None:
    uuid = rig.domain("web", running=False)
    source, destination = await rig.host(rig.source), await rig.host(rig.destination)
    xml = await source.persistent_xml(uuid)
    await destination.define(xml)
    facts = await facts_of(destination, uuid)
    assert (facts.name, facts.state, facts.persistent) == ("web", DomainState.SHUT_OFF, True)
    assert facts.managed_save is False
    with pytest.raises(HostError):
        await destination.define(xml)
    with pytest.raises(HostError):
        await destination.define(xml.replace(uuid, NOBODY))
    assert await destination.domain(NOBODY) is None


@pytest.mark.parametrize("there", [True, False], ids=["there", "missing"])
async def test_uefi_variables_are_made_by_a_start_and_removed_by_nothing(rig: Rig, *, there: bool) -> None:
    uuid = rig.domain("web", running=False)
    host = await rig.host(rig.source)
    code, template, variables = (f"{rig.images}/{name}.fd" for name in ("code", "template", "variables"))
    rig.put_file(rig.source, code, {0: b"code"}, MIB)
    rig.put_file(rig.source, template, {0: b"template"}, 128 * KIB)
    if there:
        rig.put_file(rig.source, variables, {0: b"variables"}, 128 * KIB)
    firmware = f"<loader readonly='yes' type='pflash'>{code}</loader>"
    firmware += f"<nvram template='{template}'>{variables}</nvram></os>"
    xml = (await host.persistent_xml(uuid)).replace("</os>", firmware)
    await host.undefine(uuid)
    await host.define(xml)
    await host.start_paused(uuid)
    content = rig.file_bytes(rig.source, variables)
    assert content.rstrip(b"\0") == (b"variables" if there else b"template")
    await host.destroy(uuid)
    await host.undefine(uuid)
    assert rig.file_bytes(rig.source, variables) == content


async def test_a_definition_with_snapshots_is_not_removed(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots={"s1": None}, running=False)
    host = await rig.host(rig.source)
    with pytest.raises(HostError):
        await host.undefine(uuid)
    assert (await facts_of(host, uuid)).snapshots == ("s1",)


@pytest.mark.parametrize(("end", "reason"), [("power_off", "shutdown"), ("kill_qemu", "crashed")])
async def test_a_domain_that_ends_by_itself_is_shut_off(rig: Rig, end: str, reason: str) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    getattr(rig, end)(rig.source, uuid)
    facts = await until(lambda: facts_of(host, uuid), lambda facts: facts.state is DomainState.SHUT_OFF)
    assert facts.reason == reason


async def test_a_paused_domain_says_who_paused_it(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    rig.pause(rig.source, uuid)
    facts = await facts_of(host, uuid)
    assert (facts.state, facts.reason) == (DomainState.PAUSED, "user")
