"""Live migration, peer to peer: begun by one call, then going on step by step whoever looks.

Phases: the overlays' content is mirrored; memory is copied while every further write goes to both sides; the
source is paused; the destination runs; the source learns of it and goes. Whatever ends it before the
destination runs leaves the source as it was and nothing at the destination.
"""

from __future__ import annotations

from fsm.hypervisor import domain_xml
from fsm.hypervisor.simulated import documents, files, images, instances
from fsm.hypervisor.simulated.commit import STEP_S
from fsm.hypervisor.simulated.state import (
    PAGE,
    Denied,
    DomainRecord,
    HostState,
    Instance,
    LiveDisk,
    MigrationJob,
    NoSpace,
    Phase,
    WorldState,
    active,
    idle,
)
from fsm.hypervisor.values import JobProgress, MigrationRequest
from fsm.machine.observation import DomainState

_MIRROR_STEPS = 2
_MEMORY_STEPS = 3
DOWNTIME_MS = 300
"""QEMU's own choice."""
KEEPALIVE_STEPS = 5
"""After so many steps without an answer each side takes the other for lost."""


def begin(state: WorldState, host: HostState, uuid: str, request: MigrationRequest) -> MigrationJob:
    """Begin a migration: the destination's instance appears, paused; or ``Denied``, and nothing happened."""
    record, instance = active(host, uuid)
    if request.tuning.parallel_connections and not request.tuning.parallel:
        raise Denied("invalid argument: Turn parallel migration on to tune it")
    _may_leave(record, instance)
    destination = _peer(state, host, request.destination_uri)
    arriving = _arrive(state, host, destination, record, request)
    pending = _to_mirror(state, host, instance, request, destination, arriving)
    name = request.destination_name or record.name
    there = destination.domains.setdefault(uuid, DomainRecord(uuid, name))
    there.instance = arriving
    memory = documents.memory_bytes(instance.xml)
    disk_bytes = sum(len(blocks) for blocks in pending.values()) * PAGE
    limit, began_as = request.bandwidth_mib_per_s, (instance.state, instance.reason)
    job = MigrationJob(destination.uri, request, pending, memory, limit, began_as, disk_bytes)
    job.downtime_ms = request.tuning.max_downtime_ms or DOWNTIME_MS
    instance.migration = job
    state.jobs.setdefault(uuid, {})[host.uri] = None
    state.touch(host, uuid)
    state.touch(destination, uuid)
    return job


def _may_leave(record: DomainRecord, instance: Instance) -> None:
    idle(instance)
    if record.snapshots:
        raise Denied(
            f"Requested operation is not valid: cannot migrate domain with {len(record.snapshots)} snapshots"
        )
    if any(disk.busy for disk in instance.disks.values()):
        raise Denied("Requested operation is not valid: domain has active block job")


def _peer(state: WorldState, host: HostState, uri: str) -> HostState:
    destination = state.hosts.get(uri)
    if destination is None or (destination is not host and not state.linked(host.uri, uri)):
        raise Denied(
            f"operation failed: Failed to connect to remote libvirt URI {uri}: unable to connect to server"
        )
    if destination.uuid == host.uuid:
        raise Denied(f"internal error: Attempt to migrate guest to the same host {host.uuid}")
    return destination


def _arrive(
    state: WorldState,
    host: HostState,
    destination: HostState,
    record: DomainRecord,
    request: MigrationRequest,
) -> Instance:
    """The instance at the destination, not yet entered there."""
    text, name = request.destination_xml, request.destination_name or record.name
    if (domain_xml.uuid(text), domain_xml.name(text)) != (record.uuid, record.name):
        raise Denied("unsupported configuration: the destination XML describes another domain")
    there = destination.domains.get(record.uuid)
    if there is not None and there.instance is not None:
        raise Denied(f"operation failed: domain '{there.name}' is already active")
    for other in destination.domains.values():
        if other.name == name and other.uuid != record.uuid:
            raise Denied(f"operation failed: domain '{name}' already exists with uuid {other.uuid}")
    machine = domain_xml.platform(text).machine
    if destination.machines and machine not in destination.machines:
        raise Denied(f"unsupported configuration: Emulator does not support machine type '{machine}'")
    disks = instances.open_disks(state, destination, text)
    text = domain_xml.with_name(text, name) if name != record.name else text
    arriving = Instance(text, DomainState.PAUSED, "migration", disks, incoming_from=host.uri)
    instances.take_locks(state, destination, record.uuid, instances.writable(arriving))
    return arriving


