"""The rows as a table for people, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attrs import asdict
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.faults.cells import Cell
from tests.faults.run import RIGHT, SKIPPED, Row

TITLES = (
    *("fault", "state", "ended", "writes lost", "snapshots lost", "instances", "leftovers"),
    *("longest stall", "verdict"),
)


def show(rows: Sequence[Row], console: Console) -> None:
    """The table and a summary."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in TITLES:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    console.print(table)
    for line in summary(rows):
        console.print(line, highlight=False)


def summary(rows: Sequence[Row]) -> list[str]:
    """How many ended right, and the worst figures."""
    counts = Counter(row.verdict for row in rows)
    lines = [", ".join(f"{number} {verdict}" for verdict, number in counts.items())]
    stalls = [(row.stall_ms, row) for row in rows if row.stall_ms is not None and not row.cell.fault.stalls]
    if stalls:
        stall_ms, row = max(stalls, key=lambda one: one[0])
        error_ms = row.stall_resolution_ms or 0
        lines.append(f"longest stall of the guest: {stall_ms:.0f} ± {error_ms:.0f} ms in {row.cell}")
    takeovers = [(row.takeover_s, row) for row in rows if row.takeover_s is not None]
    if takeovers:
        takeover_s, row = max(takeovers, key=lambda one: one[0])
        lines.append(
            f"longest time from `fsm resume` to its first decision: {takeover_s:.1f} s in {row.cell}"
        )
    return lines


def line_of(row: Row) -> str:
    """What is told of a cell as soon as it is over."""
    stall = "" if row.stall_ms is None else f", stall {row.stall_ms:.0f} ms"
    takeover = "" if row.takeover_s is None else f", taken over after {row.takeover_s:.1f} s"
    why = f": {row.why}" if row.why else ""
    return f"{row.cell}: {row.verdict}{why}, {row.ended}{stall}{takeover} ({row.seconds:.0f} s)"


def _cells(row: Row) -> tuple[str, ...]:
    after = row.aftermath
    verdict = f"{row.verdict}: {row.why}" if row.why else row.verdict
    name, state = row.cell.fault.name, row.cell.state
    if row.verdict == SKIPPED or after is None:
        return (name, state, row.ended, "", "", "", "", "", verdict)
    lost = f"{after.writes_lost} of {after.acknowledged}"
    stall = "-" if row.stall_ms is None else f"{row.stall_ms:.0f} ± {row.stall_resolution_ms:.0f} ms"
    left = ", ".join(after.leftovers) or "none"
    figures = str(after.snapshots_lost), str(after.instances)
    return (name, state, row.ended, lost, *figures, left, stall, verdict)


def save(rows: Sequence[Row], machine: dict[str, object], path: Path) -> None:
    """Every value, as JSON."""
    told = [{**asdict(row), "cell": str(row.cell), **_ways(row.cell)} for row in rows]
    path.write_text(json.dumps({"machine": machine, "rows": told}, indent=1) + "\n", encoding="utf-8")


def _ways(cell: Cell) -> dict[str, str]:
    return {"merge": cell.merge, "transport": cell.transport}


def all_right(rows: Sequence[Row]) -> bool:
    """Whether every cell that was run ended right."""
    return all(row.verdict in (RIGHT, SKIPPED) for row in rows)
