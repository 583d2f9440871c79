"""What to say about a domain that waits, and what to do about it."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve

from fsm.engine.cases import Case, Kind
from fsm.engine.holder import described
from fsm.hypervisor import markers
from fsm.hypervisor.values import DomainFacts, Marker
from fsm.journal.records import Header
from fsm.machine.observation import DomainState


def lost(case: Case, facts: DomainFacts, journal: str) -> Case:
    """This journal does not know the migration."""
    marker, stands = facts.marker, _stands(case, facts)
    if marker is None:
        commits = "; ".join(
            _virsh(case, f"blockcommit {shlex.quote(facts.name)} {disk.target} --active --pivot")
            for disk in facts.disks
            if case.migration in disk.source
        )
        return _unmarked(
            case,
            f"{stands}; it has no marker, and {journal} does not know the migration",
            f"find the journal that does: fsm --journal FILE resume {case.migration}; without one, and only "
            f"if no other host runs the domain: {commits}; then only its snapshots' descriptions are lost",
        )
    if marker.problem:
        return _unmarked(
            case,
            f"{stands}; its marker can't be read: {marker.problem}",
            "finish it with the version of fsm that began it",
        )
    what = (
        f"{stands}; this host is the {_side(case, marker)} of the migration from "
        f"{marker.source_uri} to {marker.destination_uri}, which the journal {marker.journal} has and "
        f"{journal} does not know"
    )
    if (other := other_journal(marker, journal)) is not None:
        return evolve(
            case, kind=Kind.LOST, what=what, remedy=f"fsm --journal {other} resume {case.migration}"
        )
    remedy = (
        f"if {marker.journal} is lost, and nothing drives the migration any more: "
        f"fsm doctor --host {marker.source_uri} --host {marker.destination_uri} --adopt"
    )
    return evolve(case, kind=Kind.LOST, what=what, remedy=remedy)


def other_journal(marker: Marker, journal: str) -> Path | None:
    """The file that the marker names as its journal, if that is on this machine, is there, and is another."""
    host, _, path = marker.journal.partition(":")
    here = host == socket.gethostname() and marker.journal != journal
    return Path(path) if here and Path(path).exists() else None


def unfinished(case: Case, facts: DomainFacts, header: Header, driver: str) -> Case:
    """This journal has the migration, and it has not ended."""
    what = f"{_stands(case, facts)}; it is {header.state}"
    if driver:
        return evolve(case, kind=Kind.DRIVEN, what=f"{what}, and {described(driver)} drives it")
    remedy = f"fsm resume {case.migration}"
    return evolve(case, kind=Kind.UNFINISHED, what=f"{what}, and nobody drives it", remedy=remedy)


def leftover(case: Case, facts: DomainFacts, header: Header) -> Case:
    """This journal says that the migration has ended."""
    what = f"{_stands(case, facts)}; it has ended as {header.state}"
    name = shlex.quote(facts.name)
    if case.on_overlay:
        belongs = header.destination_uri if header.state == "committed" else header.source_uri
        destroy = _virsh(case, f"destroy {name}")
        undefine = _virsh(case, f"undefine {name} --snapshots-metadata --keep-nvram")
        remedy = f"see that the domain is at {belongs}, whole; then remove it here: {destroy}; {undefine}"
    else:
        live = "" if facts.state is DomainState.SHUT_OFF else " --live"
        remedy = _virsh(case, f"metadata {name} {markers.NAMESPACE} --remove --config{live}")
    return evolve(case, kind=Kind.LEFTOVER, what=what, remedy=remedy)


def layered(case: Case, facts: DomainFacts, targets: Sequence[str]) -> Case:
    """No work of ours: layers that no snapshot of the domain explains."""
    chains = "; ".join(" on ".join(disk.chain) for disk in facts.disks if disk.target in targets)
    commit = _virsh(case, f"blockcommit {shlex.quote(facts.name)} {targets[0]} --active --pivot")
    return evolve(
        case,
        kind=Kind.LAYERED,
        what=f"disk {', '.join(targets)} has layers that none of its snapshots explains: {chains}",
        remedy="if it is a copy on a common image, leave it; if another tool has left its overlay behind, "
        f"commit that: {commit}",
    )


def _unmarked(case: Case, what: str, remedy: str) -> Case:
    return evolve(case, kind=Kind.UNMARKED, what=what, remedy=remedy)


def _stands(case: Case, facts: DomainFacts) -> str:
    """How the domain stands, in words."""
    state = f"{facts.state} ({facts.reason})" if facts.reason else str(facts.state)
    layer = "stands on the overlay of" if case.on_overlay else "is marked by"
    return f"{state}, {layer} migration {case.migration}"


def _side(case: Case, marker: Marker) -> str:
    return "source" if case.host_uuid == marker.source_host else "destination"


def _virsh(case: Case, words: str) -> str:
    return f"virsh -c {shlex.quote(case.host)} {words}"
