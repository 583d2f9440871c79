"""Drives the ``fsm`` command on the hosts of a lab, and compares everything before and after."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen

from fsm.lab import SERIAL, GuestSpec, Lab, LabHost, SerialWatch, active_digest, evidence
from fsm.lab.evidence import Evidence
from fsm.lab.guest import Guest
from fsm.lab.serial import Ack
from tests.lab_definitions import definition

NEEDS_LAB = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces"),
]
LONG_LAB = [*NEEDS_LAB, pytest.mark.long]
"""For what takes minutes and is not what a change breaks first."""
COMMAND_TIMEOUT_S = 240
LIBVIRT = "/var/lib/libvirt"
OUR_POOL = re.compile("fsm-[0-9a-f]{20}")
"""What a migration opens a directory by. The pool of signs, ``fsm-guard``, is none of it."""
OUR_NAMES = ("fsm-guest.img", "fsm-guard")
"""Of what begins with "fsm-" on a host: the guest's initrd, and the directory of signs. They stay."""

Event = dict[str, Any]


@contextmanager
def lab_in(
    directory: Path,
    *,
    access_control: bool = False,
    roots: tuple[str, str] = ("/", "/"),
    host_names: tuple[str, str] = ("alpha", "beta"),
) -> Iterator[Lab]:
    """Two hosts without a guest, taken down at the end whatever happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSM_LAB_DIR", str(directory))
        with Lab.up(guest=False, access_control=access_control, roots=roots, host_names=host_names) as lab:
            yield lab


@contextmanager
def slow_link(source: LabHost, rate: str) -> Iterator[None]:
    """Nothing leaves the host faster than that, in the words of ``tc``."""
    limit = ["root", "tbf", "rate", rate, "burst", "128kb", "latency", "50ms"]
    source.run(["tc", "qdisc", "add", "dev", "eth0", *limit])
    try:
        yield
    finally:
        source.run(["tc", "qdisc", "del", "dev", "eth0", "root"])


@define
class Running:
    """An ``fsm`` command under way, told of by its JSON lines."""

    process: subprocess.Popen[str]
    errors: Path
    events: list[Event] = field(factory=list)

    def until(self, wanted: Callable[[Event], bool]) -> Event | None:
        """Read on to the first event that is wanted; None when the command ends without one."""
        for line in self.process.stdout or ():
            self.events.append(json.loads(line))
            if wanted(self.events[-1]):
                return self.events[-1]
        return None

    def finish(self) -> tuple[int, Event]:
        """Read to the end: the exit code and the last line."""
        self.until(lambda _event: False)
        return self.process.wait(), self.events[-1] if self.events else {}

    def go_on(self) -> None:
        """Let a command go on that is held at a failpoint."""
        if self.process.stdin is not None:
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Signal the command; one that has ended already is left alone."""
        self.process.send_signal(number)


