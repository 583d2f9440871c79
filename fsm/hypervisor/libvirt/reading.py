"""What a host tells about itself and about a domain. Questions only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import attrs
import libvirt
from lxml import etree

from fsm.errors import HostUnreachable
from fsm.hypervisor import domain_xml, markers
from fsm.hypervisor.libvirt import words
from fsm.hypervisor.libvirt.errors import UNSUPPORTED
from fsm.hypervisor.libvirt.session import Call
from fsm.hypervisor.values import DiskFacts, DomainFacts, HostIdentity
from fsm.machine.observation import BlockJob, DomainState, Job

_READ_ATTEMPTS = 10
_MONITOR_PATIENCE_MS = 3000
_TRANSFERABLE = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE


def identity(call: Call) -> HostIdentity:
    """Who this host is."""
    capabilities = _capabilities(call)
    return HostIdentity(
        uuid=_uuid(capabilities),
        hostname=call.connection.getHostname(),
        libvirt_version=words.version(call.connection.getLibVersion()),
        hypervisor_version=words.version(call.connection.getVersion()),
        security_models=tuple(model.text or "" for model in capabilities.iterfind("host/secmodel/model")),
    )


def recognise(call: Call, uuid: str) -> None:
    """``HostUnreachable`` where another host answers than the one of this UUID."""
    if (found := _uuid(_capabilities(call))) != uuid:
        raise HostUnreachable(
            f"another host answers there now: its UUID is {found}, and {uuid} answered before",
            host=call.host,
            call=call.name,
            remedy="see where this URI leads now",
        )


def domains(call: Call) -> tuple[str, ...]:
    """The UUIDs of all domains."""
    return tuple(domain.UUIDString() for domain in call.connection.listAllDomains())


def resolve(call: Call, domain: str) -> str:
    """The UUID of the domain with this name or UUID."""
    found = _by_uuid(call, domain) or _by_name(call, domain)
    if found is None:
        raise call.not_found(
            f"there is no domain {domain!r}",
            remedy=f"list the domains of this host with: virsh -c '{call.host}' list --all",
        )
    return str(found.UUIDString())


def has_run(call: Call, uuid: str) -> bool:
    """Whether the guest has asked anything of a disk. What block jobs read and write does not count."""
    found = _by_uuid(call, uuid)
    if found is None or not found.isActive():
        return False
    ((_, stats),) = call.connection.domainListGetStats([found], libvirt.VIR_DOMAIN_STATS_BLOCK)
    return any(count for name, count in stats.items() if name.endswith(".reqs"))


def read_domain(call: Call, uuid: str) -> DomainFacts | None:
    """The domain at one moment, None when there is none.

    It takes several calls. The state is read first and last; when it changed in between, all is read again.
    """
    try:
        domain = call.domain(uuid)
        for _ in range(_READ_ATTEMPTS):
            before = domain.state()
            facts = _facts(call, domain, before)
            if facts is not None and domain.state() == before:
                return facts
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    raise HostUnreachable(
        f"the state of domain {uuid} changed each time it was read", host=call.host, call=call.name
    )


def migratable_xml(call: Call, uuid: str) -> str:
    """The XML of the running (else the defined) domain as libvirt itself sends it to a destination."""
    return str(call.domain(uuid).XMLDesc(_TRANSFERABLE))


def persistent_xml(call: Call, uuid: str) -> str:
    """The definition that the next start will use."""
    return str(call.domain(uuid).XMLDesc(_TRANSFERABLE | libvirt.VIR_DOMAIN_XML_INACTIVE))


def running_job(call: Call, domain: Any) -> Job:
    """The job of an active domain that libvirt reports; ``HostUnreachable`` when its QEMU hangs."""
    state, _, since_ms = domain.controlInfo()
    if state == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED and since_ms >= _MONITOR_PATIENCE_MS:
        # Asking on would hang as well, and with it one of the few calls that a connection may have under way.
        raise HostUnreachable(
            f"the QEMU of domain {domain.name()!r} has not answered libvirt for {since_ms / 1000:.0f} s",
            host=call.host,
            call=call.name,
            remedy="see whether its storage, or the network that it migrates over, hangs; where it waits for "
            "a migration's other host: ss -K dst that host's address, on this host",
        )
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        # "migration statistics are available only on the source host"
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            return Job.MIGRATION_IN
        raise
    return words.job(stats)


def _capabilities(call: Call) -> etree._Element:
    return domain_xml.parse(call.connection.getCapabilities(), "capabilities")


def _uuid(capabilities: etree._Element) -> str:
    return capabilities.findtext("host/uuid", "").lower()


def _by_uuid(call: Call, text: str) -> Any:
    try:
        return call.domain(str(UUID(text)))
    except ValueError:
        return None
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _by_name(call: Call, name: str) -> Any:
    try:
        return call.connection.lookupByName(name)
    except libvirt.libvirtError as error:
        # An empty name is an invalid argument to libvirt; no domain has it.
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG):
            return None
        raise


def _facts(call: Call, domain: Any, state_and_reason: list[int]) -> DomainFacts | None:
    """All about a domain that is in the given state; None when it left it on the way."""
    state, reason = words.state(*state_and_reason)
    active = state is not DomainState.SHUT_OFF
    try:
        job = running_job(call, domain) if active else Job.NONE
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:  # "domain is not running"
            return None
        raise
    # The destination of a migration lets nobody into its monitor before the migration ends.
    monitor = active and job is not Job.MIGRATION_IN
    xml = domain.XMLDesc(0)
    disks = domain_xml.disks(xml, whole_chain=active)
    return DomainFacts(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=state,
        reason=reason,
        persistent=bool(domain.isPersistent()),
        job=job,
        disks=tuple(_with_progress(domain, disk) for disk in disks) if monitor else disks,
        snapshots=tuple(sorted(domain.snapshotListNames())),
        current_snapshot=_current_snapshot(domain),
        disk_errors=_disk_errors(domain) if monitor else (),
        managed_save=bool(domain.hasManagedSaveImage(0)),
        marker=markers.read(xml),
        backup_running=active and _backup_running(domain),
        checkpoints=_checkpoints(domain),
    )


def _with_progress(domain: Any, disk: DiskFacts) -> DiskFacts:
    """Add the block job's progress; readiness stands in the XML alone."""
    if not disk.chain or disk.device in ("cdrom", "floppy"):
        return disk
    try:
        info = domain.blockJobInfo(disk.target)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return disk  # the job's existence and readiness are known from the XML, only its progress is not
    if not info:
        return disk
    job = disk.block_job or BlockJob(kind=words.block_job(info["type"]))
    return attrs.evolve(disk, block_job=attrs.evolve(job, current_bytes=info["cur"], end_bytes=info["end"]))


def _current_snapshot(domain: Any) -> str | None:
    try:
        return str(domain.snapshotCurrent().getName())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
            return None
        raise


def _disk_errors(domain: Any) -> tuple[tuple[str, str], ...]:
    try:
        errors = domain.diskErrors()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return ()
    return tuple(sorted((target, words.disk_error(code)) for target, code in errors.items()))


def _backup_running(domain: Any) -> bool:
    try:
        domain.backupGetXMLDesc()
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, *UNSUPPORTED):
            return False
        raise
    return True


def _checkpoints(domain: Any) -> tuple[str, ...]:
    try:
        return tuple(checkpoint.getName() for checkpoint in domain.listAllCheckpoints())
    except libvirt.libvirtError as error:
        if error.get_error_code() in UNSUPPORTED:
            return ()
        raise
