"""Domains: their definitions, processes and overlays; what the calls of one host do to them.

Each function is one step of one libvirtd and either changes the state or raises ``Denied`` without having
changed anything. The messages are libvirt's.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from fsm.hypervisor import domain_xml
from fsm.hypervisor.simulated import documents, instances, migration
from fsm.hypervisor.simulated.state import (
    PAGE,
    Denied,
    DomainRecord,
    HostState,
    Instance,
    LiveDisk,
    Missing,
    WorldState,
    active,
    domain_record,
    idle,
)
from fsm.hypervisor.values import DiskFacts, DomainFacts, is_among_devices
from fsm.machine.observation import BlockJob, DomainState, Job


def resolve(host: HostState, text: str) -> str:
    """The UUID of the domain with this name or UUID."""
    if text.lower() in host.domains:
        return text.lower()
    for record in host.domains.values():
        if record.name == text:
            return record.uuid
    raise Missing(f"there is no domain {text!r}")


def uses(host: HostState, uuid: str, path: str) -> bool:
    """Whether QEMU has the file in a disk's chain."""
    record = host.domains.get(uuid)
    if record is None or record.instance is None:
        return False
    return any(path == layer for disk in record.instance.disks.values() for layer, _ in disk.layers)


def has_run(host: HostState, uuid: str) -> bool:
    """Whether the guest's CPUs have run in its process."""
    record = host.domains.get(uuid)
    return record is not None and record.instance is not None and record.instance.has_run


def facts(host: HostState, uuid: str) -> DomainFacts | None:
    """The domain as its libvirtd tells of it."""
    record = host.domains.get(uuid)
    if record is None:
        return None
    instance = record.instance
    xml = instance.xml if instance else record.definition or ""
    described = documents.disks(xml)
    return DomainFacts(
        uuid=uuid,
        name=record.name,
        state=instance.state if instance else DomainState.SHUT_OFF,
        reason=instance.reason if instance else record.stopped,
        persistent=record.definition is not None,
        job=_job(instance),
        disks=tuple(_live(disk, instance) for disk in described) if instance else described,
        snapshots=tuple(record.snapshots),
        current_snapshot=record.current,
        disk_errors=tuple(_disk_errors(instance)),
        marker=documents.marker(xml),
    )


def _job(instance: Instance | None) -> Job:
    if instance is None:
        return Job.NONE
    if instance.incoming_from:
        return Job.MIGRATION_IN
    return Job.MIGRATION_OUT if instance.migration is not None else Job.NONE


def _live(described: DiskFacts, instance: Instance) -> DiskFacts:
    disk = instance.disks.get(described.target)
    if disk is None:
        return described
    return attrs.evolve(
        described,
        source_type="block" if is_among_devices(disk.layers[0][0]) else "file",
        chain=tuple(path for path, _ in disk.layers),
        formats=tuple(image_format for _, image_format in disk.layers),
        block_job=_block_job(disk, instance),
    )


def _block_job(disk: LiveDisk, instance: Instance) -> BlockJob | None:
    commit, migration = disk.commit, instance.migration
    if commit is not None:
        return BlockJob("active-commit", commit.ready, commit.done_blocks * PAGE, commit.total_blocks * PAGE)
    if (pull := disk.pull) is not None:
        done = pull.total_blocks - len(pull.pending)
        return BlockJob("pull", current_bytes=done * PAGE, end_bytes=pull.total_blocks * PAGE)
    if migration is None or disk.target not in migration.pending:
        return None
    done = migration.mirrored.get(disk.target, 0)
    end = done + len(migration.pending[disk.target]) * PAGE
    return BlockJob("copy", current_bytes=done, end_bytes=end)


def _disk_errors(instance: Instance | None) -> Iterator[tuple[str, str]]:
    for disk in instance.disks.values() if instance else ():
        if disk.error:
            yield disk.target, disk.error


def current_xml(host: HostState, uuid: str) -> str:
    """The XML of the running, else the defined domain."""
    record = domain_record(host, uuid)
    return documents.live(record.instance) if record.instance else record.definition or ""


def persistent_xml(host: HostState, uuid: str) -> str:
    """The definition; that of a transient domain is what runs."""
    record = domain_record(host, uuid)
    return record.definition if record.definition is not None else current_xml(host, uuid)


