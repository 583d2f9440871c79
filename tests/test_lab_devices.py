"""Disks on block devices, on two hosts: loop devices, which QEMU and libvirt take as logical volumes."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from attrs import evolve
from lxml import etree

from fsm.engine import devices
from fsm.hypervisor.shell import Shell
from fsm.lab import IMAGES, DiskSpec, GuestSpec, LabHost, SnapshotSpec, evidence
from fsm.lab.guest import Guest, revert, start
from tests.lab_definitions import disk_of
from tests.lab_rig import (
    LIBVIRT,
    NEEDS_LAB,
    Rig,
    by_nbd,
    check_kept,
    failed,
    look,
    watched,
)

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

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
CHAINED = GuestSpec(
    name="chained",
    disks=(DiskSpec(target="vda", data_mib=8, path=f"{VOLUMES}/chained", on_device=True),),
    state="shut off",
)
TEMPLATE = f"{IMAGES}/template.raw"
SIZES_MIB = {"web": 512, "raw": 64, "chained": 512, "spare": 576}


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
def rig(rig: Rig) -> Iterator[Rig]:
    """The hosts have their volumes, of the same names, and the guest lies on the first one's."""
    with ExitStack() as stack:
        for host in rig.lab.hosts:
            for name, size_mib in SIZES_MIB.items():
                stack.enter_context(volume(host, name, size_mib))
        stack.callback(end_guests, rig.lab.hosts)
        rig.lab.define_guest(rig.alpha, WEB)
        yield rig


def checks_named(finished: subprocess.CompletedProcess[str]) -> set[str]:
    """The names of the checks whose findings stand on stderr."""
    return set(re.findall(r"\[([a-z-]+)\]$", finished.stderr, re.MULTILINE))


def end_guests(hosts: tuple[LabHost, ...]) -> None:
    """Nobody holds a device any more when it is released."""
    for host in hosts:
        for spec in (WEB, RAW, CHAINED):
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
    source, path = here(rig, WEB.name), WEB.disks[0].image(WEB.name)
    destination = rig.other(source)
    if merge == "mirror":  # the last one came from there
        refused = rig.migrate(WEB.name, source, *options(rig, source, WEB, "--accept=device-content"))
        assert (refused.returncode, checks_named(refused)) == (REFUSED, {"device-shared"}), refused.stderr
        clear(destination, path)
        refused = rig.migrate(WEB.name, source, *options(rig, source, WEB))
        assert (refused.returncode, checks_named(refused)) == (REFUSED, {"device-content"}), refused.stderr
    accept = ["--accept=device-content"] if merge == "mirror" else []
    journey(rig, WEB, f"--merge={merge}", *accept)
    for snapshot in WEB.snapshots:
        revert(Guest(destination, WEB.name, WEB), snapshot.name)


async def test_a_shell_tells_what_a_device_is_used_for(rig: Rig) -> None:
    path = f"{VOLUMES}/spare"
    shell = Shell(rig.alpha.uri, rig.alpha.enter)
    device = await devices.device_at(shell, path)
    assert device is not None
    assert (device.size_bytes, device.busy) == (SIZES_MIB["spare"] << 20, ())
    node = rig.alpha.run(["readlink", path]).strip()
    assert await devices.numbers(shell, [IMAGES, path, "/none", node]) == dict.fromkeys(
        (path, node), device.number
    )
    assert await devices.device_at(shell, IMAGES) is None
    assert await devices.device_at(shell, "/none") is None
    assert not await devices.holds_data(shell, device)
    written = await devices.writes(shell, path)
    assert await devices.writes(shell, path) == written
    rig.alpha.run(["mkfs.ext4", "-q", path])
    assert await devices.writes(shell, path) != written
    assert await devices.holds_data(shell, device)
    rig.alpha.run(["mkdir", "-p", f"{VOLUMES}.mounted"])
    rig.alpha.run(["mount", path, f"{VOLUMES}.mounted"])
    try:
        mounted = await devices.device_at(shell, path)
        assert mounted is not None
        assert mounted.busy == (f"it is mounted at {VOLUMES}.mounted",)
    finally:
        rig.alpha.run(["umount", path])
    # As an operator does with a volume that is to be used anew.
    rig.alpha.run(["blkdiscard", "--zeroout", node])
    assert not await devices.holds_data(shell, device)


def journey(rig: Rig, spec: GuestSpec, *more: str) -> None:
    """A migration that must be committed, and keep everything."""
    source = here(rig, spec.name)
    destination = rig.other(source)
    before = look(rig, source, spec)
    with watched(rig, spec) as watch:
        done = rig.migrate(spec.name, source, *options(rig, source, spec, *more))
    assert done.returncode == COMMITTED, done.stderr + done.stdout
    check_kept(rig, spec, before, destination, watch.acks)


@pytest.mark.long
@pytest.mark.parametrize("merge", ["commit", "mirror"])
def test_what_is_rolled_back_leaves_the_device(rig: Rig, merge: str) -> None:
    source = here(rig, WEB.name)
    destination = rig.other(source)
    path = WEB.disks[0].image(WEB.name)
    clear(destination, path)
    before = look(rig, source, WEB)
    words = options(rig, source, WEB, f"--merge={merge}", "--accept=device-content", "--bandwidth=16")
    with watched(rig, WEB) as watch, rig.migrating(WEB.name, source, *words) as running:
        assert running.until(lambda event: event.get("phase") == "memory"), running.errors.read_text()
        destination.kill_qemu(WEB.name)
        code, result = running.finish()
    assert code == ROLLED_BACK, f"{running.errors.read_text()} {result}"
    check_kept(rig, WEB, before, source, watch.acks)
    assert f"{path}, a block device, which holds" in str(result["left_behind"])
    # The link is there, and what was copied: nobody takes that for an empty device.
    again = rig.migrate(WEB.name, source, *options(rig, source, WEB))
    assert (again.returncode, checks_named(again)) == (REFUSED, {"device-shared"}), again.stderr


