"""A whole bench: one lab, all rounds."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, frozen

from bench import copies, migrations, report
from bench.copies import Base, Copy
from bench.figures import order
from bench.guests import Scene, guest_spec
from bench.images import Image
from bench.migrations import Migration
from bench.remaining import Remaining
from bench.results import Results, Run, Where
from fsm.lab import IMAGES, Lab
from fsm.lab.process import run

Contender = Migration | Copy

CONTENDERS = (*migrations.MIGRATIONS, *copies.COPIES)
NAMES = tuple(one.name for one in CONTENDERS)

Say = Callable[[str], None]
Keep = Callable[[Results], None]


@frozen
class Settings:
    """What the user asked for. ``only`` names contenders; empty: all of them.

    ``pause_ms`` is how long the guest waits behind each write.
    """

    rounds: int
    images: tuple[Image, ...]
    only: tuple[str, ...] = ()
    pause_ms: int = 5

    def wants(self, contender: Contender) -> bool:
        """Whether this one takes part."""
        return not self.only or contender.name in self.only


def measure(settings: Settings, say: Say, keep: Keep) -> Results:
    """Run every contender with every image in every round. The lab is gone at the end, whatever happens.

    ``keep`` is given what there is after each run, so that a bench which is interrupted has not been in
    vain.
    """
    began = datetime.now(UTC).isoformat(timespec="seconds")
    wanted = [one for one in CONTENDERS if settings.wants(one)]
    taking_part = [one for one in wanted if not one.missing()]
    results = Results(
        began=began,
        settings=asdict(settings),
        machine=machine(),
        contenders={one.name: one.moves for one in taking_part},
        left_out={one.name: one.missing() for one in wanted if one.missing()},
        runs=(),
    )
    with Lab.up(guest=False) as lab:
        _warm_up(lab, say)
        bench = _Bench(lab, settings, taking_part, say)
        bench.make_bases()
        for number in range(settings.rounds):
            for one in bench.round(number):
                runs = (*results.runs, one)
                results = evolve(results, runs=runs, summary=report.summary(runs))
                keep(results)
    return results


def _warm_up(lab: Lab, say: Say) -> None:
    """Have both libvirtd ask their QEMU what it can; they do it once and remember, but it takes seconds."""
    say("warming up")
    for host in lab.hosts:
        host.virsh("domcapabilities")
        host.virsh("capabilities")


class _Bench:
    """One bench under way."""

    def __init__(self, lab: Lab, settings: Settings, contenders: Sequence[Contender], say: Say) -> None:
        self._lab = lab
        self._settings = settings
        self._moves = [one for one in contenders if isinstance(one, Migration)]
        self._copying = [one for one in contenders if isinstance(one, Copy)]
        self._say = say
        weights: dict[Hashable, float] = {
            (image.name, one.name): _guess_s(one, image) for image in settings.images for one in contenders
        }
        self._remaining = Remaining(weights, settings.rounds)

    def make_bases(self) -> None:
        """A file for each image that the copies copy."""
        for number, image in enumerate(self._settings.images if self._copying else ()):
            self._say(f"making the base for the copies: {image.name}")
            self._scene(image).keep_image(self._base(number).path)
        self._remaining.skip()

    def round(self, number: int) -> Iterator[Run]:
        """Every contender with every image."""
        for position, image in enumerate(self._settings.images):
            scene, base = self._scene(image), self._base(position)
            for place, migration in enumerate(order(self._moves, number)):
                where = Where(image.name, number, place)
                yield self._tell(migrations.measure(migration, scene, where))
            for place, copy in enumerate(order(self._copying, number)):
                yield self._tell(copies.measure(copy, base, Where(image.name, number, place)))

    def _scene(self, image: Image) -> Scene:
        return Scene(self._lab, guest_spec(image, self._settings.pause_ms))

    def _base(self, number: int) -> Base:
        return Base(self._lab, f"{IMAGES}/bench-base-{number}.qcow2")

    def _tell(self, run: Run) -> Run:
        self._remaining.done((run.where.image, run.contender))
        self._say(f"{_told(run)}; {self._remaining.told()}")
        return run


def _guess_s(contender: Contender, image: Image) -> float:
    """Making a guest, moving it and proving what became of it; or copying a base and comparing it."""
    gib = image.data_mib / 1024
    return 20 + 20 * gib if isinstance(contender, Migration) else 1 + 6 * gib


def _told(run: Run) -> str:
    silence = "" if run.silence_ms is None else f", longest silence {run.silence_ms:.0f} ms"
    which = f"round {run.where.round + 1}, {run.where.image}, {run.kind}, {run.contender}"
    return f"{which}: {run.seconds:.2f} s{silence}"


def machine() -> dict[str, Any]:
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
