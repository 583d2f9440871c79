"""What somebody did to an overlay behind the engine's back, in words, and the ways out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote

from attrs import frozen

from fsm.engine.plan import Side
from fsm.machine.observation import Disk, Domain, Host, Job, Layer, Size
from fsm.machine.traits import OUR_BLOCK_JOB


@frozen
class Alteration:
    """One thing that was found: what it is, and what can be done about it."""

    what: str
    remedy: str


def found(sides: Mapping[Side, Host], uris: Mapping[Side, str], migration: str) -> list[Alteration]:
    """Everything that was altered, on either host."""
    alterations: list[Alteration] = []
    for side, host in sides.items():
        if host.domain is None:
            continue
        here = (*_snapshots(host.domain, migration), *_disks(host.domain, migration))
        alterations += [Alteration(f"{uris[side]}: {one.what}", one.remedy) for one in here]
    return alterations


def _snapshots(domain: Domain, migration: str) -> Iterator[Alteration]:
    holders: dict[str, list[str]] = {}
    for disk in domain.disks:
        for name in disk.stored:
            holders.setdefault(name, []).append(disk.target)
    for name, targets in holders.items():
        yield Alteration(
            f"snapshot {name!r} was taken into the overlay of {', '.join(targets)} and would vanish with it",
            f"save it and go on: fsm rescue {migration}; "
            f"or give it up: fsm retry {migration} --accept-loss {quote(name)}",
        )
    if any(disk.layer is Layer.OVERLAY for disk in domain.disks):
        for name in domain.unrecorded:
            if name not in holders:
                yield Alteration(
                    f"snapshot {name!r} has appeared that no overlay holds",
                    f"delete it, or give it up: fsm retry {migration} --accept-loss {quote(name)}",
                )


def _disks(domain: Domain, migration: str) -> Iterator[Alteration]:
    for disk in domain.disks:
        if disk.size is Size.UNFIT:
            yield Alteration(
                f"disk {disk.target} was resized to a size that its base can't be given",
                f"resize it back with virsh blockresize, then: fsm retry {migration}",
            )
        if disk.damage:
            yield Alteration(
                f"the overlay of {disk.target} can't be read: {disk.damage}",
                f"look at it with qemu-img info -U, then: fsm retry {migration}",
            )
        if _alien(domain, disk):
            kind = disk.block_job.kind if disk.block_job else ""
            yield Alteration(
                f"somebody's block job ({kind}) runs on disk {disk.target}",
                f"let it end, or end it with virsh blockjob --abort, then: fsm retry {migration}",
            )


def _alien(domain: Domain, disk: Disk) -> bool:
    return domain.job is Job.NONE and disk.block_job is not None and disk.block_job.kind != OUR_BLOCK_JOB
