"""What must be the same before and after a migration, collected from a host and compared."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from lxml import etree

from fsm.lab.guest import Guest
from fsm.lab.host import IMAGES, LabHost
from fsm.lab.lab import Lab
from fsm.lab.proof import ImageSnapshot, missing_writes, snapshot_digests, snapshot_table
from fsm.lab.serial import Ack
from fsm.lab.spec import GuestSpec

# What a migration makes and must not leave behind; see the plan's overlays and the adapter's pools.
OURS = "fsm-"


@frozen
class SnapshotRecord:
    """What libvirt tells of one snapshot besides its content."""

    name: str
    parent: str
    description: str
    state: str
    created: str
    current: bool


@frozen
class Evidence:
    """Everything about a guest's snapshots that a migration has to keep.

    ``digests`` and ``tables`` map a disk target to its internal snapshots' contents and table entries.
    """

    digests: dict[str, dict[str, str]]
    tables: dict[str, list[ImageSnapshot]]
    metadata: tuple[SnapshotRecord, ...]


@frozen
class Claim:
    """One thing that must hold, what was seen, and whether it does."""

    what: str
    seen: str
    holds: bool


def collect(host: LabHost, spec: GuestSpec) -> Evidence:
    """Read the evidence on the host where the guest is."""
    qcow2 = [disk for disk in spec.disks if disk.format == "qcow2" and not disk.empty]
    images = {disk.target: disk.image(spec.name) for disk in qcow2}
    digests = {target: snapshot_digests(path, enter=host.enter) for target, path in images.items()}
    tables = {target: snapshot_table(path, enter=host.enter) for target, path in images.items()}
    return Evidence(digests, tables, snapshot_metadata(host, spec.name))


def snapshot_metadata(host: LabHost, domain: str) -> tuple[SnapshotRecord, ...]:
    """libvirt's metadata of all snapshots of a domain, sorted by name."""
    names = host.virsh("snapshot-list", "--domain", domain, "--name").split("\n")
    found = []
    for name in filter(None, names):
        text = host.virsh("snapshot-dumpxml", "--domain", domain, "--snapshotname", name)
        root = etree.fromstring(text.encode())
        info = host.virsh("snapshot-info", "--domain", domain, "--snapshotname", name)
        current = any(line.split()[:2] == ["Current:", "yes"] for line in info.splitlines())
        found.append(
            SnapshotRecord(
                name,
                parent=root.findtext("parent/name", ""),
                description=root.findtext("description", ""),
                state=root.findtext("state", ""),
                created=root.findtext("creationTime", ""),
                current=current,
            )
        )
    return tuple(sorted(found, key=lambda record: record.name))


def compare(before: Evidence, after: Evidence) -> list[Claim]:
    """One claim for each snapshot's content on each disk, and one for the metadata."""
    claims = []
    for target, digests in before.digests.items():
        for name, digest in digests.items():
            found = after.digests.get(target, {}).get(name, "missing")
            seen = f"{digest[:12]} before, {found[:12]} after"
            claims.append(Claim(f"{target}: content of snapshot {name}", seen, found == digest))
        same = before.tables[target] == after.tables.get(target)
        claims.append(Claim(f"{target}: snapshot table, saved memory included", _same(same), same))
    same = before.metadata == after.metadata
    current = next((record.name for record in after.metadata if record.current), "none")
    seen = f"{len(after.metadata)} snapshots, current {current}"
    claims.append(Claim("names, parents, descriptions, current", seen, same))
    return claims


def _same(same: bool) -> str:  # noqa: FBT001  # a word for a truth value
    return "the same" if same else "differs"


def writes(host: LabHost, spec: GuestSpec, acks: Sequence[Ack]) -> list[Claim]:
    """Every acknowledged write is in the image, one claim a disk."""
    claims = []
    for disk in spec.disks:
        if disk.target not in spec.written_targets:
            continue
        demanded = [ack for ack in acks if ack.disk == disk.target]
        lost = missing_writes(disk.image(spec.name), demanded, disk.target, spec.ring, enter=host.enter)
        seen = f"{len(demanded)} acknowledged, {len(demanded) - len(lost)} found"
        # No acknowledged write at all would prove nothing.
        claims.append(Claim(f"{disk.target}: acknowledged writes", seen, bool(demanded) and not lost))
    return claims


def whereabouts(lab: Lab, guest: str, at: LabHost) -> list[Claim]:
    """The guest runs on the one host and the other does not know it."""
    claims = []
    for host in lab.hosts:
        states = {
            domain.name: domain.state
            for status in lab.status().hosts
            if status.name == host.name
            for domain in status.domains or ()
        }
        seen = states.get(guest, "no such domain")
        expected = "running" if host.name == at.name else "no such domain"
        claims.append(Claim(f"{host.name}: domain {guest}", seen, seen == expected))
    return claims


def leftovers(lab: Lab) -> Claim:
    """No overlay and no storage pool of ours is left on either host."""
    found = []
    for host in lab.hosts:
        found += [f"{host.name}:{path.name}" for path in host.path(IMAGES).iterdir() if OURS in path.name]
        pools = host.virsh("pool-list", "--all", "--name").split()
        found += [f"{host.name}: pool {name}" for name in pools if name.startswith(OURS)]
    return Claim("left behind on either host", ", ".join(found) or "nothing", not found)


def absent(host: LabHost, paths: Sequence[str]) -> Claim:
    """None of these files exists on the host."""
    found = [path for path in paths if host.path(path).exists()]
    return Claim(f"{host.name}: copies removed", ", ".join(found) or "all", not found)


def guest_on(host: LabHost, spec: GuestSpec) -> Guest:
    """The guest as seen on a host that did not make it."""
    return Guest(host, spec.name, spec)
