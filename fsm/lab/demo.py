"""The demonstration: a live migration that keeps the snapshots, a failing one that rolls back, and the proof.

Nothing is simulated: two libvirtd, QEMU, a Linux guest that writes all the time, and the ``fsm`` command.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fsm.lab import evidence
from fsm.lab.errors import LabError
from fsm.lab.evidence import Claim, Evidence
from fsm.lab.guest import DEFAULT_GUEST, revert
from fsm.lab.host import LabHost
from fsm.lab.lab import Lab
from fsm.lab.serial import SerialWatch

SPEC = DEFAULT_GUEST
# Slow enough for the memory to be on its way when the destination's QEMU is killed.
KILL_BANDWIDTH_MIB_PER_S = 32
COMMAND_TIMEOUT_S = 300
ROLLED_BACK = 3

Say = Callable[[str], None]


def run(say: Say) -> None:
    """Run it all. Raises ``LabError`` when any claim does not hold."""
    began = time.monotonic()
    say("Two hosts, and a guest with two qcow2 disks and the snapshots s1, s2, s3:")
    with Lab.up(progress=lambda text: say(f"  {text}")) as lab:
        alpha, beta = lab.hosts
        before = evidence.collect(alpha, SPEC)
        claims = _forward(lab, alpha, beta, before, say)
        claims += _revert(beta, say)
        # The originals stayed at alpha; a migration never overwrites, so the operator removes them.
        for disk in SPEC.disks:
            alpha.path(disk.image(SPEC.name)).unlink()
        claims += _back(lab, beta, alpha, evidence.collect(beta, SPEC), say)
    say(f"The whole demonstration took {time.monotonic() - began:.0f} s.")
    if failed := [claim.what for claim in claims if not claim.holds]:
        raise LabError(f"these claims do not hold: {'; '.join(failed)}")
    say(f"All {len(claims)} claims hold.")


def _forward(lab: Lab, source: LabHost, destination: LabHost, before: Evidence, say: Say) -> list[Claim]:
    command = _migrate(lab, source, destination)
    say("\n$ " + " ".join(["fsm", *command[3:]]))
    with SerialWatch(*lab.serial_logs()) as watch:
        finished = subprocess.run(command, timeout=COMMAND_TIMEOUT_S, check=False)
        evidence.guest_on(destination, SPEC).wait_for_writes()
    claims = [Claim("exit code of fsm migrate", str(finished.returncode), finished.returncode == 0)]
    claims += evidence.whereabouts(lab, SPEC.name, destination)
    claims += evidence.compare(before, evidence.collect(destination, SPEC))
    claims += evidence.writes(destination, SPEC, watch.acks)
    claims.append(evidence.leftovers(lab))
    claims.append(_downtime(watch))
    _print(f"Live migration {source.name} -> {destination.name}", claims)
    return claims


def _revert(host: LabHost, say: Say) -> list[Claim]:
    guest = evidence.guest_on(host, SPEC)
    say(f"\n$ virsh -c {host.uri} snapshot-revert {SPEC.name} s2")
    revert(guest, "s2")
    claims = [
        Claim(f"{host.name}: after the revert to s2", f"{guest.state}, writing", guest.state == "running")
    ]
    _print("Revert at the destination", claims)
    return claims


def _back(lab: Lab, source: LabHost, destination: LabHost, before: Evidence, say: Say) -> list[Claim]:
    command = [
        *_migrate(lab, source, destination),
        "--json",
        "--bandwidth",
        str(KILL_BANDWIDTH_MIB_PER_S),
    ]
    say("\n$ " + " ".join(["fsm", *command[3:]]) + f"\n  and kill -9 of QEMU on {destination.name} mid-way")
    with SerialWatch(*lab.serial_logs()) as watch:
        killed, exit_code = _run_and_kill(command, destination, say)
        evidence.guest_on(source, SPEC).wait_for_writes()
    claims = [
        Claim("QEMU at the destination killed mid-way", f"pid {killed}", bool(killed)),
        Claim("exit code of fsm migrate (3: rolled back)", str(exit_code), exit_code == ROLLED_BACK),
    ]
    claims += evidence.whereabouts(lab, SPEC.name, source)
    claims += evidence.compare(before, evidence.collect(source, SPEC))
    claims += evidence.writes(source, SPEC, watch.acks)
    claims.append(evidence.leftovers(lab))
    claims.append(evidence.absent(destination, [disk.image(SPEC.name) for disk in SPEC.disks]))
    claims.append(_downtime(watch))
    _print(f"Failing migration {source.name} -> {destination.name}, rolled back", claims)
    return claims


def _run_and_kill(command: list[str], destination: LabHost, say: Say) -> tuple[int, int]:
    """Run the command and kill the destination's QEMU once memory is under way; its pid and the exit code."""
    killed = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, _at_most(process):
        for line in process.stdout or ():
            event = json.loads(line)
            if event["event"] == "record" and event["phase"] == "outcome" and event["step"] == "transition":
                say(f"{event['state']} -> {event['dest'] if not event['error'] else event['error']}")
            under_way = (
                event["event"] == "progress" and event["phase"] == "memory" and event["done_bytes"] > 0
            )
            if under_way and not killed and destination.qemu_pids(SPEC.name):
                killed = destination.qemu_pids(SPEC.name)[0]
                destination.kill_qemu(SPEC.name)
    return killed, process.returncode


@contextmanager
def _at_most(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a command that does not come to an end."""
    timer = threading.Timer(COMMAND_TIMEOUT_S, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _migrate(lab: Lab, source: LabHost, destination: LabHost) -> list[str]:
    journal = str(lab.directory / "journal.db")
    command = [sys.executable, "-m", "fsm", "--journal", journal, "migrate", SPEC.name]
    return [*command, "--from", source.uri, "--to", destination.uri]


def _downtime(watch: SerialWatch) -> Claim:
    gap = watch.longest_gap(*SPEC.written_targets)
    seen = f"{gap.ms:.0f} ms on {gap.disk} (+- {gap.resolution_ms:.0f} ms)"
    return Claim("longest silence of the guest's disks", seen, holds=True)


def _print(title: str, claims: list[Claim]) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("claim", "seen", "holds"):
        table.add_column(heading)
    for claim in claims:
        table.add_row(escape(claim.what), escape(claim.seen), "yes" if claim.holds else "NO")
    Console(width=110).print(table)
