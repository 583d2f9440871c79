"""Real file systems that get full: the guest is not paused where that can be avoided, and loses nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
import pytest
from attrs import evolve

from fsm.hypervisor.libvirt.events import ensure_event_loop
from fsm.journal.records import Phase, Step
from fsm.lab import IMAGES, DiskSpec, Guest, GuestSpec, LabHost, Ring, SerialWatch, SnapshotSpec
from fsm.lab.process import wait_until
from tests.faults.failpoint import AFTER, HOLD, Failpoint
from tests.faults.scene import copying, is_held, memory_moves
from tests.lab_rig import (
    LONG_LAB,
    Event,
    Rig,
    check_at_rest,
    check_kept,
    check_untouched,
    domains,
    look,
    watched,
)
from tests.machine_helpers import plain_text, shipped

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK, STUCK = 0, 3, 4
SMALL = f"{IMAGES}/small"
MIB = 1 << 20
# Each write takes a cluster of its own: the overlay grows by more than a MiB a second.
WEB = GuestSpec(
    name="web",
    disks=(DiskSpec(target="vda", size_mib=1024, data_mib=32, path=f"{SMALL}/a.qcow2"),),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
    live_snapshots=False,
    ring=Ring(slots=8000, stride_kib=64, interval_ms=40),
)


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.alpha.mount_small(SMALL, 400)
    rig.beta.mount_small(SMALL, 1000)
    return rig


@pytest.fixture
def guest(rig: Rig) -> Iterator[Guest]:
    """A guest on the first host, for one test: its disk would be full after a few of them."""
    yield rig.lab.define_guest(rig.alpha, WEB)
    rig.destroy(WEB)
    for host in rig.lab.hosts:
        for path in host.path(SMALL).glob("[!l]*"):  # all but lost+found
            path.unlink()


@contextmanager
def io_errors(host: LabHost) -> Iterator[list[str]]:
    """The domains that were paused because a write of theirs failed, as libvirt tells it."""
    ensure_event_loop()
    paused: list[str] = []
    connection = libvirt.open(host.uri)

    def on_error(_connection: object, domain: libvirt.virDomain, *_details: object) -> None:
        paused.append(domain.name())

    event = libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR
    number = connection.domainEventRegisterAny(None, event, on_error, None)
    try:
        yield paused
    finally:
        connection.domainEventDeregisterAny(number)
        connection.close()


def fill(host: LabHost, leave_mib: int) -> None:
    """Take all space but so much."""
    words = host.run(["stat", "-f", "-c", "%a %S", SMALL]).split()
    free_bytes = int(words[0]) * int(words[1])
    # What the file system needs for itself is not told: the last of it is taken bit by bit.
    taken_bytes = free_bytes - max(leave_mib, 8) * MIB
    if taken_bytes > 0:
        host.run(["fallocate", "-l", str(taken_bytes), f"{SMALL}/filler"])
    if not leave_mib:
        host.run(["sh", "-c", f"dd if=/dev/zero bs=4k status=none >>{SMALL}/filler || true"])


def held_mib(host: LabHost) -> int:
    """What the overlay takes now."""
    (overlay,) = host.path(SMALL).glob("*.fsm-*")
    return overlay.stat().st_blocks * 512 // MIB


@pytest.mark.parametrize("moment", [copying, memory_moves], ids=["copy", "memory"])
def test_a_guest_that_would_fill_its_disk_is_not_paused(
    rig: Rig, guest: Guest, moment: Callable[[Event], bool]
) -> None:
    before = look(rig, rig.alpha, WEB)
    with io_errors(rig.alpha) as paused, watched(rig, WEB) as watch:
        with rig.migrating(WEB.name, rig.alpha, "--bandwidth", "4") as running:
            assert running.until(moment), running.events[-5:]
            # The rule's margin and what the overlay needs for its commit, and not much more.
            fill(rig.alpha, held_mib(rig.alpha) + 64 + 24)
            code, result = running.finish()
        assert (code, result["state"]) == (ROLLED_BACK, "rolled-back"), result
        assert paused == []
        assert f"{rig.alpha.uri}: {SMALL} would be full before the end" in result["cause"]
        assert f"free space in {SMALL} on {rig.alpha.uri}" in result["remedy"]
    check_kept(rig, WEB, before, rig.alpha, watch.acks)
    check_untouched(rig, before, rig.beta)


@pytest.fixture
def once(tmp_path: Path) -> str:
    """A description of the machine that tries a failed commit again only when it is asked to."""
    machine = shipped()
    for name in ("committing-dest", "rolling-back-source"):
        machine["states"][name]["retry"] = "none"
    machine["states"]["stuck"]["retry"] = "none"
    path = tmp_path / "states.yaml"
    path.write_text(plain_text(machine), "utf-8")
    return str(path)


def arrived(event: Event) -> bool:
    return event["event"] == "record" and (event["name"], event["phase"]) == ("switch-over", "outcome")


def paused_by(host: LabHost) -> str:
    return host.virsh("domstate", "--domain", WEB.name, "--reason").strip()


def get_stuck(rig: Rig, once: str) -> Event:
    """Migrate an overlay of some size, and have the destination's file system full when it is committed."""
    commit = Failpoint(HOLD, AFTER, Step.ACTIVITY, "commit-at-destination", Phase.INTENT)
    held = evolve(rig, program=commit.program())
    with held.migrating(WEB.name, rig.alpha, "--merge", "commit", states=once) as running:
        assert running.until(is_held), running.events[-5:]
        wait_until(lambda: held_mib(rig.beta) >= 16, timeout=60, what="an overlay of some size")
        fill(rig.beta, 0)
        running.go_on()
        code, result = running.finish()
    assert (code, result["state"]) == (STUCK, "stuck"), result
    return result


