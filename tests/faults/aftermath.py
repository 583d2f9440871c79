"""What is left of a guest when its migration is over: the figures of one row of the table."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from fsm.lab import Ack, Guest, GuestSpec, LabHost, evidence, missing_writes
from tests.lab_definitions import definition
from tests.lab_rig import Before, Rig, domains, files, pools


@frozen
class Aftermath:
    """``hosts`` know the domain; ``running`` is its state at the first of them. ``wrong`` says what is not as
    it was, besides what has a figure of its own."""

    hosts: tuple[str, ...]
    running: bool
    instances: int
    acknowledged: int
    writes_lost: int
    snapshots: int
    snapshots_lost: int
    leftovers: tuple[str, ...]
    wrong: tuple[str, ...]


def look_after(rig: Rig, spec: GuestSpec, before: Before, acks: Sequence[Ack]) -> Aftermath:
    """Examine both hosts and the images."""
    known = [host for host in rig.lab.hosts if spec.name in domains(host)]
    instances = sum(len(host.qemu_pids(spec.name)) for host in rig.lab.hosts)
    leftovers = tuple(line for host in rig.lab.hosts for line in _leftovers(host, spec, before, known))
    snapshots = len(before.evidence.metadata)
    if not known:
        lost = len(acks), snapshots, snapshots
        return Aftermath((), False, instances, len(acks), *lost, leftovers, ("no domain",))  # noqa: FBT003
    at = known[0]
    after = evidence.collect(at, spec)
    wrong = [claim.what for claim in evidence.compare(before.evidence, after) if not claim.holds]
    if definition(at, spec.name) != before.definition:
        wrong.append("definition")
    return Aftermath(
        hosts=tuple(host.name for host in known),
        running=Guest(at, spec.name).state == "running",
        instances=instances,
        acknowledged=len(acks),
        writes_lost=_writes_lost(at, spec, acks),
        snapshots=snapshots,
        snapshots_lost=_snapshots_lost(before, after),
        leftovers=leftovers,
        wrong=tuple(wrong),
    )


def _writes_lost(at: LabHost, spec: GuestSpec, acks: Sequence[Ack]) -> int:
    return sum(
        len(missing_writes(disk.image(spec.name), acks, disk.target, spec.ring, enter=at.enter))
        for disk in spec.disks
        if disk.target in spec.written_targets
    )


def _snapshots_lost(before: Before, after: evidence.Evidence) -> int:
    """Snapshots whose content on some disk, or whose metadata, is not what it was."""
    kept = {record.name for record in after.metadata}
    lost = {record.name for record in before.evidence.metadata if record.name not in kept}
    for target, digests in before.evidence.digests.items():
        found = after.digests.get(target, {})
        lost |= {name for name, digest in digests.items() if found.get(name) != digest}
    return len(lost)


def _leftovers(host: LabHost, spec: GuestSpec, before: Before, known: Sequence[LabHost]) -> list[str]:
    """Files and pools that were not there before, and such as have gone.

    The images may have come to where the domain is; the source keeps its own.
    """
    was, now = set(before.hosts[host.name]["files"]), set(files(host))  # type: ignore[call-overload]
    images = {disk.image(spec.name) for disk in spec.disks} if host in known else set()
    lines = [f"{host.name}: {path}" for path in sorted(now - was - images)]
    lines += [f"{host.name}: {path} is gone" for path in sorted(was - now)]
    if pools(host) != before.hosts[host.name]["pools"]:
        lines.append(f"{host.name}: storage pools {pools(host)}")
    return lines
