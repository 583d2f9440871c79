"""Tables out of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from attrs import asdict, field, frozen
from rich import box
from rich.console import Console
from rich.table import Table

from bench import goals
from bench.copies import NBDCOPY, NBDCOPY_FLUSHED, QEMU_IMG
from bench.figures import Metric, Spread, compared
from bench.migrations import PAUSE, VIRSH
from bench.results import Kind, Results, Run
from bench.states import state_rows, state_titles, step_rows, step_titles

MIB = 1024 * 1024


@frozen
class Column:
    """One number of a run, and how it is shown.

    ``references`` are what it is compared with, for each kind of run that has it. Of those in one tuple the
    first that took part counts.
    """

    title: str
    name: str
    metric: Metric
    digits: int
    references: Mapping[Kind, tuple[tuple[str, ...], ...]] = field(factory=dict)
    kinds: tuple[Kind, ...] = tuple(Kind)

    def compared_with(self, kind: Kind, present: Iterable[str]) -> list[str]:
        """The references that took part."""
        there = set(present)
        chosen = (next(filter(there.__contains__, names), "") for names in self.references.get(kind, ()))
        return [name for name in chosen if name]

    def cell(self, found: Spread | None) -> str:
        """The median, and below it the lowest and highest where they differ."""
        if found is None:
            return "-"
        middle, low, high = (f"{one:.{self.digits}f}" for one in (found.median, found.lowest, found.highest))
        return middle if low == high else f"{middle}\n{low}..{high}"


def _moved_mib(run: Run) -> float:
    return (run.sent_bytes + run.copied_bytes) / MIB


_USUAL = {Kind.MIGRATION: ((VIRSH,),), Kind.BASE_COPY: ((NBDCOPY, QEMU_IMG), (NBDCOPY_FLUSHED,))}
_DOWNTIME = {Kind.MIGRATION: ((VIRSH,), (PAUSE,))}
COLUMNS = (
    Column("seconds", "seconds", lambda run: run.seconds, 2, _USUAL),
    Column("longest silence, ms", "silence_ms", lambda run: run.silence_ms, 0, _DOWNTIME, (Kind.MIGRATION,)),
    Column("CPU s, command", "command_cpu_s", lambda run: run.command_cpu_s, 2),
    Column("CPU s, all", "cpu_s", lambda run: run.command_cpu_s + run.hosts_cpu_s, 2, _USUAL),
    Column("MiB moved", "moved_mib", _moved_mib, 0),
    Column("own s", "own_s", lambda run: run.own_s, 3, kinds=(Kind.MIGRATION,)),
)


def names_of(runs: Iterable[Run]) -> list[str]:
    """The contenders, in the order in which they first ran."""
    return list(dict.fromkeys(run.contender for run in runs))


def images_of(runs: Iterable[Run]) -> list[str]:
    """The images, likewise."""
    return list(dict.fromkeys(run.where.image for run in runs))


def titles(runs: Sequence[Run], kind: Kind) -> list[str]:
    """The headings of one kind's table."""
    found = ["contender"]
    for column in _columns(kind):
        found += [column.title, *(f"of {name}" for name in column.compared_with(kind, names_of(runs)))]
    return [*found, "snapshots kept"] if kind is Kind.MIGRATION else found


def rows(runs: Sequence[Run], kind: Kind) -> list[list[str]]:
    """One row for each contender of runs that are of one kind, with one image."""
    names = names_of(runs)
    found = []
    for name in names:
        row = [name]
        for column in _columns(kind):
            references = column.compared_with(kind, names)
            seen = compared(runs, name, references, column.metric)
            row.append(column.cell(seen))
            ratios = seen.ratios if seen else {}
            row += [f"{ratios[one]:.2f}" if one in ratios else "-" for one in references]
        if kind is Kind.MIGRATION:
            row.append(_kept([run for run in runs if run.contender == name]))
        found.append(row)
    return found


def _columns(kind: Kind) -> list[Column]:
    return [column for column in COLUMNS if kind in column.kinds]


def _kept(runs: Sequence[Run]) -> str:
    seen = {f"{run.snapshots_kept} of {run.snapshots_before}" for run in runs}
    return ", ".join(sorted(seen))


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The tables' numbers, for the file."""
    found = []
    for image, kind, chosen in _groups(runs):
        names = names_of(chosen)
        for name in names:
            numbers = {
                column.name: asdict(seen)
                for column in _columns(kind)
                if (seen := compared(chosen, name, column.compared_with(kind, names), column.metric))
            }
            found.append({"image": image, "contender": name, "kind": kind, **numbers})
    return found


def _groups(runs: Sequence[Run]) -> list[tuple[str, Kind, list[Run]]]:
    """The runs of each image and kind."""
    of_kinds = [(kind, [run for run in runs if run.kind is kind]) for kind in Kind]
    groups = (
        (image, kind, [run for run in of_kind if run.where.image == image])
        for image in images_of(runs)
        for kind, of_kind in of_kinds
    )
    return [group for group in groups if group[-1]]


def show(results: Results, console: Console) -> None:
    """Print everything: the tables of each image, what each contender moved, and where the time went."""
    rounds = max((run.where.round + 1 for run in results.runs), default=0)
    for image, kind, chosen in _groups(results.runs):
        title = f"{image}, {kind}: median, lowest..highest, and ratios of medians; {rounds} rounds"
        _print(console, title, titles(chosen, kind), rows(chosen, kind))
        if found := state_rows(chosen):
            _print(console, f"{image}: what goes on in each state, medians", state_titles(chosen), found)
        if found := step_rows(chosen):
            _print(console, f"{image}: the longest steps, median seconds", step_titles(), found)
    if found := goals.rows(results.summary, images_of(results.runs)):
        title = "What is asked for; (!) where it is missed"
        _print(console, title, goals.titles(images_of(results.runs)), found)
    for name in names_of(results.runs):
        console.print(f"  {name}: {results.contenders[name]}", highlight=False, markup=False)
    for name, why in results.left_out.items():
        console.print(f"  {name} is left out: {why}", highlight=False, markup=False)
    for note in notes(results.runs, results.settings.get("pause_ms", 0)):
        console.print(f"  {note}", highlight=False, markup=False)


def notes(runs: Sequence[Run], pause_ms: int) -> list[str]:
    """What a reader must know to trust the numbers. The guest waits ``pause_ms`` behind each write."""
    found = []
    if quiet := [run.undisturbed_silence_ms for run in runs if run.undisturbed_silence_ms is not None]:
        worst = max(run.silence_resolution_ms or 0.0 for run in runs)
        found.append(
            "An undisturbed guest's longest silence within two seconds:"
            f" {median(quiet):.0f} ms (up to {max(quiet):.0f}). Silences are exact to {worst:.0f} ms."
        )
    if rates := [run.undisturbed_writes_per_s for run in runs if run.undisturbed_writes_per_s]:
        found.append(
            f"It acknowledges {median(rates):.0f} writes a second ({min(rates):.0f} to {max(rates):.0f})."
            f" Behind each it waits {pause_ms} ms."
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
    console.print()
