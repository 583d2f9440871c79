"""Merging by mirror on two real hosts: whole, cut off half-way, and resumed."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from tests.faults.scene import memory_moves
from tests.lab_rig import NEEDS_LAB, Rig, Running, check_kept, check_untouched, domains, look, watched

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK = 0, 3
WEB = GuestSpec(
    name="web",
    disks=(DiskSpec(target="vda", size_mib=48, data_mib=16), DiskSpec(target="vdb", size_mib=16, data_mib=4)),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1"), SnapshotSpec("s3", "s1")),
    live_snapshots=False,
)


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.lab.define_guest(rig.alpha, WEB)
    return rig


Harm = Callable[[Running, LabHost], None]


def journey(rig: Rig, harm: Harm | None = None) -> int:
    """Migrate by mirror from where the guest is, do harm half-way, resume if need be; the exit code."""
    source = next(host for host in rig.lab.hosts if WEB.name in domains(host))
    destination = rig.other(source)
    rig.remove_images(destination, WEB)
    before = look(rig, source, WEB)
    with watched(rig, WEB) as watch:
        with rig.migrating(WEB.name, source, "--merge", "mirror", "--bandwidth", "24") as running:
            if harm is not None:
                assert running.until(memory_moves), running.events[-5:]
                harm(running, destination)
            code, result = running.finish()
        if code not in (COMMITTED, ROLLED_BACK):
            code = rig.fsm("resume", *rig.unfinished()).returncode
    assert code in (COMMITTED, ROLLED_BACK), f"{running.errors.read_text()} {result}"
    check_kept(rig, WEB, before, source if code == ROLLED_BACK else destination, watch.acks)
    if code == ROLLED_BACK:
        check_untouched(rig, before, destination)
    return code


def test_there_and_back(rig: Rig) -> None:
    assert [journey(rig), journey(rig)] == [COMMITTED, COMMITTED]


def test_qemu_killed_at_the_destination(rig: Rig) -> None:
    assert journey(rig, lambda _, destination: destination.kill_qemu(WEB.name)) == ROLLED_BACK


def test_an_abort_removes_the_dirty_copies(rig: Rig) -> None:
    assert journey(rig, lambda running, _: running.send(signal.SIGINT)) == ROLLED_BACK


def test_a_killed_engine_is_resumed(rig: Rig) -> None:
    journey(rig, lambda running, _: running.send(signal.SIGKILL))
