"""What each fault does to the hosts, and how its cause is removed again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from fsm.lab import Guest, LabError, LabHost
from fsm.lab.process import wait_until
from tests.faults.scene import SMALL, WEB
from tests.lab_rig import Rig, Running

POWER_OFF_TIMEOUT_S = 20.0


class TooLate(LabError):
    """The migration had left the state before the fault came."""


@frozen
class Place:
    """A migration under way, for whoever disturbs it."""

    rig: Rig
    source: LabHost
    destination: LabHost
    engine: Running


Act = Callable[[Place], None]


@frozen
class Harm:
    """Doing it, removing its cause, and what an operator does whom ``stuck`` tells to, if it does."""

    do: Act
    undo: Act = lambda _place: None
    advised: Callable[[Place], str] = lambda _place: ""


def fill(directory: Path) -> None:
    """Take all the space that is left on a file system."""
    with (directory / "full").open("wb") as file, suppress(OSError):
        free = os.statvfs(directory)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
    with (directory / "full").open("ab") as file, suppress(OSError):
        while os.statvfs(directory).f_bavail:  # ends: each turn takes some, or there is none
            os.posix_fallocate(file.fileno(), file.tell(), 4096)
            file.seek(4096, os.SEEK_CUR)


def drain(directory: Path) -> None:
    """Give the space back."""
    (directory / "full").unlink()


def power_off(place: Place) -> None:
    """The guest's kernel switches the machine off, as its magic key for that asks.

    QEMU is told of the key by its monitor: libvirt's own call would wait for the end of a migration.
    """
    at = next(host for host in (place.source, place.destination) if host.qemu_pids(WEB.name))
    keys = [{"type": "qcode", "data": key} for key in ("alt", "sysrq", "o")]
    pressed = json.dumps({"execute": "send-key", "arguments": {"keys": keys}})
    try:
        at.virsh("qemu-monitor-command", "--domain", WEB.name, pressed)
    except LabError as error:
        raise TooLate(str(error)) from error
    wait_until(
        lambda: (
            WEB.name in at.virsh("list", "--all", "--name").split()
            and Guest(at, WEB.name).state == "shut off"
        ),
        timeout=POWER_OFF_TIMEOUT_S,
        what="the end of the guest",
    )


def restart_a_failed_libvirtd(place: Place) -> str:
    """Start libvirt's daemon at the source anew if it died with the guest's end, or holds the domain since.

    Tells that it did; empty where neither is the case.

    Both are libvirt 9.0's own faults (docs/decisions.md); what to do is told by the record of ``stuck``.
    """
    alive = place.source.libvirtd_pid() is not None
    told = json.dumps(place.engine.events[-1:])
    if alive and "cannot acquire state change lock" not in told:
        return ""
    if alive:
        place.source.kill_libvirtd()
    place.source.start_libvirtd()
    return "libvirtd of the source started anew, as stuck advised"


def _journals(place: Place) -> Path:
    return place.rig.journal.parent


_CUT = Harm(lambda place: place.rig.lab.cut(), lambda place: place.rig.lab.mend())

HARMS = {
    "engine-midway": Harm(lambda place: place.engine.send(signal.SIGKILL)),
    "source-libvirtd": Harm(
        lambda place: place.source.kill_libvirtd(), lambda place: place.source.start_libvirtd()
    ),
    "destination-libvirtd": Harm(
        lambda place: place.destination.kill_libvirtd(), lambda place: place.destination.start_libvirtd()
    ),
    "destination-qemu": Harm(lambda place: place.destination.kill_qemu(WEB.name)),
    "cut-5s": _CUT,
    "cut-60s": _CUT,
    "destination-off-60s": Harm(
        lambda place: place.rig.lab.cut(place.destination), lambda place: place.rig.lab.mend()
    ),
    "destination-full": Harm(
        lambda place: fill(place.destination.path(SMALL)), lambda place: drain(place.destination.path(SMALL))
    ),
    "journal-full": Harm(lambda place: fill(_journals(place)), lambda place: drain(_journals(place))),
    "power-off": Harm(power_off, advised=restart_a_failed_libvirtd),
}


def resume_guest(place: Place) -> None:
    """What an operator does with a guest that had no space, once there is some."""
    if Guest(place.destination, WEB.name).state == "paused":
        place.destination.virsh("resume", "--domain", WEB.name)


def make_unwritable(place: Place) -> None:
    """Have no process write to the copied base at the destination, which lets the commit fail there."""
    place.destination.run(["chattr", "+i", f"{SMALL}/b.qcow2"])


def make_writable(place: Place) -> None:
    """Undo ``make_unwritable``."""
    place.destination.run(["chattr", "-i", f"{SMALL}/b.qcow2"])