def _to_mirror(
    state: WorldState,
    host: HostState,
    instance: Instance,
    request: MigrationRequest,
    destination: HostState,
    arriving: Instance,
) -> dict[str, dict[int, None]]:
    """The blocks of each disk's active layer: libvirt mirrors that layer alone."""
    pending = {}
    for target in request.disks:
        here, there = instance.disks.get(target), arriving.disks.get(target)
        if here is None or there is None:
            raise Denied(f"invalid argument: disk target {target} not found")
        path, image_format = here.layers[0]
        if _capacity(state, host, here) != _capacity(state, destination, there):
            raise Denied("internal error: Source and target image have different sizes")
        held = images.blocks(files.existing(state, host, path), image_format)
        pending[target] = dict.fromkeys(held)
    return pending


def _capacity(state: WorldState, host: HostState, disk: LiveDisk) -> int:
    return images.header(files.existing(state, host, disk.layers[0][0])).capacity_bytes


def advance(state: WorldState, host: HostState, uuid: str) -> None:
    """One step of the migration out of ``host``."""
    _, instance = active(host, uuid)
    job = instance.migration
    if job is None:
        return
    job.steps += 1
    if not state.linked(host.uri, job.destination):
        job.silence += 1
        if job.silence >= KEEPALIVE_STEPS:
            fail(state, uuid, "operation failed: Lost connection to destination host")
        return
    job.silence = 0
    match job.phase:
        case Phase.MIRROR:
            _mirror(state, host, uuid, instance, job)
        case Phase.MEMORY:
            _copy_memory(instance, job)
        case Phase.SWITCH:
            _switch(state, uuid, instance, job)
        case Phase.CONFIRM:
            _confirm(state, host, uuid, job)
    state.touch(host, uuid)
    state.touch(state.hosts[job.destination], uuid)


