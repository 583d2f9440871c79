"""Bases on a file system that two real hosts share: there, and back after a failure."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from tests.faults.scene import memory_moves
from tests.lab_rig import NEEDS_LAB, Rig, Running, check_kept, check_untouched, domains, look, watched
from tests.lab_writers import Writers

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK, REFUSED = 0, 3, 5
SHARED, LOOSE = "/var/lib/libvirt/shared", "/var/lib/libvirt/loose"


def base_of(spec: GuestSpec) -> str:
    return spec.disks[0].image(spec.name)


def guest(name: str, directory: str, cache: str) -> GuestSpec:
    """One disk on a shared file system, one that each host would have for itself."""
    shared = DiskSpec(
        target="vda", size_mib=48, data_mib=8, path=f"{directory}/{name}-vda.qcow2", cache=cache
    )
    return GuestSpec(
        name=name,
        disks=(shared, DiskSpec(target="vdb", size_mib=16, data_mib=4)),
        snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
        live_snapshots=False,
    )


GUESTS = (guest("direct", SHARED, "none"), guest("cached", LOOSE, "writeback"))


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.lab.share(SHARED)
    rig.lab.share(LOOSE, coherent=False)
    for spec in GUESTS:
        rig.lab.define_guest(rig.alpha, spec)
    return rig


Harm = Callable[[Running, LabHost], None]


def journey(rig: Rig, spec: GuestSpec, *options: str, harm: Harm | None = None) -> int:
    """Migrate from where the guest is, do harm half-way, resume if need be; the exit code."""
    source = next(host for host in rig.lab.hosts if spec.name in domains(host))
    destination = rig.other(source)
    destination.path(spec.disks[1].image(spec.name)).unlink(missing_ok=True)
    before = look(rig, source, spec)
    writers = Writers(spec.name, {host: base_of(spec) for host in rig.lab.hosts})
    with watched(rig, spec) as watch, writers.watching():
        with rig.migrating(spec.name, source, "--bandwidth", "24", *options) as running:
            if harm is not None:
                assert running.until(memory_moves), running.events[-5:]
                harm(running, destination)
            code, result = running.finish()
        if code not in (COMMITTED, ROLLED_BACK):
            code = rig.fsm("resume", *rig.unfinished()).returncode
    assert code in (COMMITTED, ROLLED_BACK), f"{running.errors.read_text()} {result}"
    end = source if code == ROLLED_BACK else destination
    check_kept(rig, spec, before, end, watch.acks)
    assert {frozenset({source.name}), frozenset(), frozenset({end.name})} <= writers.seen
    assert frozenset({source.name, destination.name}) not in writers.seen
    if code == ROLLED_BACK:
        check_untouched(rig, before, destination)
    return code


@pytest.mark.parametrize("spec", GUESTS, ids=lambda spec: spec.name)
def test_there_and_back(rig: Rig, spec: GuestSpec) -> None:
    assert [journey(rig, spec), journey(rig, spec, "--storage=auto")] == [COMMITTED, COMMITTED]


@pytest.mark.parametrize("spec", GUESTS, ids=lambda spec: spec.name)
def test_qemu_killed_at_the_destination(rig: Rig, spec: GuestSpec) -> None:
    code = journey(rig, spec, harm=lambda _, destination: destination.kill_qemu(spec.name))
    assert code == ROLLED_BACK


def test_a_killed_engine_is_resumed(rig: Rig) -> None:
    journey(rig, GUESTS[1], harm=lambda running, _: running.send(signal.SIGKILL))


def test_only_what_is_not_shared_is_copied(rig: Rig) -> None:
    spec = GUESTS[0]
    source = next(host for host in rig.lab.hosts if spec.name in domains(host))
    refused = rig.migrate(spec.name, source, "--storage=shared", "--json")
    assert refused.returncode == REFUSED
    assert "vdb" in refused.stdout
    assert "does not appear there" in refused.stdout
