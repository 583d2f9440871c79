"""Disks on block devices, on two hosts: loop devices, which QEMU and libvirt take as logical volumes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from fsm.lab.guest import Guest, revert
from tests.lab_rig import (
    LIBVIRT,
    NEEDS_LAB,
    Rig,
    by_nbd,
    check_kept,
    lab_in,
    look,
    watched,
)

pytestmark = NEEDS_LAB

COMMITTED, ROLLED_BACK, REFUSED = 0, 3, 5
VOLUMES = f"{LIBVIRT}/volumes"
OVERLAYS = f"{LIBVIRT}/overlays"
WEB = GuestSpec(
    name="web",
    disks=(DiskSpec(target="vda", data_mib=16, path=f"{VOLUMES}/web", on_device=True),),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
)
RAW = GuestSpec(
    name="raw",
    disks=(DiskSpec(target="vda", data_mib=16, format="raw", path=f"{VOLUMES}/raw", on_device=True),),
)
SIZES_MIB = {"web": 512, "raw": 64, "spare": 576}


@contextmanager
def volume(host: LabHost, name: str, size_mib: int) -> Iterator[str]:
    """A block device under a name of its own, as a logical volume has one; gone at the end, that very one."""
    backing = str(host.directory / f"{name}.img")
    host.run(["truncate", f"--size={size_mib}M", backing])
    device = host.run(["losetup", "--find", "--show", backing]).strip()
    try:
        host.run(["mkdir", "-p", VOLUMES, OVERLAYS])
        host.run(["ln", "-s", device, f"{VOLUMES}/{name}"])
        yield device
    finally:
        host.run(["losetup", "--detach", device])


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("labs")
    with lab_in(directory) as lab, ExitStack() as stack:
        for host in lab.hosts:
            for name, size_mib in SIZES_MIB.items():
                stack.enter_context(volume(host, name, size_mib))
        stack.callback(end_guests, lab.hosts)
        lab.define_guest(lab.hosts[0], WEB)
        yield Rig(lab, directory / "journal.db")


def checks_named(finished: subprocess.CompletedProcess[str]) -> set[str]:
    """The names of the checks whose findings stand on stderr."""
    return set(re.findall(r"\[([a-z-]+)\]$", finished.stderr, re.MULTILINE))


def end_guests(hosts: tuple[LabHost, ...]) -> None:
    """Nobody holds a device any more when it is released."""
    for host in hosts:
        for spec in (WEB, RAW):
            if host.qemu_pids(spec.name):
                host.kill_qemu(spec.name)


def here(rig: Rig, name: str) -> LabHost:
    return next(host for host in rig.lab.hosts if host.qemu_pids(name))


def options(rig: Rig, source: LabHost, spec: GuestSpec, *more: str) -> list[str]:
    """What a migration from device to device needs."""
    maps = [f"--disk-map={disk.target}={disk.image(spec.name)}" for disk in spec.disks]
    return [*by_nbd(rig, source), f"--overlay-directory={OVERLAYS}", *maps, *more]


def clear(host: LabHost, path: str) -> None:
    """What an operator does with a device that holds an older copy."""
    host.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=1", "conv=notrunc", "status=none"])


@pytest.mark.parametrize("merge", ["commit", "mirror"])
def test_a_qcow2_image_moves_from_device_to_device(rig: Rig, merge: str) -> None:
    source = here(rig, WEB.name)
    destination = rig.other(source)
    path = WEB.disks[0].image(WEB.name)
    if merge == "mirror":  # the last one came from there
        refused = rig.migrate(WEB.name, source, *options(rig, source, WEB, "--accept=device-content"))
        assert (refused.returncode, checks_named(refused)) == (REFUSED, {"device-shared"}), refused.stderr
        clear(destination, path)
        refused = rig.migrate(WEB.name, source, *options(rig, source, WEB))
        assert (refused.returncode, checks_named(refused)) == (REFUSED, {"device-content"}), refused.stderr
    before = look(rig, source, WEB)
    accept = ["--accept=device-content"] if merge == "mirror" else []
    with watched(rig, WEB) as watch:
        done = rig.migrate(WEB.name, source, *options(rig, source, WEB, f"--merge={merge}", *accept))
    assert done.returncode == COMMITTED, done.stderr + done.stdout
    check_kept(rig, WEB, before, destination, watch.acks)
    for snapshot in WEB.snapshots:
        revert(Guest(destination, WEB.name, WEB), snapshot.name)
