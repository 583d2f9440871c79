"""The live migration, its progress and its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import libvirt

from fsm.errors import HostUnreachable
from fsm.hypervisor.libvirt.reading import running_job
from fsm.hypervisor.libvirt.session import Call, open_connection, perform
from fsm.hypervisor.libvirt.wanted import expect_wanted
from fsm.hypervisor.values import JobProgress, MigrationRequest
from fsm.machine.observation import Job

_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER  # the hosts go on without us when we die
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
)

# What a question about a job meets when the domain has left this host or has stopped.
_ENDED = frozenset((libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID))


def migrate(uri: str, uuid: str, request: MigrationRequest, given_up: threading.Event) -> None:
    """Migrate and return when it is over. Blocking, on a connection of its own: it may take hours.

    Not begun once ``given_up`` is set; one that is under way goes on.
    """
    connection = open_connection(uri)
    try:
        perform(connection, uri, "migrate", lambda call: _migrate(call, uuid, request, given_up), change=True)
    finally:
        with suppress(libvirt.libvirtError):
            connection.close()


def progress(call: Call, uuid: str) -> JobProgress | None:
    """Progress of a migration job, None when there is none."""
    domain, job = _find_job(call, uuid)
    if job is Job.MIGRATION_IN:
        return JobProgress()  # only the source has figures
    if job is not Job.MIGRATION_OUT:
        return None
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        if error.get_error_code() in _ENDED:
            return None
        raise
    memory_total = stats.get("memory_total", 0)
    return JobProgress(
        # Not "memory_processed": that counts what was sent, and an empty page is not.
        memory_done_bytes=memory_total - stats.get("memory_remaining", memory_total),
        memory_total_bytes=memory_total,
        disk_done_bytes=stats.get("disk_processed", 0),
        disk_total_bytes=stats.get("disk_total", 0),
        downtime_ms=stats.get("downtime", 0),
        memory_iteration=stats.get("memory_iteration", 0),
        cpu_throttle_percent=stats.get("auto_converge_throttle", 0),
    )


def limit_memory(call: Call, uuid: str, mib_per_s: int, was_mib_per_s: int) -> None:
    """Give memory another limit, unless somebody else has."""
    domain, job = _find_job(call, uuid)
    # Without a migration libvirt would keep it for the next one.
    if job is Job.MIGRATION_OUT and was_mib_per_s in (0, domain.migrateGetMaxSpeed()):
        domain.migrateSetMaxSpeed(mib_per_s)


def allow_downtime(call: Call, uuid: str, max_downtime_ms: int) -> None:
    """Let the guest stand still for so long. libvirt puts it back when the migration fails (tried on 9.0)."""
    domain, job = _find_job(call, uuid)
    if job is Job.MIGRATION_OUT:
        domain.migrateSetMaxDowntime(max_downtime_ms)


def abort(call: Call, uuid: str) -> None:
    """Abort a migration job, if there is one."""
    domain, job = _find_job(call, uuid)
    if job is not Job.MIGRATION_OUT:
        return
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        # It may have ended in the meantime. If it has not, it is past the point where libvirt lets go of it.
        if error.get_error_code() not in _ENDED or _find_job(call, uuid)[1] is not Job.NONE:
            raise


def _find_job(call: Call, uuid: str) -> tuple[Any, Job]:
    """The domain and its job; no job when the domain is not active or not there any more."""
    try:
        domain = call.domain(uuid)
        return domain, running_job(call, domain)
    except libvirt.libvirtError as error:
        if error.get_error_code() in _ENDED:
            return None, Job.NONE
        raise


def _migrate(call: Call, uuid: str, request: MigrationRequest, given_up: threading.Event) -> None:
    params: dict[str, Any] = {
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: request.destination_xml,
        libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: request.persistent_xml,
    }
    flags = _FLAGS | (libvirt.VIR_MIGRATE_UNSAFE if request.unsafe else 0)
    if request.disks:  # with the flag and no list libvirt would mirror every disk
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_INC
        params[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(request.disks)
    if request.migrate_uri is not None:
        params[libvirt.VIR_MIGRATE_PARAM_URI] = request.migrate_uri
    if request.bandwidth_mib_per_s:
        params[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = request.bandwidth_mib_per_s
    tuning = request.tuning
    flags |= sum(flag for flag, wanted in _flags(request) if wanted)
    params |= {name: value for name, value in _params(request) if value}
    domain = call.domain(uuid)
    with _downtime(domain, tuning.max_downtime_ms):
        expect_wanted(given_up, host=call.host, call=call.name)
        domain.migrateToURI3(request.destination_uri, params, flags)


def _flags(request: MigrationRequest) -> tuple[tuple[int, bool], ...]:
    tuning = request.tuning
    return (
        (libvirt.VIR_MIGRATE_AUTO_CONVERGE, tuning.auto_converge),
        (libvirt.VIR_MIGRATE_PARALLEL, tuning.parallel),
        (libvirt.VIR_MIGRATE_COMPRESSED, tuning.compress),
        (libvirt.VIR_MIGRATE_ABORT_ON_ERROR, tuning.abort_on_error),
        (libvirt.VIR_MIGRATE_TLS, request.wiring.tls),
    )


def _params(request: MigrationRequest) -> tuple[tuple[str, object], ...]:
    tuning, wiring = request.tuning, request.wiring
    return (
        (libvirt.VIR_MIGRATE_PARAM_DEST_NAME, request.destination_name),
        (libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, tuning.auto_converge_initial),
        (libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT, tuning.auto_converge_increment),
        (libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, tuning.parallel_connections),
        (libvirt.VIR_MIGRATE_PARAM_COMPRESSION, list(tuning.comp_methods)),
        (libvirt.VIR_MIGRATE_PARAM_COMPRESSION_MT_LEVEL, tuning.comp_mt_level),
        (libvirt.VIR_MIGRATE_PARAM_COMPRESSION_MT_THREADS, tuning.comp_mt_threads),
        (libvirt.VIR_MIGRATE_PARAM_COMPRESSION_MT_DTHREADS, tuning.comp_mt_dthreads),
        (libvirt.VIR_MIGRATE_PARAM_COMPRESSION_XBZRLE_CACHE, tuning.comp_xbzrle_cache),
        (libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION, wiring.tls_destination),
        (libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS, wiring.listen_address),
        (libvirt.VIR_MIGRATE_PARAM_DISKS_PORT, wiring.disks_port),
        (libvirt.VIR_MIGRATE_PARAM_DISKS_URI, wiring.disks_uri),
        (libvirt.VIR_MIGRATE_PARAM_GRAPHICS_URI, wiring.graphics_uri),
    )


@contextmanager
def _downtime(domain: Any, max_ms: int) -> Iterator[None]:
    """Have QEMU keep to a downtime in this migration; after one that failed it is as it was.

    The migration's parameters have no such one. Set once the migration has begun it could come too late.
    """
    if not max_ms:
        yield
        return
    before_ms = domain.migrateGetMaxDowntime()
    domain.migrateSetMaxDowntime(max_ms)
    try:
        yield
    except (libvirt.libvirtError, HostUnreachable):
        with suppress(libvirt.libvirtError):
            domain.migrateSetMaxDowntime(before_ms)
        raise
