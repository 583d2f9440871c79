"""libvirt's numbers as the words this package uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import libvirt

from fsm.machine.observation import DomainState, Job

_RUNNING = {
    libvirt.VIR_DOMAIN_RUNNING_BOOTED: "booted",
    libvirt.VIR_DOMAIN_RUNNING_MIGRATED: "migrated",
    libvirt.VIR_DOMAIN_RUNNING_RESTORED: "restored",
    libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT: "from-snapshot",
    libvirt.VIR_DOMAIN_RUNNING_UNPAUSED: "unpaused",
    libvirt.VIR_DOMAIN_RUNNING_MIGRATION_CANCELED: "migration-canceled",
    libvirt.VIR_DOMAIN_RUNNING_SAVE_CANCELED: "save-canceled",
    libvirt.VIR_DOMAIN_RUNNING_WAKEUP: "wakeup",
    libvirt.VIR_DOMAIN_RUNNING_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_RUNNING_POSTCOPY: "postcopy",
    libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED: "postcopy-failed",
}
_PAUSED = {
    libvirt.VIR_DOMAIN_PAUSED_USER: "user",
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "migration",
    libvirt.VIR_DOMAIN_PAUSED_SAVE: "save",
    libvirt.VIR_DOMAIN_PAUSED_DUMP: "dump",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "io-error",
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "watchdog",
    libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT: "from-snapshot",
    libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: "shutting-down",
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "snapshot",
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: "starting-up",
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: "postcopy",
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: "postcopy-failed",
    14: "api-error",  # VIR_DOMAIN_PAUSED_API_ERROR, which bindings built on libvirt 9.0 do not have
}
_SHUT_OFF = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "destroyed",
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: "migrated",
    libvirt.VIR_DOMAIN_SHUTOFF_SAVED: "saved",
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "failed",
    libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: "from-snapshot",
    libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: "daemon",
}
_CRASHED = {libvirt.VIR_DOMAIN_CRASHED_PANICKED: "panicked"}

_BLOCK_JOBS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: "pull",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: "copy",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: "commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: "active-commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: "backup",
}
_DISK_ERRORS = {libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE: "no-space"}


def version(number: int) -> tuple[int, int, int]:
    """libvirt's 9002001 as (9, 2, 1)."""
    return number // 1_000_000, number // 1_000 % 1_000, number % 1_000


def state(number: int, reason: int) -> tuple[DomainState, str]:
    """``virDomainState`` and its reason; the reason is "unknown" where libvirt does not tell."""
    match number:
        case libvirt.VIR_DOMAIN_PAUSED:
            return DomainState.PAUSED, _PAUSED.get(reason, "unknown")
        case libvirt.VIR_DOMAIN_PMSUSPENDED:
            return DomainState.PAUSED, "pm-suspended"
        case libvirt.VIR_DOMAIN_SHUTOFF:
            return DomainState.SHUT_OFF, _SHUT_OFF.get(reason, "unknown")
        case libvirt.VIR_DOMAIN_CRASHED:
            return DomainState.CRASHED, _CRASHED.get(reason, "unknown")
        case libvirt.VIR_DOMAIN_SHUTDOWN:  # the guest is on its way down, QEMU is still there
            return DomainState.RUNNING, "shutting-down"
        case libvirt.VIR_DOMAIN_BLOCKED:
            return DomainState.RUNNING, "blocked"
        case _:
            return DomainState.RUNNING, _RUNNING.get(reason, "unknown")


def job(stats: Mapping[str, Any]) -> Job:
    """The job that ``virDomainGetJobStats`` describes."""
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return Job.NONE
    match stats.get("operation"):
        case libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
            return Job.MIGRATION_OUT
        case libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN:
            return Job.MIGRATION_IN
        case _:
            return Job.OTHER


def block_job(kind: int) -> str:
    """``virDomainBlockJobType`` in the words of ``<mirror job=''>``."""
    return str(_BLOCK_JOBS.get(kind, "unknown"))


def disk_error(code: int) -> str:
    """``virDomainDiskErrorCode``."""
    return str(_DISK_ERRORS.get(code, "unspec"))
