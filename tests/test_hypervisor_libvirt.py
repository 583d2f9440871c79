"""Domains, snapshots and block jobs on a real libvirtd; the guests are paused and boot nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from fsm.errors import BadInput, HostError, HostUnreachable, NotFound
from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import SnapshotMetadata
from fsm.lab import Lab, LabHost
from fsm.machine.observation import DomainState, Job
from tests.lab_rig import NEEDS_LAB
from tests.libvirt_helpers import IMAGES, NAME, facts_of, overlays, remove, take

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.libvirt_fixtures"]

NOBODY = "6f1b0f6e-3a43-4c11-8a2c-0d6c1d6f7a11"


# Hosts


async def test_identity(host: Host, lab: Lab) -> None:
    mine = await host.identity()
    assert mine.hostname == "alpha"
    assert mine.libvirt_version >= (9, 0, 0)
    assert mine.hypervisor_version >= (7, 2, 0)
    assert "dac" in mine.security_models
    other = await LibvirtConnector().connect(lab.hosts[1].uri)
    assert (await other.identity()).uuid != mine.uuid
    await other.close()


@pytest.mark.parametrize(
    "uri",
    ["", " ", "nonsense", "http://host/", "qemu+pigeon:///system", "qemu://[::1/system", "test:///default"],
)
async def test_malformed_uris(uri: str) -> None:
    with pytest.raises(BadInput, match="URI"):
        await LibvirtConnector().connect(uri)
    with pytest.raises(BadInput, match="URI"):
        LibvirtConnector().open_channel(uri)


async def test_a_path_that_qemu_does_not_know(alpha: LabHost) -> None:
    with pytest.raises(BadInput, match="nonsense"):
        await LibvirtConnector().connect(alpha.uri.replace("/system", "/nonsense"))


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+tcp://127.0.0.1:9/system",
        "qemu+tcp://no-such-host.invalid/system",
        "qemu+unix:///system?socket=/no/such/socket",
    ],
)
async def test_unreachable_hosts(uri: str) -> None:
    with pytest.raises(HostUnreachable) as caught:
        await LibvirtConnector().connect(uri)
    assert caught.value.host == uri
    assert caught.value.remedy


async def test_passwords_stay_out_of_messages() -> None:
    with pytest.raises(HostUnreachable) as caught:
        await LibvirtConnector().connect("qemu+tcp://me:secret@127.0.0.1:9/system")
    assert caught.value.host == "qemu+tcp://me@127.0.0.1:9/system"
    assert "secret" not in str(caught.value)


# Reading


async def test_resolve(host: Host, uuid: str) -> None:
    assert await host.resolve(NAME) == uuid
    assert await host.resolve(uuid.upper()) == uuid
    for unknown in ("none", "", NOBODY):
        with pytest.raises(NotFound, match="there is no domain") as caught:
            await host.resolve(unknown)
        assert "virsh" in caught.value.remedy


async def test_a_whole_domain(alpha: LabHost, host: Host, uuid: str) -> None:
    take(alpha, "s1")
    take(alpha, "s 2 & <x>")
    facts = await facts_of(host, uuid)
    assert (facts.uuid, facts.name) == (uuid, NAME)
    assert (facts.state, facts.reason, facts.job) == (DomainState.PAUSED, "user", Job.NONE)
    assert facts.persistent
    assert [disk.target for disk in facts.disks] == ["vda", "vdb", "hda", "hdb"]
    assert facts.disks[0].chain == (f"{IMAGES}/a b & <c>.qcow2",)
    assert facts.disks[0].formats == ("qcow2",)
    assert facts.disks[2].read_only
    assert facts.disks[3].chain == ()
    assert set(facts.snapshots) == {"s1", "s 2 & <x>"}
    assert facts.current_snapshot == "s 2 & <x>"
    assert (facts.disk_errors, facts.backup_running, facts.checkpoints) == ((), False, ())


async def test_states(alpha: LabHost, host: Host, uuid: str) -> None:
    await host.resume(uuid)
    await host.resume(uuid)
    facts = await facts_of(host, uuid)
    assert (facts.state, facts.reason) == (DomainState.RUNNING, "unpaused")
    await host.destroy(uuid)
    await host.destroy(uuid)
    facts = await facts_of(host, uuid)
    assert (facts.state, facts.reason) == (DomainState.SHUT_OFF, "destroyed")
    await host.start_paused(uuid)
    await host.start_paused(uuid)
    assert (await facts_of(host, uuid)).state is DomainState.PAUSED
    await host.resume(uuid)
    assert (await facts_of(host, uuid)).state is DomainState.RUNNING
    alpha.kill_qemu(NAME)
    facts = await facts_of(host, uuid)
    while facts.state is not DomainState.SHUT_OFF:
        facts = await facts_of(host, uuid)
    assert facts.reason == "crashed"


async def test_a_domain_that_does_not_exist(host: Host) -> None:
    assert await host.domain(NOBODY) is None
    assert await host.migration_progress(NOBODY) is None
    for call in (
        host.domain_xml(NOBODY),
        host.persistent_xml(NOBODY),
        host.snapshots(NOBODY),
        host.forget_snapshots(NOBODY, ["s1"]),
        host.start_paused(NOBODY),
        host.resume(NOBODY),
        host.pivot(NOBODY, "vda"),
    ):
        with pytest.raises(NotFound):
            await call
    await host.destroy(NOBODY)
    await host.undefine(NOBODY)
    await host.abort_job(NOBODY)


async def test_a_domain_that_comes_and_goes_is_never_half_read(alpha: LabHost, host: Host, uuid: str) -> None:
    done = asyncio.Event()

    async def stir() -> None:
        for _ in range(6):
            await host.destroy(uuid)
            await host.start_paused(uuid)
        await asyncio.to_thread(remove, alpha, NAME)
        done.set()

    task = asyncio.create_task(stir())
    while not done.is_set():
        try:
            facts = await host.domain(uuid)
        except HostUnreachable as error:
            assert "changed each time" in str(error)  # noqa: PT017 - no answer is better than half of one
            continue
        if facts is not None and facts.state is DomainState.SHUT_OFF:
            assert all(len(disk.chain) <= 1 and disk.block_job is None for disk in facts.disks)
    await task
    assert await host.domain(uuid) is None


async def test_xml(host: Host, uuid: str) -> None:
    live, defined = await host.domain_xml(uuid), await host.persistent_xml(uuid)
    assert domain_xml.uuid(live) == domain_xml.uuid(defined) == uuid
    assert domain_xml.name(live) == NAME
    await host.create_overlays(uuid, await overlays(host, uuid))
    moved = domain_xml.with_disk_sources(await host.domain_xml(uuid), {"vda": ("/x & <y>", "qcow2")})
    assert domain_xml.disks(moved)[0].chain == ("/x & <y>",)
    assert len(domain_xml.disks(moved)[1].chain) == 2


async def test_undefine(alpha: LabHost, host: Host, uuid: str) -> None:
    with pytest.raises(HostError, match="is active"):
        await host.undefine(uuid)
    take(alpha, "s1")
    await host.destroy(uuid)
    with pytest.raises(HostError, match="1 snapshots"):
        await host.undefine(uuid)
    await host.forget_snapshots(uuid, ["s1"])
    await host.undefine(uuid)
    await host.undefine(uuid)
    assert await host.domain(uuid) is None


# What a host can run


async def test_no_objections_to_its_own_domains(host: Host, uuid: str) -> None:
    for xml in (await host.domain_xml(uuid), await host.persistent_xml(uuid)):
        assert await host.objections(xml) == ()


def checked_cpu(xml: str, model: str) -> str:
    """A guest CPU that libvirt checks at the start; it adds the default one without a check."""
    cpu = f"<cpu mode='custom' match='exact' check='partial'><model>{model}</model></cpu>"
    return re.sub(r"<cpu .*</cpu>", cpu, xml, flags=re.DOTALL)


async def test_a_cpu_that_the_host_has(host: Host, uuid: str) -> None:
    assert await host.objections(checked_cpu(await host.domain_xml(uuid), "qemu64")) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda xml: re.sub(r"machine='[^']*'", "machine='pc-i440fx-99'", xml), "pc-i440fx-99"),
        (lambda xml: re.sub(r"(<emulator>)[^<]*", r"\1/no/qemu", xml), "/no/qemu"),
        (lambda xml: xml.replace("x86_64'", "s390x'"), "s390x"),
        (lambda xml: xml.replace("type='qemu'", "type='xen'"), "xen"),
        (lambda xml: checked_cpu(xml, "Skylake-Server"), "CPU"),
        (lambda xml: checked_cpu(xml, "Bogus"), "Bogus"),
    ],
)
async def test_objections(host: Host, uuid: str, change: Callable[[str], str], words: str) -> None:
    xml = await host.domain_xml(uuid)
    assert change(xml) != xml
    (objection,) = await host.objections(change(xml))
    assert words in objection


@pytest.mark.parametrize("cpu", ["<cpu mode='host-passthrough'/>", "<cpu mode='maximum'/>", ""])
async def test_cpus_that_are_taken_from_the_host(host: Host, uuid: str, cpu: str) -> None:
    xml = re.sub(r"<cpu .*</cpu>", cpu, await host.domain_xml(uuid), flags=re.DOTALL)
    assert await host.objections(xml) == ()


# Snapshot metadata


async def tree(alpha: LabHost, host: Host, uuid: str) -> tuple[SnapshotMetadata, ...]:
    take(alpha, "s1", "the first & <only>")
    take(alpha, "s2", "zwei")
    alpha.virsh("snapshot-revert", "--domain", NAME, "--snapshotname", "s1", "--paused")
    take(alpha, "s 3", "line one\nline two")
    take(alpha, "s4")
    alpha.virsh("snapshot-revert", "--domain", NAME, "--snapshotname", "s2", "--paused")
    return await host.snapshots(uuid)


async def test_a_tree_of_snapshots(alpha: LabHost, host: Host, uuid: str) -> None:
    found = await tree(alpha, host, uuid)
    parents = {snapshot.name: snapshot.parent for snapshot in found}
    assert parents == {"s1": None, "s2": "s1", "s 3": "s1", "s4": "s 3"}
    # Siblings taken in one second have no order among them: libvirt's creation time has no fractions.
    names = [snapshot.name for snapshot in found]
    assert all(names.index(parent) < names.index(name) for name, parent in parents.items() if parent)
    assert [snapshot.name for snapshot in found if snapshot.current] == ["s2"]
    assert not any(snapshot.external for snapshot in found)


async def test_metadata_goes_and_comes_back_as_it_was(alpha: LabHost, host: Host, uuid: str) -> None:
    before = await tree(alpha, host, uuid)
    names = [snapshot.name for snapshot in before]
    table = alpha.run(["qemu-img", "snapshot", "-U", "-l", f"{IMAGES}/it's.qcow2"])
    await host.forget_snapshots(uuid, names[1:2])
    assert [snapshot.name for snapshot in await host.snapshots(uuid)] == [names[0], *names[2:]]
    await host.forget_snapshots(uuid, names)
    await host.forget_snapshots(uuid, names)
    facts = await facts_of(host, uuid)
    assert (facts.snapshots, facts.current_snapshot) == ((), None)
    await host.define_snapshots(uuid, before[:2])  # as if it had been interrupted
    await host.define_snapshots(uuid, before)
    await host.define_snapshots(uuid, before)
    assert await host.snapshots(uuid) == before
    assert alpha.run(["qemu-img", "snapshot", "-U", "-l", f"{IMAGES}/it's.qcow2"]) == table
    alpha.virsh("snapshot-revert", "--domain", NAME, "--snapshotname", "s4", "--paused")


async def test_no_snapshot_is_current(alpha: LabHost, host: Host, uuid: str) -> None:
    before = await tree(alpha, host, uuid)
    alpha.virsh("snapshot-delete", "--domain", NAME, "--snapshotname", "s2", "--metadata")
    before = await host.snapshots(uuid)
    await host.forget_snapshots(uuid, [snapshot.name for snapshot in before])
    await host.define_snapshots(uuid, before)
    assert await host.snapshots(uuid) == before


async def test_external_snapshots_are_told(alpha: LabHost, host: Host, uuid: str) -> None:
    take(alpha, "internal")
    alpha.virsh("snapshot-create-as", "--domain", NAME, "--name", "external", "--disk-only")
    found = {snapshot.name: snapshot.external for snapshot in await host.snapshots(uuid)}
    assert found == {"internal": False, "external": True}


# Watching


async def test_watches(host: Host, uuid: str) -> None:
    mine, other = host.watch(uuid), host.watch(NOBODY)
    assert not await mine.changed(0.05)
    await host.resume(uuid)
    assert await mine.changed(5)
    assert not await other.changed(0.05)
    await host.destroy(uuid)
    assert await mine.changed(5)
    mine.close()
    mine.close()
    await host.start_paused(uuid)
    other.close()