@pytest.mark.long
def test_a_raw_disk_and_a_device_in_use(rig: Rig) -> None:
    rig.lab.define_guest(rig.alpha, RAW)
    journey(rig, RAW)
    other = evolve(RAW, name="other", disks=(evolve(RAW.disks[0], path=f"{VOLUMES}/raw"),), state="shut off")
    clear(rig.alpha, RAW.disks[0].image(RAW.name))
    rig.lab.define_guest(rig.alpha, other)
    try:
        refused = rig.migrate(RAW.name, rig.beta, *options(rig, rig.beta, RAW))
        assert (refused.returncode, checks_named(refused)) == (REFUSED, {"device-in-use"}), refused.stderr
        assert "domain other uses it" in refused.stderr
    finally:
        rig.alpha.virsh("undefine", "--domain", other.name)


@pytest.mark.long
@pytest.mark.parametrize("merge", ["commit", "mirror"])
def test_to_a_file_and_from_there_to_a_larger_device(rig: Rig, merge: str) -> None:
    for kind, place in (("file", f"{IMAGES}/web-{merge}"), ("block", f"{VOLUMES}/spare")):
        source = here(rig, WEB.name)
        destination = rig.other(source)
        if kind == "block":
            clear(destination, place)
        disk = evolve(WEB.disks[0], path=place)
        before = look(rig, source, evolve(WEB, disks=(at(source),)))
        words = [*by_nbd(rig, source), f"--overlay-directory={OVERLAYS}", f"--disk-map=vda={place}"]
        done = rig.migrate(WEB.name, source, *words, f"--merge={merge}", "--accept=device-content")
        assert done.returncode == COMMITTED, done.stderr + done.stdout
        xml = etree.fromstring(destination.virsh("dumpxml", "--domain", WEB.name, "--inactive"))
        assert disk_of(xml, "vda").get("type") == kind
        after = evidence.collect(destination, evolve(WEB, disks=(disk,)))
        assert failed(evidence.compare(before.evidence, after)) == []
        for snapshot in WEB.snapshots:
            revert(Guest(destination, WEB.name, WEB), snapshot.name)


def at(host: LabHost) -> DiskSpec:
    """The guest's disk where it is now."""
    xml = etree.fromstring(host.virsh("dumpxml", "--domain", WEB.name))
    source = disk_of(xml, "vda").find("source")
    assert source is not None
    return evolve(WEB.disks[0], path=source.get("dev") or source.get("file"))


@pytest.mark.long
def test_a_killed_engine_is_resumed(rig: Rig) -> None:
    """Whoever takes over compares the device, and sends what it lacks."""
    source = here(rig, WEB.name)
    destination = rig.other(source)
    disk = at(source)
    place = f"{VOLUMES}/spare"
    clear(destination, place)
    spec = evolve(WEB, disks=(disk,))
    before = look(rig, source, spec)
    words = [*by_nbd(rig, source), f"--overlay-directory={OVERLAYS}", f"--disk-map=vda={place}"]
    with rig.migrating(WEB.name, source, *words, "--accept=device-content", "--bandwidth=32") as running:
        assert running.until(lambda event: event.get("phase") == "base copy"), running.errors.read_text()
        running.send(signal.SIGKILL)
        running.finish()
    done = rig.fsm("resume", *rig.unfinished())
    assert done.returncode == COMMITTED, done.stderr + done.stdout
    after = evidence.collect(destination, evolve(WEB, disks=(evolve(disk, path=place),)))
    assert failed(evidence.compare(before.evidence, after)) == []


@pytest.mark.long
def test_an_image_on_a_template(rig: Rig) -> None:
    """The template is brought along and goes again with a rollback; the next one arrives on it."""
    guest, path = rig.lab.define_guest(rig.alpha, CHAINED), CHAINED.disks[0].image(CHAINED.name)
    rig.alpha.run(["qemu-img", "convert", "-O", "raw", path, TEMPLATE])
    rig.alpha.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", TEMPLATE, "-F", "raw", path])
    start(guest)
    for name in ("s1", "s2"):
        rig.alpha.virsh("snapshot-create-as", "--domain", CHAINED.name, "--name", name)
        guest.wait_for_writes()
    before = look(rig, rig.alpha, CHAINED)
    words = options(rig, rig.alpha, CHAINED, "--bandwidth=16")
    with (
        watched(rig, CHAINED) as watch,
        rig.migrating(CHAINED.name, rig.alpha, *words, "--merge=commit") as running,
    ):
        assert running.until(lambda event: event.get("phase") == "memory"), running.errors.read_text()
        assert rig.beta.path(TEMPLATE).exists()
        rig.beta.kill_qemu(CHAINED.name)
        code, result = running.finish()
    assert code == ROLLED_BACK, f"{running.errors.read_text()} {result}"
    check_kept(rig, CHAINED, before, rig.alpha, watch.acks)
    assert not rig.beta.path(TEMPLATE).exists()
    clear(rig.beta, path)
    journey(rig, CHAINED, "--accept=device-content")
    assert rig.beta.path(TEMPLATE).read_bytes() == rig.alpha.path(TEMPLATE).read_bytes()
    arrived = Guest(rig.beta, CHAINED.name, CHAINED)
    for name in ("s1", "s2"):
        revert(arrived, name)
