"""Somebody takes snapshots with plain virsh, or resizes, while the overlays exist; on two real hosts."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import libvirt
import pytest
from attrs import evolve
from lxml import etree

from fsm.engine.history import fold
from fsm.errors import OperationBlocked
from fsm.hypervisor.libvirt import GuardedDomain
from fsm.journal.sql import open_journal
from fsm.lab import IMAGES, DiskSpec, GuestSpec, LabHost, SnapshotSpec
from fsm.lab.errors import LabError
from fsm.lab.guest import Guest
from fsm.lab.process import wait_until
from fsm.lab.spec import serial_path
from tests.faults.scene import copying, memory_moves
from tests.lab_definitions import disk_of, part_of
from tests.lab_rig import (
    NEEDS_LAB,
    Before,
    Event,
    Rig,
    check_kept,
    domains,
    files,
    look,
    look_at_hosts,
    watched,
)

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK, BLOCKED = 0, 3, 6
WEB = GuestSpec(
    name="web",
    disks=(DiskSpec(target="vda", size_mib=48, data_mib=16), DiskSpec(target="vdb", size_mib=16, data_mib=4)),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
    live_snapshots=False,
)
SLOW = ("--bandwidth", "16", "--merge", "commit")
TARGETS = [disk.target for disk in WEB.disks]


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.lab.define_guest(rig.alpha, WEB)
    return rig


@pytest.fixture(scope="module")
def first_look(rig: Rig) -> Before:
    return look(rig, rig.alpha, WEB)


@pytest.fixture
def before(rig: Rig, first_look: Before) -> Before:
    home(rig)
    return evolve(first_look, hosts=look_at_hosts(rig))


def home(rig: Rig) -> LabHost:
    at = next(host for host in rig.lab.hosts if WEB.name in domains(host))
    rig.remove_images(rig.other(at), WEB)
    return at


def runs_at(host: LabHost) -> bool:
    return WEB.name in domains(host) and Guest(host, WEB.name).state == "running"


def take(host: LabHost, name: str = "theirs") -> None:
    host.virsh("snapshot-create-as", "--domain", WEB.name, "--name", name)


def is_stuck(event: Event) -> bool:
    return event["event"] == "record" and event["dest"] == "stuck" and event["phase"] == "outcome"


def stuck(rig: Rig, source: LabHost, moment: Callable[[Event], bool], at: LabHost) -> str:
    """Take a snapshot at a moment of a migration, which must then be stuck and say why; its id."""
    with rig.migrating(WEB.name, source, *SLOW) as running:
        assert running.until(moment), running.events[-5:]
        # Behind the arrival there is no time left for a snapshot before the commit, unless the engine sleeps.
        running.send(signal.SIGSTOP)
        if at is not source:  # nobody gives the memory what the disks leave over, and the lease runs out
            source.virsh("migrate-setspeed", "--domain", WEB.name, "--bandwidth", "1000")
        wait_until(lambda: runs_at(at), timeout=60, what="the guest to run there")
        take(at)
        running.send(signal.SIGCONT)
        assert running.until(is_stuck), running.errors.read_text() + str(running.events[-5:])
        running.send(signal.SIGTERM)  # nothing happens by itself any more: it only waits for the operator
        running.finish()
    (migration,) = rig.unfinished()
    shown = rig.fsm("show", migration).stdout
    assert "'theirs'" in shown
    assert f"fsm rescue {migration}" in shown
    assert f"fsm retry {migration} --accept-loss theirs" in shown
    for target in TARGETS:
        overlay = f"{IMAGES}/web-{target}.qcow2.fsm-{migration}"
        assert "theirs" in at.run(["qemu-img", "snapshot", "-l", "-U", overlay]), "nothing was committed"
    return migration


def view(host: LabHost, path: str, name: str) -> str:
    """The digest of a disk as a snapshot has it."""
    convert = f"qemu-img convert -U -l snapshot.name={name} -O raw '{path}' /tmp/view.raw"
    digest = host.run(["sh", "-c", f"{convert} && sha256sum < /tmp/view.raw; rm -f /tmp/view.raw"])
    assert len(digest.split()[0]) == 64, digest
    return digest


def image_of(host: LabHost, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run(["qemu-img", "info", "-U", "--output=json", path]))
    return found


@pytest.mark.parametrize("way", ["accept-loss", "rescue"])
@pytest.mark.parametrize("moment", [copying, memory_moves], ids=["copy", "commit"])
def test_a_snapshot_with_plain_virsh(
    rig: Rig, before: Before, moment: Callable[[Event], bool], way: str
) -> None:
    source = home(rig)
    at = source if moment is copying else rig.other(source)
    with watched(rig, WEB) as watch:
        migration = stuck(rig, source, moment, at)
        overlays = {target: f"{IMAGES}/web-{target}.qcow2.fsm-{migration}" for target in TARGETS}
        expected = {target: view(at, path, "theirs") for target, path in overlays.items()}
        held = image_of(at, overlays["vda"])["snapshots"][0]
        Guest(at, WEB.name, WEB).wait_for_writes()
        if way == "rescue":
            ended = rig.fsm("rescue", migration)
        else:
            ended = rig.fsm("retry", migration, "--accept-loss", "theirs")
    assert ended.returncode == (ROLLED_BACK if at is source else COMMITTED), ended.stderr
    saved = {target: f"{IMAGES}/web-{target}.qcow2.rescued-theirs" for target in TARGETS}
    if way == "rescue":
        check_saved(at, saved, expected, held)
        check_usable(rig, at, migration, saved)
        shown = rig.fsm("show", migration).stdout
        for path in saved.values():
            assert path in shown
            assert path in ended.stdout
            at.path(path).unlink()
    assert [path for path in files(at) if "rescued" in path] == []
    assert "theirs" not in at.virsh("snapshot-list", "--domain", WEB.name)
    check_kept(rig, WEB, before, at, watch.acks)


def check_saved(at: LabHost, saved: dict[str, str], expected: dict[str, str], held: dict[str, Any]) -> None:
    """Each image holds the snapshot, content and saved memory, and needs no other file."""
    for target, path in saved.items():
        info = image_of(at, path)
        (snapshot,) = info["snapshots"]
        assert snapshot["name"] == "theirs"
        assert "backing-filename" not in info
        assert "No errors were found" in at.run(["qemu-img", "check", path])
        assert view(at, path, "theirs") == expected[target]
    assert image_of(at, saved["vda"])["snapshots"][0]["vm-state-size"] == held["vm-state-size"] > 0


def check_usable(rig: Rig, at: LabHost, migration: str, saved: dict[str, str]) -> None:
    """A domain with these disks goes on from the snapshot: QEMU loads its memory and the guest writes."""
    journal = open_journal(rig.journal)
    (rescued,) = fold("planned", journal.records(migration)).rescued
    journal.close()
    root = etree.fromstring(rescued.xml)
    part_of(root, "disks").clear()
    for described in (*root.iterfind("domain"), *root.iterfind("inactiveDomain")):
        part_of(described, "name").text = "saved"
        part_of(described, "uuid").text = str(uuid4())
        for target, path in saved.items():
            source = disk_of(described, target).find("source")
            assert source is not None
            source.set("file", path)
            for chain in disk_of(described, target).findall("backingStore"):
                disk_of(described, target).remove(chain)
        for metadata in described.findall("metadata"):
            described.remove(metadata)
        for log in described.iterfind("devices/serial/source"):
            log.set("path", serial_path("saved"))
    (domain, *others) = [*root.iterfind("domain"), *root.iterfind("inactiveDomain")]
    for other in others:
        part_of(other, "uuid").text = part_of(domain, "uuid").text
    for disk in TARGETS:
        etree.SubElement(part_of(root, "disks"), "disk", name=disk, snapshot="internal")
    for parent in root.findall("parent"):
        root.remove(parent)
    at.virsh("define", "/dev/stdin", stdin=etree.tostring(domain, encoding="unicode"))
    try:
        xml = etree.tostring(root, encoding="unicode")
        at.virsh("snapshot-create", "saved", "/dev/stdin", "--redefine", stdin=xml)
        at.virsh("snapshot-revert", "--domain", "saved", "--snapshotname", "theirs")
        Guest(at, "saved", WEB).wait_for_writes()
    finally:
        if Guest(at, "saved").state != "shut off":
            at.virsh("destroy", "--domain", "saved")
        at.virsh("undefine", "--domain", "saved", "--snapshots-metadata")
        at.path(serial_path("saved")).unlink(missing_ok=True)


def test_a_snapshot_while_rolling_back(rig: Rig, before: Before) -> None:
    """Whether it comes before the commit or is refused by libvirt: it never vanishes without a word."""
    source = home(rig)
    refused = ""
    with watched(rig, WEB) as watch, rig.migrating(WEB.name, source, *SLOW) as running:
        assert running.until(copying)
        running.send(signal.SIGINT)
        assert running.until(
            lambda event: (
                event["event"] == "record"
                and (event["name"], event["phase"]) == ("commit-at-source", "intent")
            )
        )
        try:
            take(source)
        except LabError as error:
            refused = str(error)
        if running.until(is_stuck):
            running.send(signal.SIGTERM)
        code, _ = running.finish()
    if refused:
        assert "active block job" in refused
        assert code == ROLLED_BACK
    elif code == ROLLED_BACK:  # taken behind the pivot, into the bases
        for target in TARGETS:
            assert "theirs" in source.run(
                ["qemu-img", "snapshot", "-l", "-U", f"{IMAGES}/web-{target}.qcow2"]
            )
        source.virsh("snapshot-delete", "--domain", WEB.name, "--snapshotname", "theirs")
        source.virsh("snapshot-current", "--domain", WEB.name, "--snapshotname", "s2")
    else:
        (migration,) = rig.unfinished()
        assert "'theirs'" in rig.fsm("show", migration).stdout
        assert rig.fsm("retry", migration, "--accept-loss", "theirs").returncode == ROLLED_BACK
    check_kept(rig, WEB, before, source, watch.acks)


def test_the_guard_in_front_of_libvirt_and_for_scripts(rig: Rig, before: Before) -> None:
    source = home(rig)
    connection = libvirt.open(source.uri)
    domain = GuardedDomain(connection.lookupByName(WEB.name))
    xml = "<domainsnapshot><name>more</name></domainsnapshot>"
    nowhere = ("--journal", "/nonexistent/journal.db")
    question = ("guard", WEB.name, "block-resize", "--from", source.uri)
    assert rig.fsm(*question).returncode == 0
    with watched(rig, WEB) as watch:
        migration = stuck(rig, source, copying, source)
        with pytest.raises(OperationBlocked, match="snapshot-create-internal"):
            domain.snapshotCreateXML(xml, 0)
        with pytest.raises(OperationBlocked, match="block-resize"):
            domain.blockResize("vda", 64 << 20, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        with pytest.raises(OperationBlocked, match="snapshot-delete"):
            domain.snapshotLookupByName("s1").delete(0)
        assert domain.snapshotLookupByName("s1").getName() == "s1"
        assert domain.isActive()
        for words in (question, (*nowhere, *question)):
            asked = rig.fsm(*words)
            assert asked.returncode == BLOCKED, asked.stderr
            assert migration in asked.stderr
        assert rig.fsm("guard", WEB.name, "suspend", "--from", source.uri).returncode == 0
        shown = rig.fsm("show", migration, "--xml").stdout
        assert ".fsm-" in source.virsh("dumpxml", "--domain", WEB.name, "--inactive")
        assert ".fsm-" not in shown
        assert f"{IMAGES}/web-vda.qcow2" in shown
        ended = rig.fsm("retry", migration, "--accept-loss", "theirs")
    assert ended.returncode == ROLLED_BACK, ended.stderr
    assert rig.fsm(*question).returncode == 0
    assert domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, None, None, None, 1) == 0
    connection.close()
    check_kept(rig, WEB, before, source, watch.acks)


def test_a_resize_during_the_copy_is_carried_through(rig: Rig, before: Before) -> None:
    """The last one, as it changes the guest. A copy that the migration itself fills can't grow: back then."""
    source = home(rig)
    there = rig.other(source)
    for options, ends, at, mib in (
        (("--merge", "mirror"), ROLLED_BACK, source, 64),
        ((), COMMITTED, there, 80),
    ):
        with watched(rig, WEB), rig.migrating(WEB.name, source, *SLOW, *options) as running:
            assert running.until(copying)
            source.virsh("blockresize", WEB.name, "vda", f"{mib}M")
            code, result = running.finish()
        assert code == ends, result
        info = image_of(at, f"{IMAGES}/web-vda.qcow2")
        assert info["virtual-size"] == mib << 20
        assert [one["name"] for one in info["snapshots"]] == ["s1", "s2"]
        assert at.virsh("domblkinfo", WEB.name, "vda").split()[1] == str(mib << 20)
        Guest(at, WEB.name, WEB).wait_for_writes()
