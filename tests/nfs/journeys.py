"""What is run in that machine: bases on an NFS export that both hosts have mounted, with a client each."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fsm.lab import DiskSpec, Guest, GuestSpec, LabHost, Ring, SnapshotSpec, evidence, revert, start
from tests.faults.scene import memory_moves
from tests.lab_rig import (
    NEEDS_LAB,
    Event,
    Rig,
    Running,
    check_kept,
    check_untouched,
    domains,
    failed,
    look,
    watched,
)

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK, REFUSED = 0, 3, 5
EXPORT, SHARED = Path("/export"), "/var/lib/libvirt/shared"
RING = Ring(interval_ms=100)
V4, V3 = "vers=4.2", "vers=3,nolock"
LATE = f"{V4},nocto,actimeo=600"
"""A host trusts for ten minutes what it knows of a directory, whatever the other one makes there."""

Harm = Callable[[Running, LabHost], None]


@contextmanager
def mounted(rig: Rig, name: str, *options: str) -> Iterator[None]:
    """A new directory of the export, in which both hosts have looked already; options for each of them."""
    (EXPORT / name).mkdir()
    server = next(ipaddress.ip_network(rig.lab.status().subnet).hosts())
    for host, wanted in zip(rig.lab.hosts, options, strict=True):
        # With NFS 4 the export is the root of what its clients see.
        path = f"/{name}" if "vers=4" in wanted else f"{EXPORT}/{name}"
        host.run(["mkdir", "-p", SHARED])
        host.run(["mount", "-t", "nfs", "-o", wanted, f"{server}:{path}", SHARED])
        host.run(["ls", SHARED])
    yield
    for host in rig.lab.hosts:
        host.run(["umount", SHARED])


def journey(rig: Rig, spec: GuestSpec, *options: str, harm: Harm | None = None) -> int:
    """Migrate from where the guest is, do harm while its memory moves; the exit code."""
    source = next(host for host in rig.lab.hosts if spec.name in domains(host))
    destination = rig.other(source)
    before = look(rig, source, spec)
    options = "--bandwidth", "24", *options
    with watched(rig, spec) as watch, rig.migrating(spec.name, source, *options) as running:
        if harm is not None:
            assert running.until(memory_moves), running.events[-5:]
            harm(running, destination)
        code, result = running.finish()
    assert code in (COMMITTED, ROLLED_BACK), f"{running.errors.read_text()} {result}"
    check_kept(rig, spec, before, source if code == ROLLED_BACK else destination, watch.acks)
    if code == ROLLED_BACK:
        check_untouched(rig, before, destination)
    return code


@contextmanager
def guest(rig: Rig, name: str, options: str) -> Iterator[GuestSpec]:
    """On the first host, with a disk past the hosts' caches and one through them, both on the export."""
    disks = tuple(
        DiskSpec(target=target, size_mib=32, data_mib=4, path=f"{SHARED}/{target}.qcow2", cache=cache)
        for target, cache in (("vda", "none"), ("vdb", "writeback"))
    )
    snapshots = SnapshotSpec("s1"), SnapshotSpec("s2", "s1")
    spec = GuestSpec(name=name, disks=disks, snapshots=snapshots, live_snapshots=False, ring=RING)
    with mounted(rig, name, options, options):
        rig.lab.define_guest(rig.alpha, spec)
        yield spec
        rig.destroy(spec)


@pytest.mark.parametrize("options", [V4, V3])
def test_there_and_back(rig: Rig, options: str) -> None:
    """And to a snapshot in between."""
    with guest(rig, f"there-{options[5]}", options) as spec:
        assert journey(rig, spec, "--storage=shared") == COMMITTED
        there = Guest(rig.beta, spec.name, spec)
        revert(there, "s1")
        start(there)
        assert journey(rig, spec) == COMMITTED


@pytest.mark.parametrize("options", [V4, V3])
def test_qemu_killed_at_the_destination(rig: Rig, options: str) -> None:
    with guest(rig, f"killed-{options[5]}", options) as spec:
        code = journey(rig, spec, harm=lambda _, destination: destination.kill_qemu(spec.name))
        assert code == ROLLED_BACK


def copies_failed(event: Event) -> bool:
    """The destination's files could not be made."""
    return bool(event.get("name") == "create-copies" and event.get("error"))


def test_bases_that_are_shown_late_are_not_overwritten_and_not_removed(rig: Rig) -> None:
    """Neither those that the destination does not see, nor those beside which it does not see the probe."""
    # Like a copy that was just made: one that has no data.
    empty = DiskSpec(target="sda", size_mib=16, path=f"{SHARED}/sda.raw", format="raw", bus="sata")
    spec = GuestSpec(
        name="late", disks=(DiskSpec(target="vda", path=f"{SHARED}/vda.qcow2"), empty), ring=RING
    )
    with mounted(rig, "late", V4, LATE):
        for words in ([], ["vda.qcow2"], ["sda.raw"], []):  # what is not there is known as well
            rig.beta.run(["sh", "-c", f"cd {SHARED} && ls {' '.join(words)} || true"])
        rig.lab.define_guest(rig.alpha, spec)
        with watched(rig, spec) as watch, rig.migrating(spec.name, rig.alpha) as running:
            assert running.until(copies_failed), running.events[-1]
            rig.beta.run(["touch", f"{SHARED}/other"])  # whoever makes something there sees the rest
            code, result = running.finish()
        assert (code, "exists" in result["cause"]) == (ROLLED_BACK, True)
        assert {path.name for path in (EXPORT / "late").iterdir()} == {"vda.qcow2", "sda.raw", "other"}
        assert failed(evidence.writes(rig.alpha, spec, watch.acks)) == []
        refused = rig.migrate(spec.name, rig.alpha)
        assert (refused.returncode, refused.stderr.count("path-taken")) == (REFUSED, 2)
        assert "--storage shared" in refused.stderr
        rig.destroy(spec)
