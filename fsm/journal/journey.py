"""The path that a migration took, as its records tell."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from fsm.errors import BadInput
from fsm.journal.events import Decided
from fsm.machine.journey import Journey, Stay, Taken


def journey_of(events: Iterable[Decided]) -> Journey:
    """The journey of one migration. Raises ``BadInput`` when there is no record yet."""
    stays: list[Stay] = []
    taken: list[Taken] = []
    failures: list[str] = []
    under_way: Taken | None = None
    begun: Decided | None = None
    for event in events:
        if begun is None:
            begun, entered, state = event, event.at, event.state
        # A failing action is recorded twice: by itself, and as the end of its transition.
        if event.error and event.event != "transition-outcome":
            failures.append(f"{event.name}: {event.error.removeprefix(event.name + ': ')}")
        if event.event == "transition-intent":
            under_way = Taken(event.name, event.state, event.dest, _clock(event.at), ended=False)
        elif event.event == "transition-outcome":
            under_way = None
            if not event.error:
                lasted = f"{(event.at - entered).total_seconds():.1f} s"
                stays.append(Stay(event.state, _clock(entered), lasted, tuple(failures)))
                taken.append(Taken(event.name, event.state, event.dest, _clock(event.at)))
                failures, entered, state = [], event.at, event.dest
    if begun is None:
        raise BadInput("the migration has no record yet", remedy="look again when it has begun")
    stays.append(Stay(state, _clock(entered), failures=tuple(failures)))
    path = (*taken, under_way) if under_way else tuple(taken)
    return Journey(begun.migration, f"{begun.at:%Y-%m-%d %H:%M:%S %Z}".strip(), tuple(stays), path)


def _clock(at: datetime) -> str:
    return f"{at:%H:%M:%S.%f}"[:-5]