@define
class Rig:
    """The hosts, and the command with a journal of its own.

    ``program`` is the Python module, with words of its own, that stands for ``fsm``.
    """

    lab: Lab
    journal: Path
    program: tuple[str, ...] = ("fsm",)

    @property
    def alpha(self) -> LabHost:
        """The first host."""
        return self.lab.hosts[0]

    @property
    def beta(self) -> LabHost:
        """The second host."""
        return self.lab.hosts[1]

    def other(self, host: LabHost) -> LabHost:
        """The host that this one is not."""
        return next(one for one in self.lab.hosts if one.name != host.name)

    def command(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", *self.program, "--journal", str(self.journal), *words]

    def fsm(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )

    def migrate(self, domain: str, source: LabHost, *options: str) -> subprocess.CompletedProcess[str]:
        """Migrate to the other host."""
        uris = ("--from", source.uri, "--to", self.other(source).uri)
        return self.fsm("migrate", *uris, *options, "--", domain)

    @contextmanager
    def migrating(
        self, domain: str, source: LabHost, *options: str, states: str | None = None
    ) -> Iterator[Running]:
        """Begin to migrate to the other host, and have the events. ``states`` names another machine."""
        machine = ("--states", states) if states else ()
        uris = ("--from", source.uri, "--to", self.other(source).uri)
        with self.running(*machine, "migrate", *uris, "--json", *options, "--", domain) as running:
            yield running

    @contextmanager
    def running(self, *words: str) -> Iterator[Running]:
        """Begin a command that tells JSON lines, and have the events."""
        errors = self.lab.directory / "fsm.stderr"
        with (
            errors.open("w", encoding="utf-8") as stderr,
            subprocess.Popen(
                self.command(*words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as process,
        ):
            timer = threading.Timer(COMMAND_TIMEOUT_S, process.kill)
            timer.start()
            try:
                yield Running(process, errors)
            finally:
                timer.cancel()
                process.kill()

    def unfinished(self) -> list[str]:
        """The ids of the migrations that have not ended."""
        lines = self.fsm("list", "--unfinished", "--json").stdout.splitlines()
        return [json.loads(line)["migration"] for line in lines]

    def remove_images(self, host: LabHost, spec: GuestSpec) -> None:
        """What an operator does before a migration back: a migration overwrites nothing."""
        for disk in spec.disks:
            if not disk.on_both_hosts and not disk.empty:
                host.path(disk.image(spec.name)).unlink(missing_ok=True)

    def destroy(self, spec: GuestSpec) -> None:
        """Remove a guest from wherever it is, with its files, and what a test that failed has left of it."""
        for host in self.lab.hosts:
            host.start_libvirtd()
            if spec.name not in domains(host):
                continue
            if Guest(host, spec.name).state != "shut off":
                host.virsh("destroy", "--domain", spec.name)
            host.virsh("undefine", "--domain", spec.name, "--snapshots-metadata")
        for host in self.lab.hosts:
            for disk in spec.disks:
                if not disk.empty:
                    host.path(disk.image(spec.name)).unlink(missing_ok=True)
            self.sweep(host)
        # The next one's migrations are told from those that such a test has not ended.
        for ending in ("", "-wal", "-shm"):
            Path(f"{self.journal}{ending}").unlink(missing_ok=True)

    def sweep(self, host: LabHost) -> None:
        """Remove what a migration leaves on a host that nobody has gone on with."""
        for name in pools(host):
            if OUR_POOL.fullmatch(name):
                host.virsh("pool-destroy", name)
        for path in files(host):
            if ".fsm-" in path.rpartition("/")[2]:
                host.path(path).unlink(missing_ok=True)


def by_nbd(rig: Rig, source: LabHost) -> list[str]:
    """The options of a migration whose bases go straight from host to host."""
    shells = {"source": source, "destination": rig.other(source)}
    words = [f"--{side}-shell={shlex.join(host.enter)}" for side, host in shells.items()]
    return ["--transport=nbd", f"--nbd-address={source.address}", *words]


# What is compared


@frozen
class Before:
    """A guest as it was before its migration. ``still`` holds digests of disks on which nobody writes."""

    evidence: Evidence
    definition: str
    still: dict[str, str]
    hosts: dict[str, dict[str, object]]


def domains(host: LabHost) -> list[str]:
    """The names of all domains of a host."""
    return [name for name in host.virsh("list", "--all", "--name").split("\n") if name]


def pools(host: LabHost) -> dict[str, bool]:
    """All storage pools of a host, and whether they are active."""
    names = [name for name in host.virsh("pool-list", "--all", "--name").split("\n") if name.strip()]
    active = host.virsh("pool-list", "--name").split("\n")
    return {name.strip(): name in active for name in names}


def files(host: LabHost) -> list[str]:
    """Every file that a migration may have made on a host; QEMU keeps sockets and logs of its own."""
    own = [word for path in (f"{LIBVIRT}/qemu", SERIAL) for word in ("-not", "-path", f"{path}/*")]
    listed = host.run(["find", LIBVIRT, *own, "-print0"])
    return sorted(listed.split("\0"))


def picture(host: LabHost) -> dict[str, object]:
    """All that a refused migration must not have touched."""
    return {
        "files": files(host),
        "pools": pools(host),
        "domains": {
            name: (
                definition(host, name),
                host.virsh("dumpxml", "--domain", name),
                evidence.snapshot_metadata(host, name),
                Guest(host, name).state,
            )
            for name in domains(host)
        },
    }


def look(rig: Rig, host: LabHost, spec: GuestSpec) -> Before:
    """Everything to be compared."""
    kept = evidence.collect(host, spec), definition(host, spec.name), still(host, spec)
    return Before(*kept, look_at_hosts(rig))


def look_at_hosts(rig: Rig) -> dict[str, dict[str, object]]:
    """What no migration changes about the hosts themselves, besides the domain's own images."""
    return {host.name: {"pools": pools(host), "files": files(host)} for host in rig.lab.hosts}


def still(host: LabHost, spec: GuestSpec) -> dict[str, str]:
    """Digests of the disks on which the guest does not write; of all while it is not running."""
    runs = Guest(host, spec.name).state == "running"
    return {
        disk.target: active_digest(disk.image(spec.name), image_format=disk.format, enter=host.enter)
        for disk in spec.disks
        if not disk.empty and not (runs and disk.written)
    }


def failed(claims: list[evidence.Claim]) -> list[str]:
    """The claims that do not hold."""
    return [f"{claim.what}: {claim.seen}" for claim in claims if not claim.holds]


def check_kept(rig: Rig, spec: GuestSpec, before: Before, at: LabHost, acks: list[Ack]) -> None:
    """The guest is on this host alone, with all that it had; nothing is left behind anywhere."""
    elsewhere = rig.other(at)
    assert spec.name in domains(at)
    assert spec.name not in domains(elsewhere)
    assert at.qemu_pids(spec.name) != []
    assert elsewhere.qemu_pids(spec.name) == []
    assert failed(evidence.compare(before.evidence, evidence.collect(at, spec))) == []
    assert still(at, spec) == before.still
    assert definition(at, spec.name) == before.definition
    if acks:
        assert failed(evidence.writes(at, spec, acks)) == []
    for host in rig.lab.hosts:
        names = [path.rpartition("/")[2] for path in files(host)]
        assert [name for name in names if "fsm-" in name and name not in OUR_NAMES] == []
        assert pools(host) == before.hosts[host.name]["pools"]


def check_at_rest(rig: Rig, spec: GuestSpec, before: Before, at: LabHost, acks: list[Ack]) -> None:
    """The same of a guest that may have been paused or have ended: its disks are not as they were before."""
    assert spec.name not in domains(rig.other(at))
    assert failed(evidence.compare(before.evidence, evidence.collect(at, spec))) == []
    assert acks
    assert failed(evidence.writes(at, spec, acks)) == []
    for host in rig.lab.hosts:
        assert [path for path in files(host) if ".fsm-" in path.rpartition("/")[2]] == []
        assert pools(host) == before.hosts[host.name]["pools"]
    assert rig.unfinished() == []


def check_untouched(rig: Rig, before: Before, host: LabHost) -> None:
    """No file has come to a host nor gone from it."""
    assert files(host) == before.hosts[host.name]["files"]


@contextmanager
def watched(rig: Rig, spec: GuestSpec) -> Iterator[SerialWatch]:
    """Watch what the guest acknowledges; it must have written on both sides of what happens within."""
    with SerialWatch(*rig.lab.serial_logs(spec.name)) as watch:
        yield watch
        at = next(host for host in rig.lab.hosts if host.qemu_pids(spec.name))
        Guest(at, spec.name, spec).wait_for_writes()
