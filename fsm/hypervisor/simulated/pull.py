"""Block pulls: what is below a disk's active layer is copied into it, step by step, until it stands alone."""

from __future__ import annotations

from fsm.hypervisor.simulated import files, images
from fsm.hypervisor.simulated.commit import live_disk
from fsm.hypervisor.simulated.state import (
    Denied,
    HostState,
    LiveDisk,
    NoSpace,
    PullJob,
    WorldState,
    active,
    idle,
)

_STEPS = 2


def start(state: WorldState, host: HostState, uuid: str, target: str, image: str) -> None:
    """Begin a pull of the whole chain; one that runs, or a disk that stands alone, is left as it is."""
    _, instance = active(host, uuid)
    disk = live_disk(instance, target)
    if disk.layers[0][0] != image:
        raise Denied(f"disk {target!r} stands on {disk.layers[0][0]!r}, not on {image!r}")
    if disk.pull is not None or len(disk.layers) == 1:
        return
    idle(instance)
    if disk.busy:
        raise Denied(f"block operation: disk '{target}' already in active block job")
    below = {
        block
        for path, image_format in disk.layers[1:]
        for block in images.blocks(files.existing(state, host, path), image_format)
    }
    wanted = dict.fromkeys(sorted(below - _held(state, host, disk)))
    disk.pull = PullJob(wanted, len(wanted), max(1, -(-len(wanted) // _STEPS)))
    state.jobs.setdefault(uuid, {})[host.uri] = None
    state.touch(host, uuid)


def _held(state: WorldState, host: HostState, disk: LiveDisk) -> set[int]:
    path, image_format = disk.layers[0]
    return set(images.blocks(files.existing(state, host, path), image_format))


def advance(state: WorldState, host: HostState, uuid: str, disk: LiveDisk) -> None:
    """One step of the pull that runs on ``disk``; behind the last one the chain is gone."""
    job = disk.pull
    if job is None:
        return
    over = not job.pending
    held = _held(state, host, disk)  # what the guest has written meanwhile is newer
    for block in list(job.pending)[: job.step_blocks]:
        if block not in held:
            try:
                images.write_block(
                    state, host, disk.layers[0], block, images.read_block(state, host, disk.layers, block)
                )
            except NoSpace:
                over = True  # the job is gone, and nobody is told why; the chain is what it was
                break
        del job.pending[block]
    else:
        if over:
            images.forget_backing(state, host, disk.layers[0][0])
            disk.layers = disk.layers[:1]
    if over:
        disk.pull = None
        state.drop_idle_jobs(uuid, host)
    state.touch(host, uuid)
