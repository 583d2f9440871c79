"""The recovery tables turned round: from what both hosts show to what is done, for a reader.

Where the decision also depends on the engine's own facts, all of its cases are told, in the order in which
they are tried; the last one always applies. So nothing is left open for any pair of views.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from attrs import frozen

from fsm.machine.conditions import CONDITIONS, Reads
from fsm.machine.observation import Disk, Domain, DomainState, Host, Job, Layer, Observation
from fsm.machine.spec import Spec, State


def _has(state: DomainState, reason: str, layer: Layer, job: Job = Job.NONE) -> Host:
    return Host(reachable=True, domain=Domain(state, reason, job, (Disk("vda", layer),)))


def _altered() -> Host:
    disk = Disk("vda", Layer.OVERLAY, stored=("theirs",))
    return Host(reachable=True, domain=Domain(DomainState.RUNNING, "booted", Job.NONE, (disk,)))


_RUNNING, _PAUSED, _OFF = DomainState.RUNNING, DomainState.PAUSED, DomainState.SHUT_OFF
_ANYWHERE = {
    "can't be reached": Host(reachable=False),
    "is attested to be off": Host(reachable=False, fenced=True),
    "has no such domain": Host(reachable=True),
    "runs it on the overlay": _has(_RUNNING, "booted", Layer.OVERLAY),
    "runs it on the base": _has(_RUNNING, "booted", Layer.BASE),
    "runs it on the overlay, into which something foreign was put": _altered(),
    "runs it on a layer that is not ours": _has(_RUNNING, "booted", Layer.FOREIGN),
    "has it shut off, on the overlay": _has(_OFF, "shutdown", Layer.OVERLAY),
    "has it shut off, on the base": _has(_OFF, "shutdown", Layer.BASE),
}
SOURCE_VIEWS = {
    **_ANYWHERE,
    "has it shut off, on a layer that is not ours": _has(_OFF, "shutdown", Layer.FOREIGN),
    "has it crashed, on the overlay": _has(DomainState.CRASHED, "panicked", Layer.OVERLAY),
    "migrates it": _has(_RUNNING, "booted", Layer.OVERLAY, Job.MIGRATION_OUT),
    "keeps it paused, handed over": _has(_PAUSED, "migration", Layer.OVERLAY),
}
DESTINATION_VIEWS = {
    **_ANYWHERE,
    "waits for it to arrive": _has(_PAUSED, "migration", Layer.OVERLAY, Job.MIGRATION_IN),
}


@frozen
class Case:
    """``do`` is what a recover row says, ``dests`` where a trigger leads; ``when`` are engine conditions."""

    when: tuple[str, ...]
    do: str
    dests: tuple[str, ...]


@frozen
class Line:
    """What is done for each of these views of the source with each of these of the destination."""

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    cases: tuple[Case, ...]


def cases(spec: Spec, state: State, seen: Observation) -> tuple[Case, ...]:
    """Everything that can be decided on what the hosts of ``seen`` show, whatever the engine knows."""
    found: list[Case] = []
    for row in state.recover:
        if not _hosts_hold(row.when, seen):
            continue
        dests = dict.fromkeys(
            one.dest
            for one in spec.rows_from(state.name)
            if one.trigger == row.do and _hosts_hold(one.conditions, seen)
        )
        when = tuple(name for name in row.when if CONDITIONS[name].reads is Reads.ENGINE)
        if any(set(earlier.when) <= set(when) for earlier in found):
            continue  # never comes to its turn
        case = Case(when, row.do, tuple(dests))
        while found and (found[-1].do, found[-1].dests) == (case.do, case.dests) and _covers(case, found[-1]):
            found.pop()  # it only said of some cases what is now said of more
        found.append(case)
    return tuple(found)


def _covers(case: Case, other: Case) -> bool:
    return set(case.when) <= set(other.when)


def _hosts_hold(names: tuple[str, ...], seen: Observation) -> bool:
    return all(CONDITIONS[name].holds(seen) for name in names if CONDITIONS[name].reads is Reads.HOSTS)


def lines(spec: Spec, state: State) -> Iterator[Line]:
    """The whole table of a state; views that never make a difference stand together."""
    table = {
        source: tuple(
            (cases(spec, state, Observation(here, there)), destination)
            for destination, there in DESTINATION_VIEWS.items()
        )
        for source, here in SOURCE_VIEWS.items()
    }
    for answers in dict.fromkeys(table.values()):
        sources = tuple(source for source, found in table.items() if found == answers)
        ordered = sorted(answers, key=lambda one: [found for found, _ in answers].index(one[0]))
        for same, group in groupby(ordered, key=lambda one: one[0]):
            yield Line(sources, tuple(destination for _, destination in group), same)
