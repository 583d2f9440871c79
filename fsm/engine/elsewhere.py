"""What is not the same on both hosts: where the copies lie, and what the domain is called."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from attrs import evolve

from fsm.engine.checks import Finding, migrates
from fsm.engine.plan import Plan, Request, Side
from fsm.errors import BadInput
from fsm.hypervisor import snapshot_xml
from fsm.hypervisor.port import Storage
from fsm.hypervisor.values import DomainFacts, Overlay, SnapshotMetadata
from fsm.journal.records import Data

# What libvirt's storage pools can't show, nor a journal hold.
_UNSHOWN = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
_EXAMPLE = "for example vda=/srv/images/web.qcow2, or vda=POOL/web.qcow2"


def check_places(request: Request) -> None:
    """Raise ``BadInput`` for what is wrong with the places of copies whatever the hosts look like."""
    targets = [target for target, _ in _places(request)]
    if twice := sorted({target for target in targets if targets.count(target) > 1}):
        raise BadInput(f"disk {', '.join(twice)} is mapped twice by --disk-map")
    for target, place in _places(request):
        pool, _, name = place.partition("/")
        plain = posixpath.normpath(place) == place and not _UNSHOWN.search(place)
        is_path = place.startswith("/") and not place.startswith("//") and name
        if not target or not plain or not (is_path or (pool and name and "/" not in name)):
            raise BadInput(
                f"--disk-map {target}={place} is neither TARGET=PATH, with a plain absolute path, "
                "nor TARGET=POOL/NAME",
                remedy=_EXAMPLE,
            )
        if place.startswith("/dev/") and request.direct is None:
            raise BadInput(
                f"--disk-map {target}={place}: a block device is written to by --transport nbd alone",
                remedy=f"add that; or have a file made, {_EXAMPLE}",
            )


def is_mapped(request: Request, target: str) -> bool:
    """Whether the disk's copy has been given its place by ``disk_map``."""
    return target in {mapped_target for mapped_target, _ in _places(request)}


def _places(request: Request) -> list[tuple[str, str]]:
    parted = (entry.partition("=") for entry in request.disk_map)
    return [(target, place) for target, _, place in parted]


async def mapped(storage: Storage, overlays: Sequence[Overlay], request: Request) -> tuple[Overlay, ...]:
    """The overlays with the places that ``disk_map`` gives their copies. Raises ``HostError`` for a pool."""
    found = {overlay.target: overlay for overlay in overlays}
    for target, place in _places(request):
        if target in found:
            found[target] = _placed(found[target], await _path(storage, place))
    return tuple(found.values())


async def pooled(storage: Storage, overlays: Sequence[Overlay], request: Request) -> tuple[Overlay, ...]:
    """The same with the others' copies in the pool that is asked for. Raises ``HostError`` for it."""
    if not request.pool:
        return tuple(overlays)
    mapped_ones = {target for target, _ in _places(request)}
    directory = await storage.pool_directory(request.pool)
    return tuple(
        overlay
        if overlay.shared or overlay.target in mapped_ones
        else _placed(overlay, posixpath.join(directory, posixpath.basename(overlay.base)))
        for overlay in overlays
    )


def _placed(overlay: Overlay, path: str) -> Overlay:
    return evolve(overlay, destination_base="" if path == overlay.base else path)


async def _path(storage: Storage, place: str) -> str:
    if place.startswith("/"):
        return place
    pool, _, name = place.partition("/")
    return posixpath.join(await storage.pool_directory(pool), name)


def findings(facts: DomainFacts, overlays: Iterable[Overlay], request: Request) -> list[Finding]:
    """Every disk that is mapped is one that is copied, and no two copies have one path."""
    uri = request.shown_uri(Side.SOURCE)
    places: dict[str, str] = {}
    known = {disk.target for disk in facts.disks}
    moving = {disk.target for disk in facts.disks if migrates(disk, request)}
    found = []
    for target, _ in _places(request):
        if target not in moving:
            what = "is not copied" if target in known else "does not exist"
            named = ", ".join(sorted(moving))
            message = f"disk {target} {what}, so there is nothing to map; copied are: {named}"
            found.append(Finding("no-such-disk", uri, message, "name one of these with --disk-map"))
    for overlay in overlays:
        path = overlay.arrived.base
        if path in places:
            message = f"the copies of {places[path]} and {overlay.target} would both be {path}"
            remedy = "give one of them another name: --disk-map"
            found.append(Finding("path-taken", request.shown_uri(Side.DESTINATION), message, remedy))
        places[path] = overlay.target
    return found


def other_name(facts: DomainFacts, request: Request) -> str:
    """What the domain is to be called at the destination, empty where it keeps its name."""
    return "" if request.destination_name == facts.name else request.destination_name


def told(plan: Plan) -> Data:
    """What preflight's record tells of it to everybody."""
    data: Data = {}
    if plan.moved:
        data["placed"] = {one.target: one.destination_base for one in plan.overlays if one.destination_base}
    if plan.destination_name:
        data["destination_name"] = plan.destination_name
    return data


def described_there(plan: Plan, snapshots: Iterable[SnapshotMetadata]) -> tuple[SnapshotMetadata, ...]:
    """Snapshots as the destination is to have them: each describes its domain, with its name and its disks.

    A revert starts the domain as it is described there. libvirt 9.0 passes over a name that differs.
    """
    return _elsewhere(snapshots, plan.moved, plan.destination_name, plan.devices_at(Side.DESTINATION))


def described_here(plan: Plan, snapshots: Iterable[SnapshotMetadata]) -> tuple[SnapshotMetadata, ...]:
    """What the destination has, as it was at the source."""
    name = plan.domain_name if plan.destination_name else ""
    back = {there: here for here, there in plan.moved.items()}
    return _elsewhere(snapshots, back, name, plan.devices_at(Side.SOURCE))


def _elsewhere(
    snapshots: Iterable[SnapshotMetadata], paths: dict[str, str], name: str, devices: frozenset[str]
) -> tuple[SnapshotMetadata, ...]:
    if not paths and not name:
        return tuple(snapshots)
    return tuple(evolve(one, xml=snapshot_xml.elsewhere(one.xml, paths, name, devices)) for one in snapshots)
