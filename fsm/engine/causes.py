"""Why a migration left its way, and one thing to do about it: what ``fsm show`` tells at night."""

from __future__ import annotations

from attrs import frozen

from fsm.engine import alterations
from fsm.engine.plan import Request, Side
from fsm.machine.observation import DomainState, Host, Job, Layer, Merge, Observation

_SEEN_ON_THE_HOSTS = frozenset(("abort", "find-split-brain", "find-alteration"))


@frozen
class Cause:
    """What happened, and what to do."""

    what: str
    remedy: str = ""


def tells_more(trigger: str, seen: Observation) -> bool:
    """Whether what the hosts show tells more than the error of the step before."""
    if trigger == "lose-sight":
        return not (seen.source.reachable and seen.destination.reachable) or _keeps_waiting(seen.destination)
    if trigger == "find-unexpected":
        return any(host.domain and host.domain.marked_by_another for host in (seen.source, seen.destination))
    return trigger in _SEEN_ON_THE_HOSTS or (trigger == "fail-copy" and _was_started(seen))


def _was_started(seen: Observation) -> bool:
    """Whether a domain that is to move shut off has been started."""
    domain = seen.source.domain
    return seen.engine.merge is Merge.NONE and domain is not None and domain.active


def of_trigger(trigger: str, seen: Observation, request: Request, migration: str) -> Cause:
    """Why a trigger was fired that leads away from success, as the observation shows it."""
    sides = {Side.SOURCE: seen.source, Side.DESTINATION: seen.destination}
    match trigger:
        case "abort":
            return Cause("an abort was asked for")
        case "refuse" | "refuse-start" if seen.engine.abort_requested:
            return Cause("an abort was asked for")
        case "stop-domain":
            domain = seen.source.domain
            if domain is not None and domain.active:
                return Cause("the guest crashed", "look at it and restart it, then migrate again")
            return Cause("the domain was shut off", "start it, then migrate again")
        case "fail-copy" if _was_started(seen):
            return Cause(
                "the domain was started while it was copied", "migrate it again, running or shut off"
            )
        case "lose-sight":
            return _lost(sides, request, migration)
        case "find-split-brain":
            return Cause(
                "both hosts run an instance of the domain",
                f"find out which one has the current data, destroy the other, then: fsm retry {migration}",
            )
        case "find-alteration":
            return _altered(sides, request, migration)
        case "find-unexpected":
            return _unexpected(sides, request, migration)
        case "adopt":
            return _adopted(sides, request, migration)
        case _:
            return Cause(trigger.replace("-", " "))


def _lost(sides: dict[Side, Host], request: Request, migration: str) -> Cause:
    gone = [side for side, host in sides.items() if not host.reachable]
    if not gone and _keeps_waiting(sides[Side.DESTINATION]):
        uri = request.shown_uri(Side.DESTINATION)
        return Cause(
            f"{uri} keeps an instance that waits for a migration which is over",
            "destroy it there; if that times out, stop libvirtd there, remove the domain's status file "
            f"from /run/libvirt/qemu and start it again; then: fsm retry {migration}",
        )
    if not gone:
        return Cause("nothing has changed for too long", f"fsm show {migration}; then: fsm retry {migration}")
    names = " and ".join(f"the {side} {request.shown_uri(side)}" for side in gone)
    fenced = " ".join(f"--fenced {side}" for side in gone)
    return Cause(
        f"{names} can't be reached",
        f"bring it back, then: fsm retry {migration}; "
        f"or, only if it is certain to be off: fsm retry {migration} {fenced}",
    )


def _keeps_waiting(destination: Host) -> bool:
    waiting = destination.domain
    return waiting is not None and waiting.state is DomainState.PAUSED


def _adopted(sides: dict[Side, Host], request: Request, migration: str) -> Cause:
    if not all(host.reachable for host in sides.values()):
        return _lost(sides, request, migration)
    return Cause("its journal is lost; adopted as both hosts show it", f"fsm show {migration}")


def _altered(sides: dict[Side, Host], request: Request, migration: str) -> Cause:
    uris = {side: request.shown_uri(side) for side in Side}
    found = alterations.found(sides, uris, migration)
    ways = dict.fromkeys(one.remedy for one in found)
    return Cause("; ".join(one.what for one in found), ". ".join(ways))


def _unexpected(sides: dict[Side, Host], request: Request, migration: str) -> Cause:
    for side, host in sides.items():
        if host.domain and host.domain.marked_by_another:
            uri = request.shown_uri(side)
            if host.domain.marker is None:
                return Cause(
                    f"{uri}: a domain of its UUID is there that did not come by this migration",
                    f"find out who defined it; undefine it there, then: fsm retry {migration}",
                )
            return Cause(
                f"{uri}: the domain carries the marker of migration {host.domain.marker}, which another "
                "engine has set",
                f"leave it to that engine; fsm doctor --host {uri} tells how it stands",
            )
        disks = host.domain.disks if host.domain else ()
        for disk in disks:
            if disk.layer is Layer.FOREIGN:
                chain = " on ".join(disk.chain) or "no image"
                return Cause(
                    f"{request.shown_uri(side)}: disk {disk.target} is on layers that are not ours: {chain}",
                    f"commit what is above the overlay back into it, then: fsm retry {migration}",
                )
    for side, host in sides.items():
        if host.domain is not None and host.domain.job is Job.OTHER:
            return Cause(
                f"{request.uri(side)}: another job of libvirt holds the domain",
                f"wait for its end (virsh domjobinfo), then: fsm retry {migration}",
            )
    if not any(host.domain for host in sides.values()):
        return Cause(
            "neither host has the domain any more",
            f"define it again, on its overlays, as recorded: fsm show {migration} --recorded-xml",
        )
    return Cause("the hosts show what no step of a migration leads to", f"fsm show {migration}")
