"""A base copy that is interrupted on real hosts goes on where it was, and the snapshots are whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import meter
from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from tests.lab_rig import LONG_LAB, Event, Rig, Running, check_kept, look, watched

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

MIB = 1024 * 1024
DATA_MIB = 512
BIG = GuestSpec(
    name="big",
    disks=(DiskSpec(target="vda", size_mib=640, data_mib=DATA_MIB), DiskSpec(target="vdb", size_mib=24)),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
    live_snapshots=False,
)
LIMIT = ("--bandwidth", "64")


@pytest.fixture
def source(rig: Rig) -> Iterator[LabHost]:
    rig.lab.define_guest(rig.alpha, BIG)
    yield rig.alpha
    rig.destroy(BIG)


def recorded(event: Event) -> bool:
    """How far the copy has come was written into the journal."""
    return event["event"] == "record" and event["name"] == "copied"


def copied(event: Event) -> bool:
    """The copies are done."""
    return event["event"] == "record" and (event["name"], event["phase"]) == ("copy-bases", "outcome")


def sent_bytes(host: LabHost) -> int:
    """What the host has sent to others since it is up."""
    assert host.holder is not None
    return meter.sent_bytes(Path(f"/proc/{host.holder.pid}/net/dev").read_text(encoding="ascii"))


def kept_bytes(running: Running) -> int:
    return sum(event["data"].get("kept_bytes", 0) for event in running.events if event["event"] == "record")


def test_an_engine_killed_while_it_copies_is_resumed_with_what_was_there(rig: Rig, source: LabHost) -> None:
    before = look(rig, source, BIG)
    with watched(rig, BIG) as watch:
        with rig.migrating(BIG.name, source, *LIMIT) as running:
            for _ in range(2):
                assert running.until(recorded), running.events[-5:]
            running.send(signal.SIGKILL)
        (migration,) = rig.unfinished()
        sent_before = sent_bytes(source)
        with rig.running("resume", "--json", migration) as resumed:
            outcome = resumed.until(copied)
            again_bytes = sent_bytes(source) - sent_before
            code, last = resumed.finish()
        assert code == 0, last
    assert outcome is not None
    kept = kept_bytes(resumed)
    assert kept >= 256 * MIB, "two records hold that much at least"
    assert again_bytes < (DATA_MIB + 64) * MIB - kept
    check_kept(rig, BIG, before, rig.beta, watch.acks)
    assert f"kept {kept >> 20} MiB of an interrupted copy" in rig.fsm("show", migration).stdout


def test_a_daemon_that_is_gone_for_a_moment_costs_no_copy(rig: Rig, source: LabHost) -> None:
    """The destination's libvirtd is killed, and started again once the copy has failed."""
    before = look(rig, source, BIG)
    with watched(rig, BIG) as watch, rig.migrating(BIG.name, source, *LIMIT) as running:
        for _ in range(2):
            assert running.until(recorded), running.events[-5:]
        rig.beta.kill_libvirtd()
        assert running.until(copied), running.events[-5:]
        rig.beta.start_libvirtd()
        code, last = running.finish()
        assert code == 0, last
    assert kept_bytes(running) >= 256 * MIB
    check_kept(rig, BIG, before, rig.beta, watch.acks)
