"""The source's images are removed behind a migration between two real hosts, unless somebody needs them."""

from __future__ import annotations

import pytest

from fsm.lab import DiskSpec, GuestSpec, SnapshotSpec
from fsm.lab.guest import Guest, revert
from tests.lab_rig import LONG_LAB, Rig, by_nbd, check_kept, files, look, watched
from tests.libvirt_helpers import IMAGES, define, remove

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK = 0, 3
SPEC = GuestSpec(
    name="leaving",
    disks=(DiskSpec(target="vda", size_mib=48, data_mib=8), DiskSpec(target="vdb", size_mib=16, data_mib=4)),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
)
BASES = {disk.image(SPEC.name) for disk in SPEC.disks}


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.lab.define_guest(rig.alpha, SPEC)
    return rig


def test_there_and_back_without_a_copy_left(rig: Rig) -> None:
    for source, options in (
        (rig.alpha, ("--merge", "mirror")),
        (rig.beta, ("--merge", "commit")),
        (rig.alpha, tuple(by_nbd(rig, rig.alpha))),
        (rig.beta, ("--merge", "mirror", "--verify", "full")),
    ):
        before = look(rig, source, SPEC)
        with watched(rig, SPEC) as watch:
            finished = rig.migrate(SPEC.name, source, "--delete-source", *options)
        assert finished.returncode == COMMITTED, finished.stderr
        check_kept(rig, SPEC, before, rig.other(source), watch.acks)
        assert BASES.isdisjoint(files(source))
        assert "left behind" not in finished.stderr
    guest = Guest(rig.alpha, SPEC.name, SPEC)
    revert(guest, "s1")
    assert guest.state == "running"


def test_a_failed_one_removes_nothing(rig: Rig) -> None:
    before = look(rig, rig.alpha, SPEC)
    options = ("--delete-source", "--merge", "commit", "--bandwidth", "16")
    with watched(rig, SPEC) as watch, rig.migrating(SPEC.name, rig.alpha, *options) as running:
        assert running.until(lambda event: event["event"] == "progress" and event["phase"] == "memory")
        rig.beta.kill_qemu(SPEC.name)
        code, _ = running.finish()
    assert code == ROLLED_BACK
    assert BASES.issubset(files(rig.alpha))
    check_kept(rig, SPEC, before, rig.alpha, watch.acks)


def test_what_clones_stand_on_stays(rig: Rig) -> None:
    """They are shut off; one image names its base by a relative name, one through a linked directory."""
    linked = f"{IMAGES}-linked"
    rig.alpha.run(["ln", "-s", IMAGES, linked])
    name, other = (disk.image(SPEC.name).rpartition("/")[2] for disk in SPEC.disks)
    disks = {"vda": (name, f"{IMAGES}/clone.qcow2"), "vdb": (f"{linked}/{other}", f"{IMAGES}/other.qcow2")}
    for _, path in disks.values():
        rig.alpha.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "48M"])
    define(rig.alpha, "clone", {target: path for target, (_, path) in disks.items()})
    rig.alpha.virsh("destroy", "--domain", "clone")
    for below, path in disks.values():
        rig.alpha.run(["qemu-img", "rebase", "-q", "-u", "-b", below, "-F", "qcow2", path])
    finished = rig.migrate(SPEC.name, rig.alpha, "--delete-source")
    assert finished.returncode == COMMITTED, finished.stderr
    assert BASES.issubset(files(rig.alpha))
    assert finished.stderr.count("domain clone uses it") == len(BASES)
    remove(rig.alpha, "clone")
    rig.destroy(SPEC)
    rig.alpha.run(["rm", linked])