def objections(host: HostState, text: str) -> tuple[str, ...]:
    """Why this host could not run the domain."""
    machine = domain_xml.platform(text).machine
    if host.machines and machine not in host.machines:
        return (f"the emulator does not support machine type '{machine}'",)
    return ()


def define(state: WorldState, host: HostState, text: str) -> DomainRecord:
    """Define a domain, or change its definition."""
    uuid = domain_xml.uuid(text)
    record = host.domains.setdefault(uuid, DomainRecord(uuid, domain_xml.name(text)))
    record.definition = text
    state.touch(host, uuid)
    return record


def define_new(state: WorldState, host: HostState, text: str) -> None:
    """Define a domain; ``Denied`` where there is one of its UUID or name."""
    uuid, name = domain_xml.uuid(text), domain_xml.name(text)
    if any(uuid == record.uuid or name == record.name for record in host.domains.values()):
        raise Denied(f"domain '{name}' already exists with uuid {uuid}, or one of these is taken")
    define(state, host, text)


# Life


def start_paused(state: WorldState, host: HostState, uuid: str) -> None:
    """Start the defined domain with its CPUs stopped."""
    record = domain_record(host, uuid)
    if record.instance is not None:
        return
    text = record.definition or ""
    disks = instances.open_disks(state, host, text)
    instance = Instance(text, DomainState.PAUSED, "user", disks)
    instances.take_locks(state, host, uuid, instances.writable(instance))
    record.instance = instance
    state.touch(host, uuid)


def resume(state: WorldState, host: HostState, uuid: str) -> None:
    """Let the guest's CPUs run."""
    _, instance = active(host, uuid)
    if instance.running:
        return
    idle(instance)
    if instance.state is DomainState.CRASHED:
        raise Denied("internal error: unable to execute QEMU command 'cont': Resetting the VM is required")
    instance.state, instance.reason = DomainState.RUNNING, "unpaused"
    instance.inactive, instance.has_run = False, True
    for disk in instance.disks.values():
        disk.error = ""
    state.touch(host, uuid)


def pause(state: WorldState, host: HostState, uuid: str, reason: str = "user") -> None:
    """Stop the guest's CPUs; what is stopped while it migrates counts as stopped for the migration."""
    _, instance = active(host, uuid)
    if instance.running:
        if instance.migration is not None and reason == "user":
            reason = "migration"
        instance.state, instance.reason = DomainState.PAUSED, reason
        state.touch(host, uuid)


def destroy(state: WorldState, host: HostState, uuid: str) -> None:
    """Stop the domain's process; nothing happens when it has none."""
    record = host.domains.get(uuid)
    if record is not None and record.instance is not None:
        stop(state, host, uuid, "destroyed")


def stop(state: WorldState, host: HostState, uuid: str, reason: str) -> None:
    """End the domain's process for whatever reason; a transient domain vanishes with it."""
    record, instance = active(host, uuid)
    if instance.ghost:
        raise Denied("Timed out during operation: cannot acquire state change lock")
    if instance.incoming_from:
        migration.fail(state, uuid, "operation failed: the destination's QEMU ended unexpectedly")
        return
    if instance.migration is not None:
        migration.fail(state, uuid, "operation failed: domain is not running")
    record.instance = None
    record.stopped = reason
    state.drop_idle_jobs(uuid, host)
    if record.definition is None:
        del host.domains[uuid]
    state.touch(host, uuid)


def undefine(state: WorldState, host: HostState, uuid: str) -> None:
    """Remove a shut-off domain's definition; nothing happens when there is none."""
    record = host.domains.get(uuid)
    if record is None:
        return
    if record.instance is not None:
        raise Denied(f"domain {uuid} is active, so its definition is not removed")
    if record.snapshots:
        raise Denied(
            "Requested operation is not valid: cannot delete inactive domain with "
            f"{len(record.snapshots)} snapshots"
        )
    del host.domains[uuid]
    state.touch(host, uuid)


def throttle(host: HostState, uuid: str, target: str, bytes_per_s: int) -> None:
    """Let the guest write no more to a disk."""
    _, instance = active(host, uuid)
    if target not in instance.disks:
        raise Missing(f"the domain has no disk {target!r}")
    instance.disks[target].throttle = bytes_per_s


def lift(host: HostState, uuid: str, target: str) -> None:
    """Let the guest write as it likes again; nothing happens where it does not run."""
    record = host.domains.get(uuid)
    if record is not None and record.instance is not None and target in record.instance.disks:
        record.instance.disks[target].throttle = None
