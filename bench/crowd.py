"""What a crowd of migrations at once costs one engine, and how that grows; on simulated hosts.

The journal is a real one on a real disk. Each size runs in a process of its own. Its memory is told with what
the simulated hosts hold of domains and images, so the engine's own share is less than what is told.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, cast

import click
import structlog
from attrs import frozen
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fsm.engine.engine import Engine
from fsm.engine.plan import Request
from fsm.errors import FsmError
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.journal.port import Entry, Journal
from fsm.journal.records import Record
from fsm.journal.sql import open_journal

SOURCE, DESTINATION = "sim://alpha/system", "sim://beta/system"
IMAGES = "/var/lib/libvirt/images"
FSYNCS = 200
KIB = 1024
CAPTION = (
    "Seconds until all have decided, and ended. CPU and memory for each migration, the memory with what the "
    "simulated hosts hold. Commits of the journal a second, with so many records each; flushes of the disk "
    "alone a second, just before."
)


@frozen
class Crowd:
    """One run. ``decided_s``: each migration's first record is on the disk; ``done_s``: all have ended.

    ``commits`` are the journal's transactions, each flushed to the disk once; ``grown_kib`` is how much the
    process has grown at most, simulated hosts included.
    """

    migrations: int
    decided_s: float
    done_s: float
    cpu_s: float
    grown_kib: int
    threads: int
    records: int
    commits: int


class Counted:
    """A journal that counts what is written to it, and how many threads there are then."""

    def __init__(self, journal: Journal, expected: int) -> None:
        self._journal = journal
        self._expected = expected
        self._seen: set[str] = set()
        self.commits = self.appended = self.threads = 0
        self.all_decided_at_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append_all(self, entries: Sequence[Entry]) -> Sequence[Record | FsmError]:
        """See ``Journal.append_all``."""
        written = self._journal.append_all(entries)
        self.commits += 1
        self.appended += len(entries)
        self.threads = max(self.threads, threading.active_count())
        self._seen |= {entry.migration for entry in entries}
        if len(self._seen) == self._expected and not self.all_decided_at_s:
            self.all_decided_at_s = time.perf_counter()
        return written


async def _run(migrations: int, journal: Path) -> Crowd:
    world = SimulatedWorld()
    for uri in (SOURCE, DESTINATION):
        world.add_host(uri)
        world.add_pool(uri, IMAGES)
    for number in range(migrations):
        world.add_domain(SOURCE, f"web{number}", disks=("vda",), snapshots={"s1": None})
    counted = Counted(open_journal(journal), migrations)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with Engine(cast(Journal, counted), world, clock=world.clock) as engine:
        began_s, cpu_s = time.perf_counter(), time.process_time()
        handles = await asyncio.gather(
            *(
                engine.start(Request(f"web{number}", DESTINATION, SOURCE, connections=1))
                for number in range(migrations)
            )
        )
        results = await asyncio.gather(*(handle.wait() for handle in handles))
        done_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    others = {result.state for result in results} - {"committed"}
    if others:
        raise click.ClickException(f"some of {migrations} migrations ended as {', '.join(sorted(others))}")
    return Crowd(
        migrations,
        decided_s=counted.all_decided_at_s - began_s,
        done_s=done_s,
        cpu_s=cpu_s,
        grown_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib,
        threads=counted.threads,
        records=counted.appended,
        commits=counted.commits,
    )


def run(migrations: int, directory: Path) -> Crowd:
    """One crowd, in this process; the journal is removed afterwards."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory(prefix="fsm-bench-", dir=directory) as made:
        return asyncio.run(_run(migrations, Path(made) / "journal.db"))


def fsync_rate(directory: Path) -> float:
    """How often a second the disk takes 4 KiB and flushes them, by the median of ``FSYNCS`` times."""
    took_s = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(FSYNCS):
            began_s = time.perf_counter()
            file.write(bytes(4 * KIB))
            os.fdatasync(file.fileno())
            took_s.append(time.perf_counter() - began_s)
    return 1 / median(took_s)


def show(crowds: Sequence[Crowd], rates: Sequence[float], console: Console) -> None:
    """A row for each crowd; ``rates`` are the disk's own flushes a second, measured before each."""
    table = Table(
        title="Migrations at once in one engine, on simulated hosts", caption=CAPTION, box=SIMPLE_HEAD
    )
    for title in (
        *("at once", "decided", "ended", "CPU ms", "KiB", "threads"),
        *("commits", "records", "flushes"),
    ):
        table.add_column(title, justify="right")
    for crowd, rate in zip(crowds, rates, strict=True):
        each = crowd.migrations
        table.add_row(
            *(str(each), f"{crowd.decided_s:.2f}", f"{crowd.done_s:.2f}"),
            *(f"{crowd.cpu_s * 1000 / each:.1f}", f"{crowd.grown_kib / each:.0f}", str(crowd.threads)),
            *(f"{crowd.commits / crowd.done_s:.0f}", f"{crowd.records / crowd.commits:.1f}", f"{rate:.0f}"),
        )
    console.print(table)


@click.command()
@click.option(
    "--migrations",
    multiple=True,
    type=click.IntRange(1),
    default=(1, 100, 1000, 5000),
    show_default=True,
    help="So many at once; repeatable.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=Path(),
    help="Where the journal lies: on a disk, or the flushes cost nothing.",
)
def crowd(migrations: Sequence[int], directory: Path) -> None:
    """Measure what many migrations at once cost one engine (simulated hosts)."""
    crowds, rates = [], []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for number in migrations:
            rates.append(fsync_rate(directory))
            crowds.append(processes.submit(run, number, directory).result())
            click.echo(f"{number} migrations done", err=True)
    show(crowds, rates, Console())
