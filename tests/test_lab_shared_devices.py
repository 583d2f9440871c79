"""A block device that two real hosts share: there, and back after a failure.

Each host has a loop device of its own over one file: like two hosts' nodes of one LUN they have the blocks in
common and neither the cache nor QEMU's locks. What they lack is a WWID. So that the very scripts are tried, a
directory with one is put where the kernel shows the device, on each host.
"""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath

import pytest

from fsm.engine.devices import digest
from fsm.engine.hardware import hardware_of
from fsm.errors import HostError
from fsm.hypervisor.shell import Shell
from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from fsm.lab.guest import Guest, revert
from tests.faults.scene import memory_moves
from tests.lab_rig import (
    LIBVIRT,
    LONG_LAB,
    Rig,
    Running,
    by_nbd,
    check_kept,
    check_untouched,
    look,
    watched,
)
from tests.lab_writers import Writers

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK, REFUSED = 0, 3, 5
LUN, OVERLAYS = f"{LIBVIRT}/volumes/lun", f"{LIBVIRT}/overlays"
SIZE_BYTES = 512 << 20
WWID = "naa.6001405aa0b1c2d3e4f5061728394a5b"
WEB = GuestSpec(
    name="web",
    disks=(DiskSpec(target="vda", data_mib=16, path=LUN, on_device=True),),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
)


@contextmanager
def seen_by(host: LabHost, lun: str) -> Iterator[None]:
    """The LUN as a device of this host, with a WWID; it has no name without that."""
    device = host.run(["losetup", "--find", "--show", lun]).strip()
    name = PurePosixPath(device).name
    shown, fake = f"/sys/devices/virtual/block/{name}", f"{LIBVIRT}/sysfs-{name}"
    host.run(["mkdir", "-p", str(PurePosixPath(LUN).parent), OVERLAYS, f"{fake}/holders", f"{fake}/slaves"])
    host.run(["ln", "-s", device, LUN])
    host.run(["cp", f"{shown}/dev", fake])
    host.run(["tee", f"{fake}/wwid"], stdin=f"{WWID}\n")
    host.run(["mount", "--bind", fake, shown])
    try:
        yield
    finally:
        host.run(["umount", shown])
        host.run(["losetup", "--detach", device])


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Iterator[Rig]:
    """Both hosts see one LUN, and the guest lies on it."""
    lun = rig.lab.directory / "lun.img"
    with lun.open("wb") as file:
        file.truncate(SIZE_BYTES)
    with ExitStack() as stack:
        for host in rig.lab.hosts:
            stack.enter_context(seen_by(host, str(lun)))
        stack.callback(end_guest, rig.lab.hosts)
        rig.lab.define_guest(rig.alpha, WEB)
        yield rig


def end_guest(hosts: tuple[LabHost, ...]) -> None:
    """Nobody holds a device any more when it is released."""
    for host in hosts:
        if host.qemu_pids(WEB.name):
            host.kill_qemu(WEB.name)


def here(rig: Rig) -> LabHost:
    return next(host for host in rig.lab.hosts if host.qemu_pids(WEB.name))


def device_of(host: LabHost) -> str:
    return host.run(["readlink", LUN]).strip()


def options(rig: Rig, source: LabHost) -> list[str]:
    return [*by_nbd(rig, source), f"--overlay-directory={OVERLAYS}"]


Harm = Callable[[Running, LabHost], None]


def journey(rig: Rig, *more: str, harm: Harm | None = None) -> int:
    """Migrate from where the guest is, do harm half-way, resume if need be; the exit code."""
    source = here(rig)
    destination, before = rig.other(source), look(rig, source, WEB)
    writers = Writers(WEB.name, {host: device_of(host) for host in rig.lab.hosts})
    with watched(rig, WEB) as watch, writers.watching():
        words = [*options(rig, source), "--bandwidth=24", *more]
        with rig.migrating(WEB.name, source, *words) as running:
            if harm is not None:
                assert running.until(memory_moves), f"{running.events[-3:]} {running.errors.read_text()}"
                harm(running, destination)
            code, result = running.finish()
        if code not in (COMMITTED, ROLLED_BACK):
            code = rig.fsm("resume", *rig.unfinished()).returncode
    assert code in (COMMITTED, ROLLED_BACK), f"{running.errors.read_text()} {result}"
    assert not [event for event in running.events if event.get("phase") == "base copy"]
    end = source if code == ROLLED_BACK else destination
    check_kept(rig, WEB, before, end, watch.acks)
    assert {frozenset({source.name}), frozenset(), frozenset({end.name})} <= writers.seen
    assert frozenset({source.name, destination.name}) not in writers.seen
    if code == ROLLED_BACK:
        check_untouched(rig, before, destination)
    return code


