"""Migrations that are cut off half-way on two real hosts: nothing is lost, and nothing is left behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from attrs import evolve

from fsm.lab import IMAGES, DiskSpec, GuestSpec, LabHost, SnapshotSpec
from tests.lab_rig import (
    NEEDS_LAB,
    Before,
    Event,
    Rig,
    Running,
    check_kept,
    check_untouched,
    domains,
    lab_in,
    look,
    look_at_hosts,
    watched,
)

pytestmark = NEEDS_LAB

COMMITTED, LET_GO, ROLLED_BACK = 0, 1, 3
SMALL = f"{IMAGES}/small"
WEB = GuestSpec(
    name="web",
    disks=(
        DiskSpec(target="vda", size_mib=48, data_mib=16),
        DiskSpec(target="vdb", size_mib=16, data_mib=4, path=f"{SMALL}/b.qcow2"),
    ),
    snapshots=(SnapshotSpec("s1", None, "<first>"), SnapshotSpec("s2", "s1"), SnapshotSpec("s3", "s1")),
    # Without saved memory the images are small, and the copy is soon over.
    live_snapshots=False,
)
# Slow enough for something to happen while memory is under way.
SLOW = ("--bandwidth", "24")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("labs")
    with lab_in(directory) as lab:
        for host in lab.hosts:
            host.mount_small(SMALL, 300)
        lab.define_guest(lab.hosts[0], WEB)
        yield Rig(lab, directory / "journal.db")


@pytest.fixture(scope="module")
def first_look(rig: Rig) -> Before:
    """The guest as it was before all failures: after each of them it must still be the same."""
    return look(rig, rig.alpha, WEB)


@pytest.fixture
def before(rig: Rig, first_look: Before) -> Before:
    """The same with the hosts as they are now, the guest's own host ready to give it away."""
    home(rig)
    return evolve(first_look, hosts=look_at_hosts(rig))


def home(rig: Rig) -> LabHost:
    """The host where the guest is now; the other one is made ready to receive it."""
    at = next(host for host in rig.lab.hosts if WEB.name in domains(host))
    rig.remove_images(rig.other(at), WEB)
    return at


def copying(event: Event) -> bool:
    return bool(event["event"] == "progress" and event["phase"] == "base copy" and event["done_bytes"])


def memory_moves(event: Event) -> bool:
    return bool(event["event"] == "progress" and event["phase"] == "memory" and event["done_bytes"])


def begun(name: str) -> Callable[[Event], bool]:
    """The intent to do something was written."""
    return lambda event: event["event"] == "record" and (event["name"], event["phase"]) == (name, "intent")


def break_in(
    rig: Rig,
    before: Before,
    moment: Callable[[Event], bool],
    harm: Callable[[Running, LabHost, LabHost], None],
) -> int:
    """Migrate, do harm at a moment, go on if need be, and check that all was kept; the exit code."""
    source = home(rig)
    destination = rig.other(source)
    with watched(rig, WEB) as watch:
        with rig.migrating(WEB.name, source, *SLOW) as running:
            assert running.until(moment), running.events[-5:]
            harm(running, source, destination)
            code, _ = running.finish()
        if code not in (COMMITTED, ROLLED_BACK):
            (migration,) = rig.unfinished()
            code = rig.fsm("resume", migration).returncode
    assert code in (COMMITTED, ROLLED_BACK), running.errors.read_text() + str(running.events[-3:])
    check_kept(rig, WEB, before, source if code == ROLLED_BACK else destination, watch.acks)
    if code == ROLLED_BACK:
        check_untouched(rig, before, destination)
    assert rig.unfinished() == []
    return code


def test_qemu_killed_at_the_destination(rig: Rig, before: Before) -> None:
    code = break_in(rig, before, memory_moves, lambda _, __, destination: destination.kill_qemu(WEB.name))
    assert code == ROLLED_BACK


@pytest.mark.race
def test_libvirtd_killed_at_the_destination(rig: Rig, before: Before) -> None:
    def harm(_running: Running, _source: LabHost, destination: LabHost) -> None:
        destination.kill_libvirtd()
        destination.start_libvirtd()

    break_in(rig, before, memory_moves, harm)


@pytest.mark.parametrize("moment", [copying, memory_moves], ids=["copy", "memory"])
def test_libvirtd_killed_at_the_source(rig: Rig, before: Before, moment: Callable[[Event], bool]) -> None:
    def harm(_running: Running, source: LabHost, _destination: LabHost) -> None:
        source.kill_libvirtd()
        source.start_libvirtd()

    break_in(rig, before, moment, harm)


def test_no_space_at_the_destination_while_copying(rig: Rig, before: Before) -> None:
    """Preflight has found enough space; then somebody else takes it all."""
    source = home(rig)
    destination = rig.other(source)
    with watched(rig, WEB) as watch, rig.migrating(WEB.name, source, *SLOW) as running:
        assert running.until(copying)
        destination.run(["sh", "-c", f"dd if=/dev/zero of={SMALL}/full bs=64k status=none || true"])
        code, result = running.finish()
    destination.path(f"{SMALL}/full").unlink()
    assert code == ROLLED_BACK, result
    assert "space" in result["cause"]
    check_kept(rig, WEB, before, source, watch.acks)
    check_untouched(rig, before, destination)


@pytest.mark.parametrize("moment", [copying, memory_moves], ids=["copy", "memory"])
def test_one_interrupt_aborts_cleanly(rig: Rig, before: Before, moment: Callable[[Event], bool]) -> None:
    code = break_in(rig, before, moment, lambda running, _, __: running.send(signal.SIGINT))
    assert code == ROLLED_BACK


def test_sigterm_lets_go_and_resume_takes_over(rig: Rig, before: Before) -> None:
    source = home(rig)
    with watched(rig, WEB) as watch:
        with rig.migrating(WEB.name, source, *SLOW) as running:
            assert running.until(memory_moves)
            running.send(signal.SIGTERM)
            code, last = running.finish()
        assert code == LET_GO
        assert "fsm resume" in last["text"]
        (migration,) = rig.unfinished()
        resumed = rig.fsm("resume", migration)
    assert resumed.returncode in (COMMITTED, ROLLED_BACK), resumed.stderr
    at = source if resumed.returncode == ROLLED_BACK else rig.other(source)
    check_kept(rig, WEB, before, at, watch.acks)


@pytest.mark.parametrize(
    "moment",
    [
        begun("start"),
        copying,
        begun("transfer"),
        memory_moves,
        begun("commit-at-destination"),
        begun("finish-commit"),
    ],
    ids=["start", "copy", "transfer", "memory", "commit", "finish"],
)
def test_a_killed_engine_is_resumed(rig: Rig, before: Before, moment: Callable[[Event], bool]) -> None:
    break_in(rig, before, moment, lambda running, _, __: running.send(signal.SIGKILL))
