"""What a bench has measured, and the file that keeps all of it."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

from attrs import asdict, field, frozen

FORMAT = 1


class Kind(StrEnum):
    """What a contender does."""

    MIGRATION = "migration"
    BASE_COPY = "base copy"


@frozen
class Phase:
    """One stretch of a migration: the machine's state, what went on in it, and how long."""

    state: str
    step: str
    seconds: float


@frozen(kw_only=True)
class Run:
    """One contender in one round. Numbers of a guest are missing where no guest takes part.

    ``command_cpu_s`` is what the commands used, ``hosts_cpu_s`` what all processes of both hosts used
    meanwhile (libvirtd and QEMU, the guest's own work included). ``sent_bytes`` left the source by network,
    ``copied_bytes`` went from file to file on this machine. The images' bytes are the allocated ones.
    ``load_average`` was seen just before: what else the machine was doing.
    """

    contender: str
    kind: Kind
    round: int
    place: int
    seconds: float
    command_cpu_s: float
    hosts_cpu_s: float
    sent_bytes: int
    copied_bytes: int
    source_image_bytes: int
    destination_image_bytes: int
    load_average: float
    silence_ms: float | None = None
    silence_resolution_ms: float | None = None
    undisturbed_silence_ms: float | None = None
    snapshots_before: int | None = None
    snapshots_kept: int | None = None
    acknowledged_writes: int | None = None
    phases: tuple[Phase, ...] = ()


@frozen(kw_only=True)
class Results:
    """Everything one bench has measured."""

    began: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    contenders: dict[str, str]
    """Name of a contender -> what it does and moves."""
    left_out: dict[str, str]
    """Name of a contender that could not take part -> why."""
    runs: tuple[Run, ...]
    summary: list[dict[str, Any]] = field(factory=list)


def save(results: Results, path: Path) -> None:
    """Write the file: every raw value of every run, and the summary."""
    text = json.dumps({"format": FORMAT, **asdict(results)}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
