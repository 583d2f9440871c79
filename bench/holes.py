"""Whether holes cost anything: a large file with little in it against a dense one with as much."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import click
from attrs import asdict, frozen
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import copies
from bench.copies import NBD, NBDCOPY_FLUSHED, STREAMS, Base
from bench.figures import Spread, order, spread
from bench.goals import MISSED
from bench.remaining import Remaining
from bench.results import Results, Run, Where, save
from bench.session import machine
from bench.telling import console, lab_command, say
from fsm.lab import IMAGES, Lab, LabHost

AT_MOST = 1.15
DENSE, HOLES = "dense", "with holes"
MIB = 1024 * 1024
BLOCK = 65536
SEED = 1


@frozen
class Sparse:
    """A file's length, and the pieces of data that lie in it at random, none touching another."""

    size_mib: int
    data_mib: int
    pieces: int

    def write(self, host: LabHost, path: str, *, scattered: bool) -> None:
        """The same data, scattered over the length or in one piece in a file no longer than that."""
        values = random.Random(SEED)  # noqa: S311 - where data lie, and contents to compare
        length = self.data_mib * MIB // self.pieces // BLOCK * BLOCK
        offsets = [number * length for number in range(self.pieces)]
        size = self.pieces * length
        if scattered:
            size = self.size_mib * MIB
            # A slot holds a piece and a hole behind it.
            slots = size // (length + BLOCK)
            offsets = [slot * (length + BLOCK) for slot in sorted(values.sample(range(slots), self.pieces))]
        with host.path(path).open("wb") as file:
            file.truncate(size)
            for offset in offsets:
                file.seek(offset)
                file.write(values.randbytes(length))


def measure(lab: Lab, sparse: Sparse, rounds: int, output: Path) -> Results:
    """Both files in every round by both transports, and by ``nbdcopy``, which shows what the disk takes.

    The file of results is written after each run.
    """
    began = datetime.now(UTC).isoformat(timespec="seconds")
    files = {DENSE: Base(lab, f"{IMAGES}/bench-dense"), HOLES: Base(lab, f"{IMAGES}/bench-holes")}
    for name, base in files.items():
        say(f"making the file: {name}")
        sparse.write(base.source, base.path, scattered=name == HOLES)
    named = {copy.name: copy for copy in copies.COPIES if copy.name in (STREAMS, NBD, NBDCOPY_FLUSHED)}
    left_out = {name: why for name, copy in named.items() if (why := copy.missing())}
    ways = {name: copy for name, copy in named.items() if name not in left_out}
    pairs = list(product(files, ways))
    remaining = Remaining(dict.fromkeys(pairs, 1.0), rounds)
    runs: list[Run] = []
    for number in range(rounds):
        for place, (name, way) in enumerate(order(pairs, number)):
            runs.append(copies.measure(ways[way], files[name], Where(name, number, place)))
            remaining.done((name, way))
            say(f"round {number + 1}, {name}, {way}: {runs[-1].seconds:.2f} s; {remaining.told()}")
            results = Results(
                began=began,
                settings={"rounds": rounds, "size_mib": sparse.size_mib, "data_mib": sparse.data_mib},
                machine=machine(),
                contenders={name: way.moves for name, way in ways.items()},
                left_out=left_out,
                runs=tuple(runs),
                summary=summary(runs),
            )
            save(results, output)
    return results


def spreads(runs: Sequence[Run]) -> dict[str, dict[str, Spread]]:
    """Of each transport, both files' seconds; what has holes is compared with the dense one."""
    found: dict[str, dict[str, Spread]] = {}
    for way in dict.fromkeys(run.contender for run in runs):
        of_way = [run for run in runs if run.contender == way]
        dense = [run.seconds for run in of_way if run.where.image == DENSE]
        for name in (DENSE, HOLES):
            seconds = [run.seconds for run in of_way if run.where.image == name]
            if seen := spread(seconds, {DENSE: dense}):
                found.setdefault(way, {})[name] = seen
    return found


def summary(runs: Sequence[Run]) -> list[dict[str, object]]:
    """The table's numbers, for the file."""
    found = spreads(runs)
    return [
        {"contender": way, **{name: asdict(one) for name, one in seen.items()}} for way, seen in found.items()
    ]


def show(runs: Sequence[Run], console: Console) -> None:
    """A row for each transport."""
    table = Table(title="Holes: median seconds, lowest..highest", box=SIMPLE_HEAD, title_justify="left")
    for title in ("transport", DENSE, HOLES, f"ratio (at most {AT_MOST})"):
        table.add_column(title, justify="left" if title == "transport" else "right")
    for way, seen in spreads(runs).items():
        cells = [f"{one.median:.2f} ({one.lowest:.2f}..{one.highest:.2f})" for one in seen.values()]
        ratio = seen[HOLES].ratios[DENSE]
        table.add_row(way, *cells, f"{ratio:.2f}{'' if ratio <= AT_MOST else MISSED}")
    console.print(table)


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--size-mib", type=click.IntRange(1), default=100 * 1024, show_default=True)
@click.option("--data-mib", type=click.IntRange(1), default=1024, show_default=True)
@click.option("--pieces", type=click.IntRange(1), default=1024, show_default=True, help="Runs of data.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default="bench-holes.json",
    show_default=True,
)
def holes(rounds: int, size_mib: int, data_mib: int, pieces: int, output: Path) -> None:
    """Measure the copy of a large file with little data in it against a dense one with as much."""
    if size_mib < 2 * data_mib or pieces > data_mib * MIB // BLOCK:
        raise click.BadParameter("the data do not fit in so many pieces, with holes between them")
    with lab_command(), Lab.up(guest=False) as lab:
        results = measure(lab, Sparse(size_mib, data_mib, pieces), rounds, output)
    show(results.runs, console())
    click.echo(f"every raw value: {output}")
