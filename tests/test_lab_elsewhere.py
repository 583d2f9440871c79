"""Other paths and another name at the destination, between real hosts: every snapshot can be reverted to."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from attrs import evolve

from fsm.lab import DiskSpec, GuestSpec, LabHost, SerialWatch, SnapshotSpec, evidence
from fsm.lab.guest import Guest, revert
from fsm.lab.process import wait_until
from fsm.lab.spec import serial_path
from tests.faults.scene import begun, memory_moves
from tests.lab_definitions import definition
from tests.lab_rig import (
    LIBVIRT,
    LONG_LAB,
    Before,
    Rig,
    by_nbd,
    check_kept,
    check_untouched,
    domains,
    failed,
    files,
    look,
    still,
    watched,
)

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK, REFUSED = 0, 3, 5
STORE, OTHER = f"{LIBVIRT}/store", f"{LIBVIRT}/other <&> 'dir'"
WEB = GuestSpec(
    name="web",
    disks=(DiskSpec(target="vda", size_mib=48, data_mib=16), DiskSpec(target="vdb", size_mib=16, data_mib=4)),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
)
OFF = evolve(WEB, name="off", state="shut off")


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    for host in rig.lab.hosts:
        host.run(["mkdir", STORE, OTHER])
        host.virsh("pool-define-as", "store", "dir", "--target", STORE)
    return rig


@pytest.fixture
def web(rig: Rig) -> Iterator[GuestSpec]:
    rig.lab.define_guest(rig.alpha, WEB)
    yield WEB
    for name in {name for host in rig.lab.hosts for name in domains(host)}:
        _remove(rig, evolve(WEB, name=name))
    _remove(rig, WEB)


def _remove(rig: Rig, spec: GuestSpec) -> None:
    rig.destroy(spec)
    for host in rig.lab.hosts:
        host.run(["find", STORE, OTHER, "-type", "f", "-delete"])


def placed(spec: GuestSpec, *paths: str) -> GuestSpec:
    """The guest with its disks there."""
    disks = tuple(evolve(disk, path=path) for disk, path in zip(spec.disks, paths, strict=True))
    return evolve(spec, disks=disks)


def called(rig: Rig, spec: GuestSpec, name: str) -> GuestSpec:
    """The guest under another name, with its disks where they are, and its serial port found by that name."""
    for host in rig.lab.hosts:
        log = host.path(serial_path(name))
        if not log.is_symlink():
            log.symlink_to(Path(serial_path(spec.name)).name)
    return evolve(placed(spec, *(disk.image(spec.name) for disk in spec.disks)), name=name)


def mapping(spec: GuestSpec) -> list[str]:
    return [f"--disk-map={disk.target}={disk.image(spec.name)}" for disk in spec.disks]


def as_there(before: Before, here: GuestSpec, there: GuestSpec) -> Before:
    """What must be found at the destination: another path is all that differs.

    The order of the paths is that of the disks, as ``definition`` sorts them.
    """
    moved = {
        old.image(here.name): new.image(there.name) for old, new in zip(here.disks, there.disks, strict=True)
    }
    escaped = {_escaped(old): _escaped(new) for old, new in moved.items()}
    text = re.sub(r'(?<=<source file=")[^"]*', lambda path: escaped.get(path[0], path[0]), before.definition)
    here_name, there_name = (f"<name>{escape(spec.name)}</name>" for spec in (here, there))
    return evolve(before, definition=text.replace(here_name, there_name, 1))


def _escaped(path: str) -> str:
    """As an attribute of canonical XML has it."""
    return path.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def check_reverts(spec: GuestSpec, at: LabHost) -> None:
    """It goes back to each snapshot and writes on from there, on the disks that it has here."""
    for snapshot in spec.snapshots:
        guest = Guest(at, spec.name, spec)
        revert(guest, snapshot.name)
        assert guest.state == "running"
        guest.wait_for_writes()
        listed = at.virsh("domblklist", "--domain", spec.name)
        assert all(disk.image(spec.name) in listed for disk in spec.disks), listed


def test_committed_elsewhere_under_another_name_and_mirrored_back(rig: Rig, web: GuestSpec) -> None:
    there = placed(called(rig, web, "wéb & <there> 'q'"), f"{OTHER}/first.qcow2", f"{STORE}/web-vdb.qcow2")
    again = placed(web, f"{OTHER}/third.qcow2", f"{STORE}/second.qcow2")
    ways = [
        (web, there, rig.alpha, ["--merge=commit", mapping(there)[0], "--pool=store", "--verify=full"]),
        (there, again, rig.beta, ["--merge=mirror", mapping(again)[0], "--disk-map=vdb=store/second.qcow2"]),
    ]
    for here, wanted, source, options in ways:
        before, at = look(rig, source, here), rig.other(source)
        with SerialWatch(*rig.lab.serial_logs(web.name)) as watch:
            finished = rig.migrate(here.name, source, f"--dname={wanted.name}", *options)
            assert finished.returncode == COMMITTED, finished.stderr
            Guest(at, wanted.name, wanted).wait_for_writes()
        assert here.name not in [name for host in rig.lab.hosts for name in domains(host)]
        check_kept(rig, wanted, as_there(before, here, wanted), at, watch.acks)
        at.kill_libvirtd()
        at.start_libvirtd()
        assert definition(at, wanted.name) == as_there(before, here, wanted).definition, "on its disk"
        check_reverts(wanted, at)


@pytest.mark.parametrize("merge", ["commit", "mirror"])
def test_a_failed_one_goes_back_and_leaves_nothing(rig: Rig, web: GuestSpec, merge: str) -> None:
    there = placed(web, f"{OTHER}/first.qcow2", f"{STORE}/web-vdb.qcow2")
    before = look(rig, rig.alpha, web)
    options = (*mapping(there), "--dname", "other", "--merge", merge, "--bandwidth", "24")
    with watched(rig, web) as watch, rig.migrating(web.name, rig.alpha, *options) as running:
        assert running.until(memory_moves), running.events[-5:]
        rig.beta.kill_qemu("other")
        code, result = running.finish()
    assert code == ROLLED_BACK, result
    check_kept(rig, web, before, rig.alpha, watch.acks)
    check_untouched(rig, before, rig.beta)
    check_reverts(web, rig.alpha)


def test_straight_from_host_to_host(rig: Rig, web: GuestSpec) -> None:
    there = placed(web, f"{OTHER}/first.qcow2", f"{STORE}/web-vdb.qcow2")
    rig.beta.run(["cp", rig.alpha.path(web.disks[1].image(web.name)).as_posix(), f"{OTHER}/seed"])
    before = look(rig, rig.alpha, web)
    with watched(rig, web) as watch:
        options = (*mapping(there), *by_nbd(rig, rig.alpha), f"--seed=vdb={OTHER}/seed")
        finished = rig.migrate(web.name, rig.alpha, *options)
    assert finished.returncode == COMMITTED, finished.stderr
    check_kept(rig, there, as_there(before, web, there), rig.beta, watch.acks)


def test_one_that_is_shut_off(rig: Rig) -> None:
    rig.lab.define_guest(rig.alpha, OFF)
    there = placed(called(rig, OFF, "on"), f"{OTHER}/first.qcow2", f"{STORE}/web-vdb.qcow2")
    before = look(rig, rig.alpha, OFF)
    finished = rig.migrate(OFF.name, rig.alpha, "--dname=on", *mapping(there))
    assert finished.returncode == COMMITTED, finished.stderr
    assert [domains(host) for host in rig.lab.hosts] == [[], ["on"]]
    assert failed(evidence.compare(before.evidence, evidence.collect(rig.beta, there))) == []
    assert definition(rig.beta, "on") == as_there(before, OFF, there).definition
    assert still(rig.beta, there) == before.still
    check_reverts(there, rig.beta)
    _remove(rig, there)
    _remove(rig, OFF)


def test_a_journal_that_is_lost_behind_the_switch_over_is_made_up_for(rig: Rig, web: GuestSpec) -> None:
    there = placed(called(rig, web, "mail"), f"{OTHER}/first.qcow2", f"{OTHER}/second.qcow2")
    before = look(rig, rig.alpha, web)
    options = ("--dname=mail", *mapping(there), "--merge=commit")
    with SerialWatch(*rig.lab.serial_logs(web.name)) as watch:
        with rig.migrating(web.name, rig.alpha, *options) as running:
            assert running.until(begun("commit-at-destination")), running.errors.read_text()
            running.send(signal.SIGKILL)
        for path in rig.journal.parent.glob(f"{rig.journal.name}*"):
            path.unlink()

        def is_quiet() -> bool:
            xml = rig.beta.virsh("dumpxml", "--domain", "mail")
            return "<mirror" not in xml or xml.count("<mirror") == xml.count("ready='yes'")

        wait_until(is_quiet, timeout=60, what="the end of the commit")
        hosts = [word for host in rig.lab.hosts for word in ("--host", host.uri)]
        adopted = rig.fsm("doctor", *hosts, "--adopt")
        assert adopted.returncode == COMMITTED, adopted.stderr
        Guest(rig.beta, "mail", there).wait_for_writes()
    assert web.name not in domains(rig.alpha)
    check_kept(rig, there, as_there(before, web, there), rig.beta, watch.acks)
    check_reverts(there, rig.beta)


def test_what_preflight_refuses(rig: Rig, web: GuestSpec) -> None:
    rig.beta.virsh(
        "pool-define-as", "remote", "netfs", "--source-host=h", "--source-path=/x", "--target=/mnt"
    )
    before = files(rig.beta)
    for place, words in (
        ("nowhere/x", "there is no storage pool 'nowhere'"),
        ("remote/x", "pool 'remote' is not active"),
        (f"{LIBVIRT}/no/such", "there is no directory"),
    ):
        finished = rig.migrate(web.name, rig.alpha, f"--disk-map=vda={place}")
        assert finished.returncode == REFUSED
        assert words in " ".join(finished.stderr.split())
    assert files(rig.beta) == before
    rig.beta.virsh("pool-undefine", "remote")