def test_there_and_back_with_its_snapshots(rig: Rig) -> None:
    assert [journey(rig), journey(rig, "--storage=shared", "--verify=full")] == [COMMITTED, COMMITTED]
    for snapshot in WEB.snapshots:
        revert(Guest(here(rig), WEB.name, WEB), snapshot.name)


def test_qemu_killed_at_the_destination(rig: Rig) -> None:
    assert journey(rig, harm=lambda _, destination: destination.kill_qemu(WEB.name)) == ROLLED_BACK


def test_a_killed_engine_is_resumed(rig: Rig) -> None:
    journey(rig, harm=lambda running, _: running.send(signal.SIGKILL))


async def test_what_the_hosts_tell_of_it(rig: Rig) -> None:
    shells = [Shell(host.uri, host.enter) for host in rig.lab.hosts]
    assert [(await hardware_of(shell, LUN)).name for shell in shells] == [WWID, WWID]
    # Behind the image, where the guest does not write.
    content, begin = bytes(range(256)) * 4096, SIZE_BYTES - (1 << 20)
    with (rig.lab.directory / "lun.img").open("r+b") as lun:
        lun.seek(begin)
        lun.write(content)
    for skipped in (0, 3 << 16):
        here, there = [await digest(one, LUN, begin + skipped, (1 << 20) - skipped) for one in shells]
        assert here == there
        assert here.split()[0] == hashlib.sha256(content[skipped:]).hexdigest()
    with pytest.raises(HostError, match="past the caches"):
        await digest(shells[0], f"{LUN}-none", 0, 1 << 20)


def test_a_host_that_keeps_old_blocks_gets_no_guest(rig: Rig) -> None:
    """Somebody there has had the device open since before the last snapshot, and has read it."""
    source = here(rig)
    destination = rig.other(source)
    hold = f"exec 5<{device_of(destination)}; dd bs=1M count=1 status=none <&5 >/dev/null; echo read; cat"
    with subprocess.Popen(
        [*destination.enter, "sh", "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "read\n"
        source.virsh("snapshot-create-as", "--domain", WEB.name, "--name", "late")
        before = look(rig, source, WEB)
        with watched(rig, WEB) as watch:
            rolled_back = rig.migrate(WEB.name, source, *options(rig, source))
        assert rolled_back.returncode == ROLLED_BACK, rolled_back.stderr
        assert "do not read the same" in rolled_back.stdout + rolled_back.stderr
        check_kept(rig, WEB, before, source, watch.acks)
    source.virsh("snapshot-delete", "--domain", WEB.name, "--snapshotname", "late")
    assert journey(rig) == COMMITTED


def test_one_without_a_wwid_is_refused(rig: Rig) -> None:
    source = here(rig)
    name = PurePosixPath(device_of(rig.other(source))).name
    rig.other(source).run(["rm", f"{LIBVIRT}/sysfs-{name}/wwid"])
    try:
        refused = rig.migrate(WEB.name, source, *options(rig, source), "--storage=shared")
    finally:
        rig.other(source).run(["tee", f"{LIBVIRT}/sysfs-{name}/wwid"], stdin=f"{WWID}\n")
    found = set(re.findall(r"\[([a-z-]+)\]$", refused.stderr, re.MULTILINE))
    assert (refused.returncode, found) == (REFUSED, {"not-shared", "device-not-named"}), refused.stderr
    assert "has no WWID" in refused.stderr
