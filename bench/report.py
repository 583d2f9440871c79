"""Tables out of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from attrs import asdict, frozen
from rich import box
from rich.console import Console
from rich.table import Table

from bench.figures import Metric, Spread, compared, spread
from bench.phases import by_state
from bench.results import Kind, Results, Run

MIB = 1024 * 1024
LARGEST_STEPS = 8


@frozen
class Column:
    """One number of a run, and how it is shown."""

    title: str
    name: str
    metric: Metric
    digits: int
    kinds: tuple[Kind, ...] = (Kind.MIGRATION, Kind.BASE_COPY)
    with_ratio: bool = True

    def cell(self, found: Spread | None) -> str:
        """The median, and below it the lowest and highest where they differ."""
        if found is None:
            return "-"
        middle, low, high = (f"{one:.{self.digits}f}" for one in (found.median, found.lowest, found.highest))
        return middle if low == high else f"{middle}\n{low}..{high}"


def _moved_mib(run: Run) -> float:
    return (run.sent_bytes + run.copied_bytes) / MIB


COLUMNS = (
    Column("seconds", "seconds", lambda run: run.seconds, 2),
    Column("longest silence, ms", "silence_ms", lambda run: run.silence_ms, 0, (Kind.MIGRATION,)),
    Column("CPU s, command", "command_cpu_s", lambda run: run.command_cpu_s, 2, with_ratio=False),
    Column("CPU s, all", "cpu_s", lambda run: run.command_cpu_s + run.hosts_cpu_s, 2),
    Column("MiB moved", "moved_mib", _moved_mib, 0, with_ratio=False),
)


def titles(kind: Kind) -> list[str]:
    """The headings of one kind's table."""
    found = ["contender"]
    for column in _columns(kind):
        found += [column.title, "ratio"] if column.with_ratio else [column.title]
    return [*found, "snapshots kept"] if kind is Kind.MIGRATION else found


def rows(runs: Sequence[Run], kind: Kind, reference: str) -> list[list[str]]:
    """One row for each contender of a kind, in the order in which they first ran."""
    of_kind = [run for run in runs if run.kind is kind]
    found = []
    for name in dict.fromkeys(run.contender for run in of_kind):
        row = [name]
        for column in _columns(kind):
            seen = compared(of_kind, name, reference, column.metric)
            row.append(column.cell(seen))
            if column.with_ratio:
                row.append(f"{seen.ratio:.2f}" if seen and seen.ratio is not None else "-")
        if kind is Kind.MIGRATION:
            row.append(_kept([run for run in of_kind if run.contender == name]))
        found.append(row)
    return found


def _columns(kind: Kind) -> list[Column]:
    return [column for column in COLUMNS if kind in column.kinds]


def _kept(runs: Sequence[Run]) -> str:
    seen = {f"{run.snapshots_kept} of {run.snapshots_before}" for run in runs}
    return ", ".join(sorted(seen))


def summary(runs: Sequence[Run], references: Mapping[Kind, str]) -> list[dict[str, Any]]:
    """The tables' numbers, for the file."""
    found = []
    for kind, reference in references.items():
        of_kind = [run for run in runs if run.kind is kind]
        for name in dict.fromkeys(run.contender for run in of_kind):
            numbers = {
                column.name: asdict(seen)
                for column in _columns(kind)
                if (seen := compared(of_kind, name, reference, column.metric))
            }
            found.append({"contender": name, "kind": kind, "reference": reference, **numbers})
    return found


def state_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Median seconds in each of the machine's states, then of the longest steps within them."""
    told = [run for run in runs if run.phases]
    if not told:
        return []
    by_run = [by_state(run.phases) for run in told]
    found = [[state, "all of it", _seconds([one.get(state, 0.0) for one in by_run])] for state in by_run[0]]
    steps: dict[tuple[str, str], list[float]] = {}
    for run in told:
        for phase in run.phases:
            steps.setdefault((phase.state, phase.step), []).append(phase.seconds)
    longest = sorted(steps.items(), key=lambda item: -sum(item[1]) / len(item[1]))[:LARGEST_STEPS]
    return found + [[state, step, _seconds(seconds)] for (state, step), seconds in longest]


def _seconds(values: Sequence[float]) -> str:
    seen = spread(values)
    return f"{seen.median:.3f} ({seen.lowest:.3f}..{seen.highest:.3f})" if seen else "-"


def show(results: Results, references: Mapping[Kind, str], console: Console) -> None:
    """Print everything: one table a kind, what each contender moved, and where the time went."""
    for kind, reference in references.items():
        if found := rows(results.runs, kind, reference):
            title = f"{kind.capitalize()}: median, lowest..highest, ratio to {reference}"
            _print(console, title, titles(kind), found)
            for name in dict.fromkeys(run.contender for run in results.runs if run.kind is kind):
                console.print(f"  {name}: {results.contenders[name]}", highlight=False, markup=False)
            console.print()
    for name, why in results.left_out.items():
        console.print(f"  {name} is left out: {why}", highlight=False, markup=False)
    for note in notes(results.runs):
        console.print(f"  {note}", highlight=False, markup=False)
    if found := state_rows(results.runs):
        headings = ["state", "what", "seconds"]
        _print(console, "\nWhere fsm migrate spends its time, then its longest steps", headings, found)


def notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know to trust the numbers."""
    found = []
    if quiet := [run.undisturbed_silence_ms for run in runs if run.undisturbed_silence_ms is not None]:
        worst = max(run.silence_resolution_ms or 0.0 for run in runs)
        found.append(
            "An undisturbed guest's longest silence within a second:"
            f" {median(quiet):.0f} ms (up to {max(quiet):.0f}). Silences are exact to {worst:.0f} ms."
        )
    if loads := [run.load_average for run in runs]:
        found.append(f"Load average before the runs: {min(loads):.1f} to {max(loads):.1f}.")
    return found


def _print(console: Console, title: str, headings: Sequence[str], found: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", overflow="fold")
    for row in found:
        table.add_row(*row)
    console.print(table)
