"""Overlays on other storage than their bases, between two real hosts."""

from __future__ import annotations

import pytest

from fsm.lab import DiskSpec, GuestSpec, SnapshotSpec
from fsm.lab.guest import Guest
from tests.lab_rig import LONG_LAB, Rig, check_kept, domains, look, watched

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK = 0, 3
OWN, BOTH = "/var/lib/libvirt/own", "/var/lib/libvirt/both"
SPEC = GuestSpec(
    name="elsewhere",
    disks=(
        DiskSpec(target="vda", size_mib=64, data_mib=8),
        DiskSpec(target="vdb", size_mib=16, format="raw"),
    ),
)
SAVED = GuestSpec(
    name="saved", disks=SPEC.disks[:1], snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1"))
)


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.lab.share(BOTH)
    for host in rig.lab.hosts:
        host.mount_small(OWN, 400)
    return rig


@pytest.mark.parametrize("directory", [OWN, BOTH])
@pytest.mark.parametrize("merge", ["mirror", "commit"])
@pytest.mark.parametrize("spec", [SPEC, SAVED], ids=["raw", "snapshots"])
def test_the_guest_arrives_and_the_directory_is_empty(
    rig: Rig, spec: GuestSpec, merge: str, directory: str
) -> None:
    if not any(spec.name in domains(host) for host in rig.lab.hosts):
        rig.lab.define_guest(rig.alpha, spec)
    source = next(host for host in rig.lab.hosts if spec.name in domains(host))
    rig.remove_images(rig.other(source), spec)
    before = look(rig, source, spec)
    seen: set[str] = set()
    with (
        watched(rig, spec) as watch,
        rig.migrating(spec.name, source, "--merge", merge, "--overlay-directory", directory) as running,
    ):
        while running.until(lambda event: event["event"] == "progress") is not None:
            seen |= {path.name for host in rig.lab.hosts for path in host.path(directory).glob("*.fsm-*")}
        code, result = running.finish()
    assert code == COMMITTED, result
    assert seen
    check_kept(rig, spec, before, rig.other(source), watch.acks)


def test_a_rollback_merges_it_into_the_base(rig: Rig) -> None:
    source = next(host for host in rig.lab.hosts if SAVED.name in domains(host))
    rig.remove_images(rig.other(source), SAVED)
    before = look(rig, source, SAVED)
    options = ("--overlay-directory", BOTH, "--merge", "commit", "--bandwidth", "16")
    with watched(rig, SAVED) as watch, rig.migrating(SAVED.name, source, *options) as running:
        assert running.until(lambda event: event["event"] == "progress" and event["phase"] == "memory")
        rig.other(source).kill_qemu(SAVED.name)
        code, _ = running.finish()
    assert code == ROLLED_BACK
    check_kept(rig, SAVED, before, source, watch.acks)
    assert Guest(source, SAVED.name).state == "running"
