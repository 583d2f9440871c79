"""The guest inside a simulated domain: it writes numbered blocks and is told when they are on disk.

A write that returns was acknowledged, and must be found wherever the domain runs later.
``lost_writes`` looks.
"""

from __future__ import annotations

from attrs import frozen

from fsm.hypervisor.simulated import commit, documents, domains, files, images, migration, overlays
from fsm.hypervisor.simulated.state import (
    PAGE,
    Denied,
    HostState,
    Instance,
    LiveDisk,
    NoSpace,
    WorldState,
    domain_record,
)
from fsm.machine.observation import DomainState


class GuestStopped(Exception):  # a fact about the guest, like the port's errors
    """The guest runs on no host, so it can't write; the write was not acknowledged."""


@frozen
class LostWrite:
    """A block that does not hold what the guest was told to be there."""

    target: str
    block: int
    expected: bytes
    found: bytes


def running_at(state: WorldState, uuid: str) -> list[str]:
    """The hosts where the guest's CPUs run: never more than one, if all is well."""
    return [
        uri
        for uri, host in state.hosts.items()
        if (record := host.domains.get(uuid)) and record.instance and record.instance.running
    ]


def active_at(state: WorldState, uuid: str) -> list[str]:
    """The hosts where the domain has a process, running or not."""
    return [
        uri for uri, host in state.hosts.items() if (record := host.domains.get(uuid)) and record.instance
    ]


def write(
    state: WorldState, uuid: str, target: str, block: int, content: bytes, at: str | None = None
) -> None:
    """Write a block; it is acknowledged when this returns. ``at`` picks an instance if several run."""
    running = [at] if at is not None else running_at(state, uuid)
    if not running:
        raise GuestStopped(f"domain {uuid} runs on no host")
    host = state.hosts[running[0]]
    instance = host.domains[uuid].instance
    if instance is None or not instance.running:
        raise GuestStopped(f"domain {uuid} does not run on {host.uri}")
    disk = instance.disks[target]
    kept = content.rstrip(b"\0")
    try:
        images.write_block(state, host, disk.layers[0], block, kept)
    except NoSpace as error:
        disk.error = "no-space"
        domains.pause(state, host, uuid, "io-error")
        raise GuestStopped(str(error)) from error
    state.acknowledged.setdefault(uuid, {})[target, block] = kept
    _report_crossing(state, host, uuid, disk, block)
    commit.wrote(state, host, uuid, disk, block)
    migration.wrote(state, host, uuid, instance, disk, block)


def _report_crossing(state: WorldState, host: HostState, uuid: str, disk: LiveDisk, block: int) -> None:
    if disk.threshold_bytes is None:
        return
    path, image_format = disk.layers[0]
    end = images.offset_of(files.existing(state, host, path), image_format, block) + PAGE
    if end > disk.threshold_bytes:
        disk.threshold_bytes = None
        state.cross(host, uuid)


def read(state: WorldState, uuid: str, target: str, block: int, at: str | None = None) -> bytes:
    """What the guest would read, without trailing zeros."""
    host = state.hosts[at] if at is not None else _home(state, uuid)
    return images.read_block(
        state, host, overlays.layers(state, host, domain_record(host, uuid), target), block
    )


def _home(state: WorldState, uuid: str) -> HostState:
    """Where the domain lives: where it runs, else where it has a process, else where it is defined."""
    for found in (running_at(state, uuid), active_at(state, uuid)):
        if found:
            return state.hosts[found[0]]
    for host in state.hosts.values():
        if uuid in host.domains:
            return host
    raise Denied(f"no host has domain {uuid}")


def lost_writes(state: WorldState, uuid: str, at: str | None = None) -> list[LostWrite]:
    """Acknowledged writes that the domain would not read now, at ``at`` or wherever it lives."""
    lost = []
    for (target, block), expected in state.acknowledged.get(uuid, {}).items():
        found = read(state, uuid, target, block, at)
        if found != expected:
            lost.append(LostWrite(target, block, expected, found))
    return lost


def snapshot_contents(
    state: WorldState, host: HostState, uuid: str
) -> dict[tuple[str, str], dict[int, bytes]]:
    """The blocks of every internal snapshot in every layer: (disk target, snapshot name) -> blocks."""
    record = host.domains[uuid]
    text = record.instance.xml if record.instance else record.definition or ""
    contents = {}
    for described in documents.disks(text):
        if described.source_type not in ("file", "block") or not described.source:
            continue
        for path, image_format in overlays.layers(state, host, record, described.target):
            if image_format != "qcow2":
                continue
            file = files.existing(state, host, path)
            for entry in images.snapshot_table(file):
                contents[described.target, entry.name] = images.snapshot_blocks(file, entry.name)
    return contents


def crash(state: WorldState, host: HostState, uuid: str, on_crash: str = "preserve") -> None:
    """The guest panics. While it migrates libvirt does nothing about it; a dead guest arrives, and "runs"."""
    instance = _running(host, uuid)
    if instance.migration is not None:
        domains.pause(state, host, uuid)
        return
    match on_crash:
        case "preserve":  # QEMU still holds its images
            instance.state, instance.reason = DomainState.CRASHED, "panicked"
        case "destroy":
            domains.stop(state, host, uuid, "crashed")
        case "restart":
            reset(state, host, uuid)
        case _:
            raise LookupError(f"no such end of a crash: {on_crash!r}")
    state.touch(host, uuid)


def reset(state: WorldState, host: HostState, uuid: str) -> None:
    """The machine starts anew in the same process; what was acknowledged is on disk."""
    _running(host, uuid)
    state.touch(host, uuid)


def _running(host: HostState, uuid: str) -> Instance:
    record = host.domains.get(uuid)
    if record is None or record.instance is None:
        raise Denied(f"domain {uuid} has no process on {host.uri}")
    return record.instance


def disk_of(host: HostState, uuid: str, target: str) -> LiveDisk:
    """A disk of a running domain."""
    return _running(host, uuid).disks[target]
