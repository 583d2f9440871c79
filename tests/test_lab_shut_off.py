"""Domains that are shut off, between two real hosts."""

from __future__ import annotations

import signal

import pytest

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec, evidence
from fsm.lab.guest import Guest, revert, start
from tests.faults.scene import copying
from tests.lab_definitions import definition
from tests.lab_rig import NEEDS_LAB, Rig, domains, failed, files, look, pools, still

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK = 0, 3
OFF = GuestSpec(
    name="off",
    disks=(DiskSpec(target="vda", size_mib=48, data_mib=16), DiskSpec(target="vdb", size_mib=16, data_mib=4)),
    snapshots=(
        SnapshotSpec("with memory"),
        SnapshotSpec("s2", "with memory"),
        SnapshotSpec("s3", "with memory"),
    ),
    current="s2",
    state="shut off",
)
SLOW = ("--bandwidth", "8")


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.lab.define_guest(rig.alpha, OFF)
    return rig


def home(rig: Rig) -> LabHost:
    return next(host for host in rig.lab.hosts if OFF.name in domains(host))


def check(rig: Rig, before: evidence.Evidence, described: str, contents: dict[str, str], at: LabHost) -> None:
    """The domain is on this host alone, whole and as it was described; nothing of ours is left."""
    assert [OFF.name in domains(host) for host in (at, rig.other(at))] == [True, False]
    assert failed(evidence.compare(before, evidence.collect(at, OFF))) == []
    assert definition(at, OFF.name) == described
    assert still(at, OFF) == contents
    for host in rig.lab.hosts:
        assert [path for path in files(host) if ".fsm-" in path.rpartition("/")[2]] == []
        assert not [name for name in pools(host) if name.startswith("fsm-")]
    assert rig.unfinished() == []


def test_there_and_back_and_every_snapshot_can_be_reverted_to(rig: Rig) -> None:
    for _ in range(2):
        source = home(rig)
        rig.remove_images(rig.other(source), OFF)
        before = look(rig, source, OFF)
        finished = rig.migrate(OFF.name, source)
        assert finished.returncode == COMMITTED, finished.stderr
        at = rig.other(source)
        assert Guest(at, OFF.name).state == "shut off"
        check(rig, before.evidence, before.definition, before.still, at)
    for snapshot in OFF.snapshots:
        revert(Guest(home(rig), OFF.name, OFF), snapshot.name)
        assert Guest(home(rig), OFF.name).state == "running"
    home(rig).virsh("destroy", "--domain", OFF.name)


def test_one_that_is_started_while_it_is_copied_stays(rig: Rig) -> None:
    source = home(rig)
    rig.remove_images(rig.other(source), OFF)
    before = look(rig, source, OFF)
    with rig.migrating(OFF.name, source, *SLOW) as running:
        assert running.until(copying), running.events[-5:]
        start(Guest(source, OFF.name, OFF))
        code, result = running.finish()
    assert code == ROLLED_BACK, result
    assert "started" in result["cause"] or "written to" in result["cause"]
    assert Guest(source, OFF.name).state == "running"
    assert OFF.name not in domains(rig.other(source))
    assert failed(evidence.compare(before.evidence, evidence.collect(source, OFF))) == []
    assert definition(source, OFF.name) == before.definition
    assert [path for path in files(rig.other(source)) if path.rpartition("/")[2].startswith("off-")] == []
    source.virsh("destroy", "--domain", OFF.name)


def test_a_killed_engine_is_resumed(rig: Rig) -> None:
    source = home(rig)
    rig.remove_images(rig.other(source), OFF)
    before = look(rig, source, OFF)
    with rig.migrating(OFF.name, source, *SLOW) as running:
        assert running.until(copying), running.events[-5:]
        running.send(signal.SIGKILL)
        running.finish()
    resumed = rig.fsm("resume", *rig.unfinished())
    assert resumed.returncode == COMMITTED, resumed.stderr
    check(rig, before.evidence, before.definition, before.still, rig.other(source))


def test_an_abort_leaves_it_as_it_was(rig: Rig) -> None:
    source = home(rig)
    rig.remove_images(rig.other(source), OFF)
    before = look(rig, source, OFF)
    with rig.migrating(OFF.name, source, *SLOW) as running:
        assert running.until(copying), running.events[-5:]
        running.send(signal.SIGINT)
        code, _ = running.finish()
    assert code == ROLLED_BACK
    check(rig, before.evidence, before.definition, before.still, source)
