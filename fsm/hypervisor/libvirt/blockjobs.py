"""Block commits of overlays into their bases, block pulls, and how far the overlays have grown."""

from __future__ import annotations

import libvirt

from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt import words
from fsm.hypervisor.libvirt.session import Call
from fsm.hypervisor.values import DiskFacts, Overlay

_ACTIVE_COMMIT = "active-commit"
_PULL = "pull"


def start_commit(call: Call, uuid: str, overlay: Overlay, bandwidth_mib_per_s: int) -> None:
    """Begin an active commit of the overlay into the base right below it."""
    disk = _disk(call, uuid, overlay.target)
    if disk.block_job is not None and disk.block_job.kind == _ACTIVE_COMMIT:
        return
    if disk.chain[:1] == (overlay.base,):
        return  # committed and pivoted before
    if disk.chain[:2] != (overlay.path, overlay.base):
        raise call.error(
            f"disk {overlay.target!r} stands on {list(disk.chain)}, not on {[overlay.path, overlay.base]}",
            remedy="find out who changed the disk before going on",
        )
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | libvirt.VIR_DOMAIN_BLOCK_COMMIT_SHALLOW
    call.domain(uuid).blockCommit(overlay.target, None, None, bandwidth_mib_per_s, flags)


def start_pull(call: Call, uuid: str, target: str, image: str) -> None:
    """Begin a block pull of the whole chain below the active layer, which must be ``image``."""
    disk = _disk(call, uuid, target)
    if disk.chain[:1] != (image,):
        raise call.error(
            f"disk {target!r} stands on {list(disk.chain)}, not on {image!r}",
            remedy="find out who changed the disk before going on",
        )
    if len(disk.chain) == 1 or _job_of(call, uuid, target) == _PULL:
        return
    call.domain(uuid).blockPull(target, 0, 0)


def _job_of(call: Call, uuid: str, target: str) -> str:
    """The kind of a block job; that of a pull does not stand in the XML."""
    info = call.domain(uuid).blockJobInfo(target)
    return words.block_job(info["type"]) if info else ""


def pivot(call: Call, uuid: str, target: str) -> None:
    """End a commit that is ready."""
    job = _disk(call, uuid, target).block_job
    if job is None:
        raise call.not_found(f"disk {target!r} has no block job to end")
    if job.kind != _ACTIVE_COMMIT or not job.ready:
        raise call.error(
            f"the {job.kind} job of disk {target!r} is not ready", remedy="wait until it is ready"
        )
    call.domain(uuid).blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def cancel(call: Call, uuid: str, target: str) -> None:
    """Cancel a block job, if there is one."""
    domain = call.domain(uuid)
    if domain.isActive() and domain.blockJobInfo(target):
        domain.blockJobAbort(target, 0)


def set_threshold(call: Call, uuid: str, target: str, offset_bytes: int) -> None:
    """Have the next write behind ``offset_bytes`` of the active layer's file reported."""
    call.domain(uuid).setBlockThreshold(target, offset_bytes)


def _disk(call: Call, uuid: str, target: str) -> DiskFacts:
    domain = call.domain(uuid)
    if not domain.isActive():
        raise call.error(f"domain {uuid} is not active", remedy="start it paused first")
    for disk in domain_xml.disks(domain.XMLDesc(0)):
        if disk.target == target:
            return disk
    raise call.not_found(f"the domain has no disk {target!r}")
