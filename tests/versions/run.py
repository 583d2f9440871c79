"""One cell: two hosts of the pair, a guest that writes, its migration, and what is there afterwards."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from attrs import evolve, frozen

from fsm.lab import DiskSpec, Guest, GuestSpec, LabError, LabHost, SerialWatch, SnapshotSpec, revert
from tests.faults.aftermath import Aftermath, look_after
from tests.lab_rig import Event, Rig, lab_in, look
from tests.versions.cells import SHARED, Cell

RIGHT, WRONG = "right", "wrong"
COMMITTED = "committed"
ENDS = (COMMITTED, "rolled-back", "refused")
"""Where a migration may end and have lost nothing."""

WEB = GuestSpec(
    name="web",
    disks=(
        DiskSpec(target="vda", size_mib=256, data_mib=64, seed=1),
        DiskSpec(target="vdb", size_mib=64, data_mib=16, seed=2),
    ),
    # With saved memory, which the destination's QEMU has to read in a revert.
    snapshots=(SnapshotSpec("s1", None, "<first>"), SnapshotSpec("s2", "s1"), SnapshotSpec("s3", "s1")),
)
REVERT_TO = "s2"
DIRECTORY = "/var/lib/libvirt/shared"
ON_SHARED = evolve(
    WEB, disks=tuple(evolve(disk, path=f"{DIRECTORY}/web-{disk.target}.qcow2") for disk in WEB.disks)
)


@frozen
class Version:
    """What a host runs."""

    suite: str
    libvirt: str
    qemu: str

    def __str__(self) -> str:
        return f"{self.suite} (libvirt {self.libvirt}, QEMU {self.qemu})"


@frozen
class Row:
    """One line of the table. ``why`` tells what is wrong; ``reason`` why a migration did not commit.

    ``reverted`` is how the revert to a snapshot went where the guest is now, empty when well.
    """

    cell: Cell
    verdict: str
    why: str = ""
    hosts: tuple[Version, ...] = ()
    ended: str = ""
    reason: str = ""
    aftermath: Aftermath | None = None
    reverted: str = ""
    stall_ms: float | None = None
    seconds: float = 0.0


def run(cell: Cell) -> Row:
    """The cell's row. The roots of both suites must be there."""
    with tempfile.TemporaryDirectory(prefix="fsm-versions-") as directory:
        try:
            with lab_in(Path(directory), roots=cell.pair.roots) as lab:
                spec = WEB
                if cell.storage == SHARED:
                    spec = ON_SHARED
                    lab.share(DIRECTORY)
                lab.define_guest(lab.hosts[0], spec)
                return _migrate(cell, spec, Rig(lab, Path(directory) / "journal.db"))
        except (LabError, subprocess.TimeoutExpired) as error:
            return Row(cell, WRONG, f"could not be run: {error}")


def _migrate(cell: Cell, spec: GuestSpec, rig: Rig) -> Row:
    before = look(rig, rig.alpha, spec)
    began = time.monotonic()
    words = f"--merge={cell.merge}", f"--storage={cell.storage}"
    with SerialWatch(*rig.lab.serial_logs(spec.name)) as watch:
        with rig.migrating(spec.name, rig.alpha, *words) as running:
            _, result = running.finish()
        seconds = time.monotonic() - began
        ended = result.get("state", "")
        at = rig.beta if ended == COMMITTED else rig.alpha
        silent = _problem_of(lambda: Guest(at, spec.name, spec).wait_for_writes())
    after = look_after(rig, spec, before, watch.acks)
    reverted = _problem_of(lambda: revert(Guest(at, spec.name, spec), REVERT_TO))
    why = judge(ended, at.name, after, reverted) or silent
    return Row(
        cell,
        WRONG if why else RIGHT,
        why,
        tuple(map(version, cell.pair.suites, rig.lab.hosts)),
        ended,
        _reason(rig, result) or ("" if ended else running.errors.read_text().strip()),
        after,
        reverted,
        watch.longest_gap().ms,
        seconds,
    )


def judge(ended: str, at: str, after: Aftermath, reverted: str) -> str:
    """What is wrong about an end; empty when nothing is, as where all was kept and nothing moved."""
    faults = [
        (ended not in ENDS, f"ended in {ended or 'no state'}"),
        (after.hosts != (at,), f"the domain is on {' and '.join(after.hosts) or 'no host'}"),
        (after.instances != 1, f"{after.instances} instances"),
        (not after.running, "it does not run"),
        (after.acknowledged == 0, "no write was acknowledged"),
        (after.writes_lost > 0, f"{after.writes_lost} writes lost"),
        (after.snapshots_lost > 0, f"{after.snapshots_lost} snapshots lost"),
        (bool(after.leftovers), f"left behind: {', '.join(after.leftovers)}"),
        (bool(after.wrong), f"changed: {', '.join(after.wrong)}"),
        (bool(reverted), f"no revert: {reverted}"),
    ]
    return "; ".join(text for holds, text in faults if holds)


def version(suite: str, host: LabHost) -> Version:
    """What a host says that it runs."""
    lines = host.virsh("version", "--daemon").splitlines()
    told = dict(line.split(": ", 1) for line in lines if ": " in line)
    return Version(suite, told["Running against daemon"], told["Running hypervisor"].removeprefix("QEMU "))


def _reason(rig: Rig, result: Event) -> str:
    """Why it did not commit, with the hosts' roles in place of their addresses."""
    findings = [finding["message"] for finding in result.get("findings", ())]
    reason = "; ".join(findings) or str(result.get("cause", ""))
    return reason.replace(rig.alpha.uri, "source").replace(rig.beta.uri, "destination")


def _problem_of(step: Callable[[], None]) -> str:
    """Do it; empty when it went well, else what the lab says."""
    try:
        step()
    except LabError as error:
        return str(error)
    return ""