def _mirror(state: WorldState, host: HostState, uuid: str, instance: Instance, job: MigrationJob) -> None:
    if not any(job.pending.values()):
        job.phase = Phase.MEMORY
        return
    limit_bytes = _step_bytes(job.request.bandwidth_mib_per_s)
    room = max(1, (limit_bytes or -(-job.disk_total // _MIRROR_STEPS)) // PAGE)
    for target, pending in job.pending.items():
        for block in list(pending)[:room]:
            try:
                _send(state, host, uuid, instance.disks[target], job, block)
            except NoSpace as error:
                fail(state, uuid, f"operation failed: migration of disk {target} failed: {error}")
                return
            del pending[block]
            job.disk_done += PAGE
            job.mirrored[target] = job.mirrored.get(target, 0) + PAGE
            room -= not limit_bytes  # a limit counts for each disk


def _step_bytes(mib_per_s: int) -> int:
    return int(mib_per_s * 1024 * 1024 * STEP_S)


def _send(
    state: WorldState, host: HostState, uuid: str, disk: LiveDisk, job: MigrationJob, block: int
) -> None:
    destination = state.hosts[job.destination]
    _, arriving = active(destination, uuid)
    content = images.read_block(state, host, disk.layers[:1], block)
    images.write_block(state, destination, arriving.disks[disk.target].layers[0], block, content)


def _copy_memory(instance: Instance, job: MigrationJob) -> None:
    """A step of a pass. Behind a pass that leaves no more than the downtime carries, the guest stops."""
    step = _step_bytes(job.memory_mib_per_s) or -(-job.memory_total // _MEMORY_STEPS)
    job.memory_done = min(job.memory_done + step, job.memory_total)
    job.dirtied = min(job.dirtied + _step_bytes(instance.dirties_mib_per_s), job.memory_total)
    if job.memory_done < job.memory_total:
        return
    left, job.dirtied = job.dirtied, 0
    job.passes += 1
    if left * STEP_S * 1000 <= step * job.downtime_ms:
        job.phase = Phase.SWITCH
    else:
        job.memory_done = job.memory_total - left


def wrote(
    state: WorldState, host: HostState, uuid: str, instance: Instance, disk: LiveDisk, block: int
) -> None:
    """The guest wrote a block while it is being migrated."""
    job = instance.migration
    if job is None or disk.target not in job.pending:
        return
    if job.phase is Phase.MIRROR:
        pending = job.pending[disk.target]
        if block not in pending:
            pending[block] = None
            job.disk_total += PAGE
        return
    try:
        _send(state, host, uuid, disk, job, block)
    except NoSpace as error:
        fail(state, uuid, f"operation failed: migration of disk {disk.target} failed: {error}")


def _switch(state: WorldState, uuid: str, instance: Instance, job: MigrationJob) -> None:
    """First the source stops, then, a step later, the destination goes on as the source was at the beginning.

    So libvirt has it: who suspends a domain during its migration suspends it for the migration alone.
    """
    if not job.handed_over:
        job.handed_over = True
        instance.state, instance.reason = DomainState.PAUSED, "migration"
        return
    destination = state.hosts[job.destination]
    there, arriving = active(destination, uuid)
    paused = job.began_as[0] is DomainState.PAUSED  # a crashed one "runs"
    arriving.state = DomainState.PAUSED if paused else DomainState.RUNNING
    arriving.reason = job.began_as[1] if paused else "migrated"
    arriving.incoming_from = ""
    arriving.inactive = paused
    name, text = job.request.destination_name, job.request.persistent_xml
    there.definition = domain_xml.with_name(text, name) if name else text
    job.phase = Phase.CONFIRM


def _confirm(state: WorldState, host: HostState, uuid: str, job: MigrationJob) -> None:
    job.ended = True
    del host.domains[uuid]
    state.drop_idle_jobs(uuid, host)


def fail(
    state: WorldState, uuid: str, message: str, *, lost: bool = False, keep_arriving: bool = False
) -> None:
    """End the migration of a domain before its time; ``lost`` when its caller will not be told.

    The destination's instance vanishes if it has not run yet. The source goes on as before, unless the
    destination runs: then it stays paused, as it has handed its memory over.
    """
    for uri in list(state.jobs.get(uuid, ())):
        host = state.hosts[uri]
        record = host.domains.get(uuid)
        instance = record.instance if record else None
        if instance is None or instance.migration is None:
            continue
        job = instance.migration
        instance.migration = None
        job.ended, job.failure, job.lost = True, message, lost
        if job.phase is not Phase.CONFIRM:
            if instance.reason == "migration":
                instance.state, instance.reason = job.began_as
            if not keep_arriving:
                _drop_arriving(state, state.hosts[job.destination], uuid)
        state.drop_idle_jobs(uuid, host)
        state.touch(host, uuid)


def _drop_arriving(state: WorldState, destination: HostState, uuid: str) -> None:
    record = destination.domains.get(uuid)
    if record is None or record.instance is None or not record.instance.incoming_from:
        return
    record.instance = None
    record.stopped = "failed"
    if record.definition is None:
        del destination.domains[uuid]
    state.touch(destination, uuid)


def limit_memory(host: HostState, uuid: str, mib_per_s: int, was_mib_per_s: int) -> None:
    """Give memory another limit, unless somebody else has."""
    record = host.domains.get(uuid)
    job = record.instance.migration if record and record.instance else None
    if job is not None and was_mib_per_s in (0, job.memory_mib_per_s):
        job.memory_mib_per_s = mib_per_s


def allow_downtime(host: HostState, uuid: str, max_downtime_ms: int) -> None:
    """Let the guest stand still for so long."""
    record = host.domains.get(uuid)
    job = record.instance.migration if record and record.instance else None
    if job is not None:
        job.downtime_ms = max_downtime_ms


def abort(state: WorldState, host: HostState, uuid: str) -> None:
    """Abort the migration out of ``host``; nothing happens when there is none."""
    record = host.domains.get(uuid)
    instance = record.instance if record else None
    if instance is None or instance.migration is None:
        return
    if instance.migration.phase is Phase.CONFIRM:
        raise Denied("Requested operation is not valid: the migration can't be aborted any more")
    fail(state, uuid, "operation aborted: migration out job: canceled by client")


def cut(state: WorldState, host: HostState, uuid: str) -> None:
    """Cut its connections, which are gone once the other side has everything."""
    record = host.domains.get(uuid)
    instance = record.instance if record else None
    job = instance.migration if instance else None
    if job is not None and job.phase is not Phase.CONFIRM:
        fail(state, uuid, "Unable to write to socket: Bad file descriptor")


def progress(host: HostState, uuid: str) -> JobProgress | None:
    """How far the migration has come; only the source has figures."""
    record = host.domains.get(uuid)
    instance = record.instance if record else None
    if instance is None:
        return None
    if instance.incoming_from:
        return JobProgress()
    job = instance.migration
    if job is None:
        return None
    return JobProgress(
        job.memory_done,
        job.memory_total,
        job.disk_done,
        job.disk_total,
        downtime_ms=DOWNTIME_MS,
        memory_iteration=job.passes + 1 if job.phase is not Phase.MIRROR else 0,
    )
