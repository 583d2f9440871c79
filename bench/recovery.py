"""How long it takes until a crowd of migrations, whose engine died, is in hand again; on simulated hosts.

The hosts are simulated, and so is the engine's death: it lets go of each migration after another record. The
journal is a real one on a real disk, and what is measured is the engine: to take the leases, to read the
histories, to observe both hosts, to decide, and to have the first record that follows on the disk.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import click
import structlog
from attrs import frozen
from rich.console import Console
from rich.table import Table

from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.engine.plan import Request
from fsm.errors import FsmError
from fsm.hypervisor.simulated import SimulatedWorld, WorldState
from fsm.journal.port import Entry, Journal
from fsm.journal.records import Record
from fsm.journal.sql import open_journal

SOURCE, DESTINATION = "sim://alpha/system", "sim://beta/system"
IMAGES = "/var/lib/libvirt/images"
LOOK_S = 0.01


@frozen
class Take:
    """One take-over of them all. ``decided_s``: the last one's first decision is on the disk."""

    taken_s: float
    decided_s: float
    cpu_s: float
    threads: int
    descriptors: int
    connections: int


class Watched:
    """A journal that notes when each migration's first record was written."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.decided: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append_all(self, entries: Sequence[Entry]) -> Sequence[Record | FsmError]:
        """See ``Journal.append_all``."""
        written = self._journal.append_all(entries)
        self.decided |= {entry.migration for entry in entries}
        return written


async def _let_die(engine: Engine, request: Request, after: int) -> int:
    """Drive until so many records are written, then let go; how many there are."""
    written, died = 0, asyncio.Event()

    def count(_record: Record) -> None:
        nonlocal written
        written += 1
        if written == after:
            died.set()

    handle = await engine.start(request, on_record=count)
    ends = asyncio.ensure_future(died.wait()), asyncio.ensure_future(handle.wait())
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await handle.detach()
    for end in ends:
        end.cancel()
    return written


async def _make(number: int, journal: Path, say: Callable[[str], None]) -> WorldState:
    world = SimulatedWorld()
    for uri in (SOURCE, DESTINATION):
        world.add_host(uri)
        world.add_pool(uri, IMAGES)

    def request(name: str) -> Request:
        world.add_domain(SOURCE, name, disks=("vda",), snapshots={"s1": None})
        return Request(name, source_uri=SOURCE, destination_uri=DESTINATION, connections=1)

    async with Engine(open_journal(journal), world, clock=world.clock) as engine:
        whole = await _let_die(engine, request("whole"), after=1000)
        for one in range(number):
            # Not after the last ones: what is told of a record comes when the next may be under way.
            await _let_die(engine, request(f"web{one}"), after=1 + one % (whole - 3))
            if one % 100 == 99:
                say(f"{one + 1} of {number} migrations begun")
    return world.state


async def _take_over(state: WorldState, journal: Path) -> Take:
    world = SimulatedWorld(state=copy.deepcopy(state))
    watched = Watched(open_journal(journal))
    async with Engine(cast(Journal, watched), world, clock=world.clock) as engine:
        began_s, cpu_s = time.perf_counter(), time.process_time()
        handles, left = await engine.resume_all()
        taken_s = time.perf_counter() - began_s
        if left:
            raise left[0]
        threads = descriptors = 0
        while len(watched.decided) < len(handles):  # ends with the first record of the last one
            await asyncio.sleep(LOOK_S)
            threads = max(threads, threading.active_count())
            descriptors = max(descriptors, len(os.listdir("/proc/self/fd")))
            _raise_early(handles, watched.decided)
        decided_s = time.perf_counter() - began_s
        cpu_s = time.process_time() - cpu_s
        await asyncio.gather(*(handle.detach() for handle in handles))
    connections = sum(call.name == "connect" for call in world.calls)
    return Take(taken_s, decided_s, cpu_s, threads, descriptors, connections)


def _raise_early(handles: Sequence[Handle], decided: set[str]) -> None:
    for handle in handles:
        if handle.ended and handle.migration not in decided:
            raise click.ClickException(f"migration {handle.migration} ended without a decision")


def show(takes: Sequence[Take], states: Counter[str], console: Console) -> None:
    """A row for each take-over."""
    names = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    table = Table(title=f"{states.total()} unfinished migrations: {names}")
    for title in ("taken over, s", "decided, s", "CPU s", "threads", "open files", "connections"):
        table.add_column(title, justify="right")
    for take in takes:
        seconds = (f"{value:.2f}" for value in (take.taken_s, take.decided_s, take.cpu_s))
        table.add_row(*seconds, str(take.threads), str(take.descriptors), str(take.connections))
    console.print(table)


@click.command()
@click.option("--migrations", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=Path(),
    help="Where the journal lies while it is measured: on a disk, or the flushes cost nothing.",
)
def recovery(migrations: int, rounds: int, directory: Path) -> None:
    """Measure how soon unfinished migrations whose engine died are all in hand again (simulated hosts)."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with (
        tempfile.TemporaryDirectory(prefix="fsm-bench-") as made_in,
        tempfile.TemporaryDirectory(prefix="fsm-bench-", dir=directory) as measured_in,
    ):
        made, measured = Path(made_in) / "journal.db", Path(measured_in) / "journal.db"
        state = asyncio.run(_make(migrations, made, lambda text: click.echo(text, err=True)))
        states = Counter(header.state for header in open_journal(made).headers(unfinished=True))
        takes = []
        for _ in range(rounds):
            shutil.copyfile(made, measured)
            takes.append(asyncio.run(_take_over(state, measured)))
            for left in measured.parent.iterdir():
                left.unlink()
    show(takes, states, Console())
