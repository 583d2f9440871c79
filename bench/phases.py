"""Where a migration's time went, read off its journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from bench.results import Phase
from fsm.journal.records import Phase as RecordPhase
from fsm.journal.records import Record, Step

START = "start of the command"
END = "end of the command"


def phases(
    created: datetime, records: Sequence[Record], began: datetime, ended: datetime
) -> tuple[Phase, ...]:
    """The stretches between the journal's records, each named by the record that ends it.

    The first is the command's way to the migration's creation in the journal, the last from the last record
    to its exit.
    """
    found = [Phase(START, "interpreter, imports, journal", (created - began).total_seconds())]
    before = created
    for record in records:
        if record.at is None:
            continue
        state = record.state if len(found) > 1 else START
        found.append(Phase(state, _step(record), (record.at - before).total_seconds()))
        before = record.at
    return (*found, Phase(END, "exit", (ended - before).total_seconds()))


def by_state(stretches: Iterable[Phase]) -> dict[str, float]:
    """Seconds in each state, in the order of time."""
    sums: dict[str, float] = {}
    for one in stretches:
        sums[one.state] = sums.get(one.state, 0.0) + one.seconds
    return sums


def _step(record: Record) -> str:
    if record.step is Step.ACTION:
        return record.name
    if record.phase is RecordPhase.INTENT:
        return f"before {record.name}"
    return f"{record.name} entered" if record.step is Step.TRANSITION else record.name
