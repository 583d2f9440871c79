"""A guest with snapshots on two hosts, and the moments of its migrations at which something may happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, evolve, field

from fsm.lab import IMAGES, DiskSpec, Guest, GuestSpec, LabHost, Ring, SnapshotSpec
from fsm.lab.guest import start
from fsm.lab.process import run
from tests.faults.failpoint import HELD
from tests.lab_rig import Before, Event, Rig, domains, lab_in, look, look_at_hosts

SMALL = f"{IMAGES}/small"
SMALL_MIB = 300
WEB = GuestSpec(
    name="web",
    disks=(
        DiskSpec(target="vda", size_mib=48, data_mib=16),
        DiskSpec(target="vdb", size_mib=24, data_mib=4, path=f"{SMALL}/b.qcow2"),
    ),
    snapshots=(SnapshotSpec("s1", None, "<first>"), SnapshotSpec("s2", "s1"), SnapshotSpec("s3", "s1")),
    # Without saved memory the images are small, and the copy is soon over.
    live_snapshots=False,
    # So many slots that in its first minute the guest needs new clusters all the time.
    ring=Ring(slots=4096),
)
# Slow enough for something to happen while memory is under way.
SLOW = ("--bandwidth", "16")
COMMIT = ("--merge", "commit")

JOURNALS_MIB = 16


def is_held(event: Event) -> bool:
    """The engine waits at its failpoint."""
    return bool(event["event"] == HELD)


def copying(event: Event) -> bool:
    """Bytes of the bases are under way."""
    return bool(event["event"] == "progress" and event["phase"] == "base copy" and event["done_bytes"])


def memory_moves(event: Event) -> bool:
    """Bytes of the guest's memory are under way."""
    return bool(event["event"] == "progress" and event["phase"] == "memory" and event["done_bytes"])


def committing(event: Event) -> bool:
    """The block commit has begun."""
    return bool(event["event"] == "progress" and event["phase"] == "commit")


def begun(name: str) -> Callable[[Event], bool]:
    """The intent to do something was written."""
    return lambda event: event["event"] == "record" and (event["name"], event["phase"]) == (name, "intent")


def entered(state: str) -> Callable[[Event], bool]:
    """The migration has come to a state."""

    def wanted(event: Event) -> bool:
        if event["event"] != "record" or event["error"]:
            return False
        return (event["step"], event["phase"], event["dest"]) == ("transition", "outcome", state)

    return wanted


@define
class Scene:
    """The two hosts with the guest on one of them. ``first_look`` is what it must be like after any fault."""

    rig: Rig
    first_look: Before
    journals: int = field(default=0, init=False)

    @property
    def source(self) -> LabHost:
        """Where the guest is now."""
        return next(host for host in self.rig.lab.hosts if WEB.name in domains(host))

    def ready(self) -> Before:
        """Have the guest run and the other host ready to receive it, and a journal that is empty."""
        source = self.source
        self.rig.remove_images(self.rig.other(source), WEB)
        if Guest(source, WEB.name).state == "shut off":
            start(Guest(source, WEB.name, WEB))
        self.journals += 1
        for old in self.rig.journal.parent.glob("*.db*"):
            old.unlink()
        self.rig.journal = self.rig.journal.with_name(f"journal-{self.journals}.db")
        return evolve(self.first_look, hosts=look_at_hosts(self.rig))


@contextmanager
def new_scene(directory: Path) -> Iterator[Scene]:
    """A lab with the guest on its first host and the journal on a small file system of its own."""
    with small_mount(directory / "journals", JOURNALS_MIB) as journals, lab_in(directory) as lab:
        for host in lab.hosts:
            host.mount_small(SMALL, SMALL_MIB)
        lab.define_guest(lab.hosts[0], WEB)
        rig = Rig(lab, journals / "journal.db")
        yield Scene(rig, look(rig, rig.alpha, WEB))


@contextmanager
def small_mount(path: Path, size_mib: int) -> Iterator[Path]:
    """A file system of its own on this machine, unmounted again at the end."""
    path.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=700", "fsm-faults", str(path)])
    try:
        yield path
    finally:
        run(["umount", str(path)])
        path.rmdir()