def test_a_full_destination_leaves_the_commit_stuck_until_there_is_space(
    rig: Rig, guest: Guest, once: str
) -> None:
    before = look(rig, rig.alpha, WEB)
    with watched(rig, WEB) as watch:
        result = get_stuck(rig, once)
        assert SMALL in result["cause"]
        assert f"free space in {SMALL} on {rig.beta.uri}" in result["remedy"]
        migration = result["migration"]
        assert f"fsm retry {migration}" in result["remedy"]
        shown = rig.fsm("show", migration).stdout
        assert f"what to do: {result['remedy']}" in shown
        # A write of the guest's own finds no space either.
        wait_until(lambda: paused_by(rig.beta) == "paused (I/O error)", timeout=60, what="the guest's pause")
        still_stuck = rig.fsm("--states", once, "retry", migration)
        assert still_stuck.returncode == STUCK
        assert paused_by(rig.beta) == "paused (I/O error)"
        rig.beta.path(f"{SMALL}/filler").unlink()
        retried = rig.fsm("--states", once, "retry", migration)
        assert retried.returncode == COMMITTED, retried.stderr
        assert paused_by(rig.beta).startswith("running")
    check_kept(rig, WEB, before, rig.beta, watch.acks)


def test_a_guest_that_its_user_paused_stays_paused_in_stuck_and_behind_it(
    rig: Rig, guest: Guest, once: str
) -> None:
    before = look(rig, rig.alpha, WEB)
    with SerialWatch(*rig.lab.serial_logs(WEB.name)) as watch:
        guest.wait_for_writes()
        with rig.migrating(
            WEB.name, rig.alpha, "--bandwidth", "4", "--merge", "commit", states=once
        ) as running:
            assert running.until(copying), running.events[-5:]
            rig.alpha.virsh("suspend", "--domain", WEB.name)
            assert running.until(memory_moves), running.events[-5:]
            running.send(signal.SIGKILL)
    # libvirt goes on by itself.
    rig.alpha.virsh("migrate-setspeed", "--domain", WEB.name, "--bandwidth", "1000")
    wait_until(lambda: domains(rig.alpha) == [], timeout=120, what="the domain's arrival")
    fill(rig.beta, 0)
    (migration,) = rig.unfinished()
    stuck = rig.fsm("--states", once, "resume", migration)
    assert stuck.returncode == STUCK, stuck.stderr
    assert f"free space in {SMALL} on {rig.beta.uri}" in stuck.stderr
    assert paused_by(rig.beta) == "paused (user)"
    rig.beta.path(f"{SMALL}/filler").unlink()
    retried = rig.fsm("--states", once, "retry", migration)
    assert retried.returncode == COMMITTED, retried.stderr
    assert paused_by(rig.beta) == "paused (user)"
    check_at_rest(rig, WEB, before, rig.beta, watch.acks)


def test_a_base_that_may_not_be_written_is_named(rig: Rig, guest: Guest, once: str) -> None:
    before = look(rig, rig.alpha, WEB)
    base = f"{SMALL}/a.qcow2"
    with watched(rig, WEB) as watch:
        with rig.migrating(WEB.name, rig.alpha, "--merge", "commit", states=once) as running:
            assert running.until(arrived), running.events[-5:]
            rig.beta.run(["chattr", "+i", base])
            code, result = running.finish()
        rig.beta.run(["chattr", "-i", base])
        assert (code, result["state"]) == (STUCK, "stuck"), result
        assert "QEMU may not write to a base" in result["cause"]
        assert base in result["remedy"]
        assert rig.fsm("--states", once, "retry", result["migration"]).returncode == COMMITTED
    check_kept(rig, WEB, before, rig.beta, watch.acks)
