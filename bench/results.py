"""What a bench has measured, and the file that keeps all of it."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import cattrs
from attrs import asdict, field, frozen

from fsm.errors import BadInput

FORMAT = 2


class Kind(StrEnum):
    """What a contender does."""

    MIGRATION = "migration"
    BASE_COPY = "base copy"


@frozen
class Where:
    """Which run of a contender: with which image, in which round, at which place in its order."""

    image: str
    round: int
    place: int


@frozen
class Phase:
    """One stretch of a migration: the machine's state, what went on in it, and how long."""

    state: str
    step: str
    seconds: float


@frozen
class InState:
    """What a guest went through in one of the machine's states; of another contender: in all of it.

    The writes are those acknowledged by its disks, ``of_undisturbed`` by its rate just before; both are
    missing for a state that was too short. ``stall_ms`` is the longest time without any, as far as it lies in
    this state. ``own_s`` is how long no call to a host was under way, where that is known.
    """

    state: str
    seconds: float
    writes_per_s: float | None
    of_undisturbed: float | None
    stall_ms: float
    own_s: float | None = None


@frozen(kw_only=True)
class Run:
    """One contender with one image in one round. Numbers of a guest are missing where no guest takes part.

    ``command_cpu_s`` is what the commands used, ``hosts_cpu_s`` what all processes of both hosts used
    meanwhile (libvirtd and QEMU, the guest's own work included). ``sent_bytes`` left the source by network,
    ``copied_bytes`` went from file to file on this machine. The images' bytes are the allocated ones.
    ``load_average`` was seen just before: what else the machine was doing. ``own_s`` is how long the engine
    had no call to a host under way, from its migration's creation to its last record.
    """

    contender: str
    kind: Kind
    where: Where
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
    silence_state: str = ""
    undisturbed_silence_ms: float | None = None
    undisturbed_writes_per_s: float | None = None
    snapshots_before: int | None = None
    snapshots_kept: int | None = None
    acknowledged_writes: int | None = None
    phases: tuple[Phase, ...] = ()
    states: tuple[InState, ...] = ()
    own_s: float | None = None


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
    """Write the file, or replace it whole: every raw value of every run, and the summary."""
    text = json.dumps({"format": FORMAT, **asdict(results)}, indent=1, ensure_ascii=False)
    new = path.with_name(f"{path.name}.new")
    new.write_text(text + "\n", encoding="utf-8")
    new.replace(path)


def load(path: Path) -> Results:
    """Read such a file. Raises ``BadInput`` for any other."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") == FORMAT:
            return cattrs.structure(data, Results)
    except (ValueError, LookupError, TypeError, AttributeError, cattrs.BaseValidationError) as error:
        raise BadInput(f"{path} holds no results of a bench: {error}") from error
    raise BadInput(f"{path} holds results of another version of the bench")
