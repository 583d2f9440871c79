"""Active block commits, from the overlay into the base below it, step by step; and how far overlays grow."""

from __future__ import annotations

from fsm.hypervisor import domain_xml
from fsm.hypervisor.simulated import files, images, instances
from fsm.hypervisor.simulated.state import (
    PAGE,
    CommitJob,
    Denied,
    DomainRecord,
    HostState,
    Instance,
    LiveDisk,
    Missing,
    NoSpace,
    WorldState,
    active,
    domain_record,
    idle,
)
from fsm.hypervisor.values import Overlay, is_among_devices

_STEPS = 2
STEP_S = 0.1
"""What one step of a job stands for, where a bandwidth limits it."""


def start(
    state: WorldState, host: HostState, uuid: str, overlay: Overlay, bandwidth_mib_per_s: int = 0
) -> None:
    """Begin a commit; one that runs or is done already is left alone."""
    _, instance = active(host, uuid)
    disk = live_disk(instance, overlay.target)
    paths = tuple(path for path, _ in disk.layers)
    if disk.commit is not None or paths[:1] == (overlay.base,):
        return
    if paths[:2] != (overlay.path, overlay.base):
        raise Denied(
            f"disk {overlay.target!r} has the chain {' <- '.join(paths)}, not "
            f"{overlay.path} <- {overlay.base}"
        )
    idle(instance)
    if disk.pull is not None:
        raise Denied(f"block operation: disk '{overlay.target}' already in active block job")
    instances.take_locks(state, host, uuid, [LiveDisk(overlay.target, disk.layers[1:])])
    held = images.blocks(files.existing(state, host, overlay.path), "qcow2")
    top, base = (images.header(files.existing(state, host, path)) for path, _ in disk.layers[:2])
    if top.capacity_bytes > base.capacity_bytes:  # the disk was resized: QEMU has the base follow
        images.resize(state, host, disk.layers[1], top.capacity_bytes)
    step = max(1, -(-len(held) // _STEPS))
    if bandwidth_mib_per_s:
        step = min(step, max(1, int(bandwidth_mib_per_s * 1024 * 1024 * STEP_S) // PAGE))
    disk.commit = CommitJob(overlay.path, overlay.base, dict.fromkeys(held), len(held), step_blocks=step)
    state.jobs.setdefault(uuid, {})[host.uri] = None
    state.touch(host, uuid)


def advance(state: WorldState, host: HostState, uuid: str, disk: LiveDisk) -> None:
    """One step of the commit that runs on ``disk``."""
    job = disk.commit
    if job is None or job.ready:
        return
    # Readiness comes a step after the last block: a job with nothing left is not ready yet.
    job.ready = not job.pending
    for block in list(job.pending)[: job.step_blocks]:
        try:
            _copy(state, host, disk, block)
        except NoSpace:
            fail(state, host, uuid, disk)
            return
        del job.pending[block]
        job.done_blocks += 1
    state.touch(host, uuid)


def _copy(state: WorldState, host: HostState, disk: LiveDisk, block: int) -> None:
    top, base = disk.layers[:2]
    content = images.read_block(state, host, (top,), block)
    images.write_block(state, host, base, block, content)


def wrote(state: WorldState, host: HostState, uuid: str, disk: LiveDisk, block: int) -> None:
    """The guest wrote a block into the overlay of a disk with a commit."""
    job = disk.commit
    if job is None:
        return
    if not job.ready:
        if block not in job.pending:
            job.pending[block] = None
            job.total_blocks += 1
        return
    try:
        _copy(state, host, disk, block)
    except NoSpace:
        fail(state, host, uuid, disk)


def fail(state: WorldState, host: HostState, uuid: str, disk: LiveDisk) -> None:
    """The base's file system is full: the job is gone and nobody is told why; the overlay stays valid.

    The guest runs on, as QEMU has it: only a write of its own that finds no space pauses it.
    """
    disk.commit = None
    state.drop_idle_jobs(uuid, host)
    state.touch(host, uuid)


def pivot(state: WorldState, host: HostState, uuid: str, target: str) -> None:
    """End a commit that is ready: the base becomes the active layer."""
    record, instance = active(host, uuid)
    disk = live_disk(instance, target)
    if disk.commit is None:
        raise Missing(f"disk {target!r} has no block job to end")
    if not disk.commit.ready:
        raise Denied(f"the active-commit job of disk {target!r} is not ready")
    disk.commit = None
    disk.layers = disk.layers[1:]
    follow(record, target, disk.layers[0])
    state.drop_idle_jobs(uuid, host)
    state.touch(host, uuid)


def cancel(state: WorldState, host: HostState, uuid: str, target: str) -> None:
    """End a block job without its effect; nothing happens when there is none."""
    instance = domain_record(host, uuid).instance
    if instance is None:
        return
    disk = live_disk(instance, target)
    if disk.busy:
        disk.commit = disk.pull = None
        state.drop_idle_jobs(uuid, host)
        state.touch(host, uuid)


def set_threshold(host: HostState, uuid: str, target: str, offset_bytes: int) -> None:
    """Have the next write behind an offset of the active layer's file reported; a migration forbids it."""
    _, instance = active(host, uuid)
    idle(instance)
    live_disk(instance, target).threshold_bytes = offset_bytes


def follow(record: DomainRecord, target: str, layer: tuple[str, str]) -> None:
    """Have the definition name the new active layer too, as libvirt does."""
    if record.definition is not None:
        devices = {layer[0]} if is_among_devices(layer[0]) else ()
        record.definition = domain_xml.with_disk_sources(record.definition, {target: layer}, devices)


def live_disk(instance: Instance, target: str) -> LiveDisk:
    """A disk of a running domain; ``Missing`` when it has none of that name."""
    if target not in instance.disks:
        raise Missing(f"the domain has no disk {target!r}")
    return instance.disks[target]
