"""Guests on a lab's hosts: their images, their snapshots and waiting for what they write."""

from __future__ import annotations

import os
import random
from pathlib import Path

import attrs

from fsm.lab.errors import LabError
from fsm.lab.host import LabHost
from fsm.lab.initramfs import kernel
from fsm.lab.process import run, wait_until
from fsm.lab.serial import Ack, acknowledged
from fsm.lab.spec import (
    INITRD,
    DiskSpec,
    GuestSpec,
    Ring,
    SnapshotSpec,
    domain_xml,
    serial_path,
)

DEFAULT_GUEST = GuestSpec(
    name="guest",
    disks=(
        DiskSpec(target="vda", size_mib=1024, data_mib=320, seed=1),
        DiskSpec(target="vdb", size_mib=256, data_mib=32, seed=2),
    ),
    snapshots=(
        SnapshotSpec("s1", description="before the upgrade"),
        SnapshotSpec("s2", "s1", """disk & memory, "a" < 'b' → naïve ✓"""),
        SnapshotSpec("s3", "s1", "second try after s1"),
    ),
)
"""Two disks and a tree of snapshots: s1, and its children s2 and s3, of which s3 is the current one."""

BOOT_TIMEOUT = 90.0
_MIB = 1024 * 1024


@attrs.frozen
class Guest:
    """A guest as seen on one host."""

    host: LabHost
    name: str
    spec: GuestSpec | None = None

    @property
    def serial_log(self) -> Path:
        """What the guest has printed while it ran on this host; the file may be missing."""
        return self.host.path(serial_path(self.name))

    @property
    def state(self) -> str:
        """The domain's state in virsh's words."""
        return self.host.virsh("domstate", "--domain", self.name).strip()

    def acknowledged(self) -> list[Ack]:
        """The writes acknowledged on this host since the guest last went back to an earlier state."""
        return acknowledged(self.serial_log)

    def wait_for_writes(self, *targets: str, count: int = 20, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until the guest has acknowledged ``count`` more writes on each of the disks.

        Without targets: on every disk that its spec says it writes to.
        """
        wanted = targets or (self.spec.written_targets if self.spec else ())
        path = self.serial_log
        offset = path.stat().st_size if path.exists() else 0

        def enough() -> bool:
            new = [ack.disk for ack in acknowledged(path, offset=offset)]
            return all(new.count(target) >= count for target in wanted)

        try:
            wait_until(enough, timeout=timeout, what=f"{count} writes of {self.name} to {', '.join(wanted)}")
        except LabError as error:
            tail = path.read_text(errors="replace")[-400:] if path.exists() else "nothing"
            raise LabError(f"{self.host.name}: {error}; its serial port shows: {tail}") from error


def define(host: LabHost, other: LabHost, spec: GuestSpec, initrd: Path) -> Guest:
    """Make a guest on ``host``; see ``Lab.define_guest``."""
    _check_order(spec)
    for one in (host, other):
        one.path(INITRD).write_bytes(initrd.read_bytes())
    for disk in spec.disks:
        if not disk.empty:
            create_image(host, disk, disk.image(spec.name), spec.ring)
            if disk.on_both_hosts:
                _copy(host, other, disk.image(spec.name))
    guest = Guest(host, spec.name, spec)
    xml = domain_xml(spec, str(kernel()), direct_io=_has_direct_io(host, spec))
    host.virsh("define", "/dev/stdin", stdin=xml)
    if spec.snapshots and not spec.live_snapshots:
        _take_snapshots(guest, spec)
    if spec.state != "shut off" or (spec.snapshots and spec.live_snapshots):
        start(guest)
    if spec.snapshots and spec.live_snapshots:
        _take_snapshots(guest, spec)
    if spec.state == "paused":
        host.virsh("suspend", "--domain", spec.name)
    if spec.state == "shut off" and guest.state != "shut off":
        host.virsh("destroy", "--domain", spec.name)
    return guest


def start(guest: Guest) -> None:
    """Start a guest and wait until it writes to all its disks."""
    guest.host.virsh("start", "--domain", guest.name)
    guest.wait_for_writes()


def _take_snapshots(guest: Guest, spec: GuestSpec) -> None:
    current = None
    for snapshot in spec.snapshots:
        if snapshot.parent != current:
            revert(guest, str(snapshot.parent))
        words = ["--domain", spec.name, "--name", snapshot.name]
        if snapshot.description:
            words += ["--description", snapshot.description]
        guest.host.virsh("snapshot-create-as", *words)
        if spec.live_snapshots:
            guest.wait_for_writes()  # so that the next snapshot holds other data
        current = snapshot.name
    if spec.current is not None and spec.current != current:
        revert(guest, spec.current)


def revert(guest: Guest, snapshot: str) -> None:
    """Revert to a snapshot; if the guest runs then, wait until it writes again."""
    guest.host.virsh("snapshot-revert", "--domain", guest.name, "--snapshotname", snapshot)
    if guest.state == "running":
        guest.wait_for_writes()


def _check_order(spec: GuestSpec) -> None:
    taken: list[str] = []
    for snapshot in spec.snapshots:
        if (snapshot.parent is None) == bool(taken) or (taken and snapshot.parent not in taken):
            raise LabError(
                f"snapshot {snapshot.name!r} of {spec.name}: {snapshot.parent!r} can't be its parent",
                remedy="the first snapshot has no parent, every other one an earlier snapshot",
            )
        taken.append(snapshot.name)
    if spec.current is not None and spec.current not in taken:
        raise LabError(f"{spec.name}: there is no snapshot {spec.current!r} to be the current one")


def create_image(host: LabHost, disk: DiskSpec, path: str, ring: Ring) -> None:
    """Make a disk's image: holes, and ``data_mib`` of seeded random bytes behind the ring."""
    target = host.path(path)
    if target.exists() and not disk.on_device:
        raise LabError(f"{host.name}: {path} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    start_mib = -(-ring.end_kib // 1024)
    if disk.data_mib and start_mib + disk.data_mib > disk.size_mib:
        raise LabError(
            f"{path}: {disk.data_mib} MiB of data do not fit behind a ring that ends at {start_mib} MiB"
        )
    straight = disk.format == "raw" and not disk.on_device
    raw = target if straight else host.directory / f"{disk.target}.tmp"
    with raw.open("wb") as file:
        file.truncate(disk.size_mib * _MIB)
        file.seek(start_mib * _MIB)
        bytes_of = random.Random(disk.seed)  # noqa: S311 - contents to compare, no secret
        for _ in range(disk.data_mib):
            file.write(bytes_of.randbytes(_MIB))
    if not straight:
        options = [*disk.options, *([f"cluster_size={disk.cluster_size}"] if disk.cluster_size else [])]
        words = [word for option in options for word in ("-o", option)]
        host.run(["qemu-img", "convert", "-f", "raw", "-O", disk.format, *words, str(raw), path])
        raw.unlink()


def _copy(host: LabHost, other: LabHost, path: str) -> None:
    copy = other.path(path)
    copy.parent.mkdir(parents=True, exist_ok=True)
    run(["cp", "--sparse=always", "--", str(host.path(path)), str(copy)])


def _has_direct_io(host: LabHost, spec: GuestSpec) -> bool:
    """Whether the file systems of all images open files with O_DIRECT; tmpfs of older kernels does not."""
    for disk in spec.disks:
        if disk.empty:
            continue
        try:
            os.close(os.open(host.path(disk.image(spec.name)), os.O_RDONLY | os.O_DIRECT))
        except OSError:
            return False
    return True
