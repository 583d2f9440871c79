"""A whole bench: one lab, all rounds."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from bench import copies, migrations, report
from bench.copies import Copy
from bench.figures import order
from bench.guests import Scene, guest_spec
from bench.migrations import Migration
from bench.results import Kind, Results, Run
from fsm.lab import Lab
from fsm.lab.process import run

REFERENCES = {Kind.MIGRATION: migrations.VIRSH, Kind.BASE_COPY: copies.REFERENCE}
NAMES = tuple(one.name for one in (*migrations.MIGRATIONS, *copies.COPIES))

Say = Callable[[str], None]


@frozen
class Settings:
    """What the user asked for. ``only`` names contenders; empty: all of them."""

    rounds: int
    size_mib: int
    data_mib: int
    only: tuple[str, ...] = ()

    def wants(self, contender: Migration | Copy) -> bool:
        """Whether this one takes part."""
        return not self.only or contender.name in self.only


def measure(settings: Settings, say: Say) -> Results:
    """Run every contender in every round. The lab is gone at the end, whatever happens."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    moves = [one for one in migrations.MIGRATIONS if settings.wants(one)]
    wanted = [one for one in copies.COPIES if settings.wants(one)]
    copying = [one for one in wanted if not one.missing()]
    runs: list[Run] = []
    with Lab.up(guest=False) as lab:
        scene = Scene(lab, guest_spec(settings.size_mib, settings.data_mib))
        _warm_up(scene, say)
        if copying:
            say("making the base for the copies")
            copies.make_base(scene)
        for number in range(settings.rounds):
            runs += _round(scene, number, moves, copying, say)
    return Results(
        began=began,
        settings=asdict(settings),
        machine=_machine(),
        contenders={**{one.name: one.moves for one in moves}, **{one.name: one.moves for one in copying}},
        left_out={one.name: one.missing() for one in wanted if one.missing()},
        runs=tuple(runs),
        summary=report.summary(runs, REFERENCES),
    )


def _warm_up(scene: Scene, say: Say) -> None:
    """Have both libvirtd ask their QEMU what it can; they do it once and remember, but it takes seconds."""
    say("warming up")
    for host in scene.lab.hosts:
        host.virsh("domcapabilities")
        host.virsh("capabilities")


def _round(
    scene: Scene, number: int, moves: Sequence[Migration], copying: Sequence[Copy], say: Say
) -> list[Run]:
    runs = []
    for place, migration in enumerate(order(moves, number)):
        runs.append(migrations.measure(migration, scene, round_number=number, place=place))
        say(_told(runs[-1]))
    for place, copy in enumerate(order(copying, number)):
        runs.append(copies.measure(copy, scene, round_number=number, place=place))
        say(_told(runs[-1]))
    return runs


def _told(run: Run) -> str:
    silence = "" if run.silence_ms is None else f", longest silence {run.silence_ms:.0f} ms"
    return f"round {run.round + 1}, {run.kind}, {run.contender}: {run.seconds:.2f} s{silence}"


def _machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // report.MIB,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libvirt": run(["virsh", "--version"]).strip(),
        "qemu": run(["qemu-img", "--version"]).splitlines()[0],
        "guests": "emulated, without KVM",
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
