"""The rows as a table in Markdown, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from attrs import asdict

from tests.versions.run import RIGHT, Row

TITLES = (
    *("source", "destination", "merge", "storage", "outcome"),
    *("snapshots kept", "acknowledged writes found", "left behind", "revert afterwards"),
)


def markdown(rows: Sequence[Row]) -> str:
    """The table, what the suites are, and below it why a migration did not commit or what is wrong."""
    lines = [_line(TITLES), _line(["---"] * len(TITLES)), *(_line(_cells(row)) for row in rows)]
    versions = sorted({str(version) for row in rows for version in row.hosts})
    notes = [note for row in rows if (note := _note(row))]
    for more in (versions, notes):
        lines += ["", *(f"- {one}" for one in more)] if more else []
    return "\n".join(lines)


def line_of(row: Row) -> str:
    """What is told of a cell as soon as it is over."""
    return f"{row.cell}: {row.verdict}, {row.ended or 'no end'} ({row.seconds:.0f} s)"


def all_right(rows: Sequence[Row]) -> bool:
    """Whether nothing was lost in any cell, wherever its migration ended."""
    return all(row.verdict == RIGHT for row in rows)


def save(rows: Sequence[Row], path: Path) -> None:
    """Every value, as JSON."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def _cells(row: Row) -> list[str]:
    cell, after = row.cell, row.aftermath
    known = [*cell.pair.suites, cell.merge.value, cell.storage]
    outcome = row.ended if row.verdict == RIGHT else f"{row.ended} **{row.verdict}**".strip()
    if after is None:
        return [*known, outcome, "", "", "", ""]
    kept = f"{after.snapshots - after.snapshots_lost} of {after.snapshots}"
    found = f"{after.acknowledged - after.writes_lost} of {after.acknowledged}"
    left = ", ".join(after.leftovers) or "nothing"
    return [*known, outcome, kept, found, left, "failed" if row.reverted else "works"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _note(row: Row) -> str:
    said = "; ".join(text for text in (row.why, row.reason) if text)
    return f"{row.cell}, {row.ended or row.verdict}: {said}" if said else ""
