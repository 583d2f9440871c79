"""The single checks of preflight: each looks at what was read and returns its findings."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

from fsm.engine.plan import Request, Side
from fsm.engine.space import directory_of
from fsm.hypervisor import domain_xml, firmware_xml
from fsm.hypervisor.domain_xml import BootFile
from fsm.hypervisor.values import (
    DiskFacts,
    DomainFacts,
    HostIdentity,
    SnapshotMetadata,
    is_among_devices,
)
from fsm.machine.observation import DomainState, Job

MIB = 1 << 20
# From then on libvirt has QEMU load and delete internal snapshots in a job that it names after the snapshot,
# and QEMU takes few characters in that. Nothing but the version tells of it.
_SNAPSHOT_JOBS_SINCE = (10, 9, 0)
_NAME_OF_A_JOB = re.compile(r"[A-Za-z0-9._-]*")


@frozen
class Finding:
    """One reason against a migration. ``check`` is the name by which it may be accepted, where it may be."""

    check: str
    host: str
    message: str
    remedy: str = ""


def hosts(source: HostIdentity, destination: HostIdentity, request: Request) -> list[Finding]:
    """The hosts differ, and neither confines QEMU in a way that is known to break the commit."""
    found = []
    if source.uuid == destination.uuid:
        found.append(
            Finding(
                "same-host",
                request.shown_uri(Side.DESTINATION),
                f"source and destination are the same host: {source.hostname}, host UUID {source.uuid}",
                "name another destination; if these are two, set host_uuid in libvirtd.conf",
            )
        )
    found += confinement(request.shown_uri(Side.SOURCE), source)
    found += confinement(request.shown_uri(Side.DESTINATION), destination)
    return found


def confinement(uri: str, identity: HostIdentity) -> list[Finding]:
    """AppArmor, as Debian and Ubuntu configure it for libvirt, does not allow what a commit does."""
    if "apparmor" not in identity.security_models:
        return []
    return [
        Finding(
            "apparmor",
            uri,
            "AppArmor confines QEMU there and denies writing to a base: the commit would fail",
            "allow it in the host's libvirt-qemu abstraction, then pass --accept apparmor",
        )
    ]


def domain(facts: DomainFacts, uri: str) -> list[Finding]:
    """The domain runs or is shut off, is persistent, and nothing else is going on with it."""

    def against(check: str, message: str, remedy: str) -> Finding:
        return Finding(check, uri, f"domain {facts.name}: {message}", remedy)

    found = []
    settled = facts.state in (DomainState.RUNNING, DomainState.SHUT_OFF) or facts.reason == "user"
    if not settled:
        found.append(against("not-running", f"it is {facts.state} ({facts.reason})", "resume or restart it"))
    if facts.managed_save:
        found.append(
            against(
                "managed-save",
                "libvirt keeps its memory in a file (managed save) that can't be moved",
                "start it, or drop that memory: virsh managedsave-remove",
            )
        )
    if not facts.persistent:
        found.append(
            against("transient", "it is transient", "define it, so that it has a definition to move")
        )
    if facts.marker is not None:
        found.append(
            against(
                "marked",
                f"its metadata says that migration {facts.marker.migration} has not let go of it",
                f"fsm doctor --host {uri} tells how it stands and what to do",
            )
        )
    if facts.job is not Job.NONE:
        what = "a migration" if facts.job in (Job.MIGRATION_OUT, Job.MIGRATION_IN) else "another job"
        found.append(against("job", f"{what} of it is under way", "wait for its end: virsh domjobinfo"))
    if facts.backup_running:
        found.append(against("backup", "a backup of it runs", "wait for its end: virsh domjobinfo"))
    if facts.checkpoints:
        names = ", ".join(facts.checkpoints)
        found.append(
            against("checkpoints", f"it has checkpoints: {names}", "delete them: virsh checkpoint-delete")
        )
    return found


def shut_off(facts: DomainFacts, xml: str, uri: str) -> list[Finding]:
    """A domain that is shut off has no TPM whose state QEMU would carry in a live migration."""
    if facts.state is not DomainState.SHUT_OFF or not domain_xml.has_emulated_tpm(xml):
        return []
    what = f"domain {facts.name} is shut off and has an emulated TPM, which only a running one brings along"
    return [Finding("state-file", uri, what, "start it, then migrate it live")]


def variable_store(facts: DomainFacts, xml: str, uri: str) -> list[Finding]:
    """No snapshot has a part of its own among the UEFI variables.

    libvirt 12.8 keeps it in a qcow2 file of variables (9.0 takes no snapshot of such a domain). The
    destination's is made anew, and what comes with the memory is only what the variables are now. Of a domain
    that is shut off the file is copied whole.
    """
    found = firmware_xml.variables(xml)
    live = facts.state is not DomainState.SHUT_OFF
    if not live or not facts.snapshots or found is None or found.format != "qcow2":
        return []
    what = f"{found.path} holds what {facts.name}'s snapshots keep of its UEFI variables: they would be lost"
    return [
        Finding("variable-store", uri, what, "delete the snapshots, or lose that: --accept variable-store")
    ]


def disks(facts: DomainFacts, request: Request) -> list[Finding]:
    """There is a disk to move, and each that does move can be moved."""
    moving = [found for found in facts.disks if migrates(found, request)]
    uri = request.shown_uri(Side.SOURCE)
    findings = [finding for found in moving for finding in (*disk(found, uri), *device(found, request))]
    if not moving:
        message = f"domain {facts.name} has no disk whose content would have to be moved"
        findings.append(
            Finding(
                "no-disk", request.shown_uri(Side.SOURCE), message, "virsh migrate --live is enough for it"
            )
        )
    return findings


def excluded_disks(facts: DomainFacts, request: Request) -> list[Finding]:
    """Every disk that is to be left alone exists."""
    known = [disk.target for disk in facts.disks]
    return [
        Finding(
            "no-such-disk",
            request.shown_uri(Side.SOURCE),
            f"domain {facts.name} has no disk {target!r}; it has: {', '.join(known)}",
            "name one of these with --exclude-disk",
        )
        for target in request.exclude_disks
        if target not in known
    ]


def migrates(disk: DiskFacts, request: Request) -> bool:
    """Whether a disk's content must be moved: it is writable, and neither shared nor on the network."""
    left_alone = disk.read_only or disk.shareable or disk.target in request.exclude_disks
    return disk.device == "disk" and disk.source_type != "network" and bool(disk.chain) and not left_alone


def left_alone(facts: DomainFacts, request: Request) -> list[BootFile]:
    """The files of hard disks that do not move: the domain uses them at the destination all the same."""
    return [
        BootFile(f"disk {disk.target}, which is left alone", path)
        for disk in facts.disks
        if disk.device == "disk" and disk.source_type == "file" and not migrates(disk, request)
        for path in disk.chain
    ]


def disk(found: DiskFacts, uri: str) -> list[Finding]:
    """A disk that migrates is a qcow2 or raw file that nothing is being done with."""

    def against(check: str, message: str, remedy: str) -> Finding:
        return Finding(check, uri, f"disk {found.target} ({found.source}): {message}", remedy)

    problems = []
    if found.source_type not in ("file", "block"):
        problems.append(
            against(
                "disk-type",
                f"its source is of type {found.source_type!r}; only files and block devices can be moved",
                "copy it into a file while the domain is shut off (qemu-img convert); or, where the "
                f"destination has it too: --exclude-disk {found.target}",
            )
        )
    if found.format not in ("qcow2", "raw"):
        problems.append(
            against(
                "disk-format", f"format {found.format or 'unknown'} can't be moved", "convert it to qcow2"
            )
        )
    if found.block_job is not None:
        problems.append(
            against(
                "block-job", f"a block job runs: {found.block_job.kind}", "wait for its end: virsh blockjob"
            )
        )
    if found.transient:
        problems.append(
            against("disk-transient", "it is a transient disk", "exclude it, or make it permanent")
        )
    if found.encrypted:
        problems.append(against("disk-encrypted", "it is encrypted; that can't be moved yet", "exclude it"))
    if "\n" in found.source:
        problems.append(against("path", "its path has a line break", "rename the file"))
    return problems


def device(found: DiskFacts, request: Request) -> list[Finding]:
    """A disk on a block device is moved by commands, with its overlay elsewhere."""
    if found.source_type != "block":
        return []
    problems = [
        ("device-path", NOT_OPENED, DEEPER) if not may_be_shown(found.source) else None,
        ("transport", "commands alone tell what a device is, and copy it", "migrate with --transport nbd")
        if request.direct is None
        else None,
        ("overlay-directory", NO_PLACE, "name one that both hosts have: --overlay-directory DIRECTORY")
        if may_be_shown(found.source) and not has_place(request)
        else None,
    ]
    disk_on_it = f"disk {found.target} ({found.source})"
    uri = request.shown_uri(Side.SOURCE)
    return [
        Finding(check, uri, f"{disk_on_it}: {message}", remedy)
        for check, message, remedy in (one for one in problems if one is not None)
    ]


NOT_OPENED = "a storage pool would open all that its directory holds"
NO_PLACE = "an overlay can't lie beside a block device"
DEEPER = "name it by a path in a directory of devices alone, such as /dev/VG/LV or /dev/disk/by-id/NAME"


def may_be_shown(path: str) -> bool:
    """Whether a storage pool over the path's directory opens disks alone.

    It opens whatever is in its directory, and in /dev there is a watchdog that is started by that.
    """
    return directory_of(path) != "/dev"


def has_place(request: Request) -> bool:
    """Whether overlays lie in a directory of their own, on a file system that stays."""
    return bool(request.overlay_directory) and not is_among_devices(f"{request.overlay_directory}/")


def can_be_opened(found: DiskFacts, request: Request) -> bool:
    """Whether preflight may look at a disk's image."""
    return found.source_type == "file" or (found.source_type == "block" and not device(found, request))


def snapshots(found: Iterable[SnapshotMetadata], uri: str) -> list[Finding]:
    """All snapshots are internal."""
    external = [snapshot.name for snapshot in found if snapshot.external]
    if not external:
        return []
    return [
        Finding(
            "external-snapshot",
            uri,
            f"external snapshots can't be carried: {', '.join(external)}",
            "delete them: virsh snapshot-delete",
        )
    ]


def snapshot_names(found: Iterable[SnapshotMetadata], there: HostIdentity, uri: str) -> list[Finding]:
    """The destination can go back to the snapshots. They are carried all the same, so this is but a note."""
    odd = [repr(one.name) for one in found if not _NAME_OF_A_JOB.fullmatch(one.name)]
    if not odd or there.libvirt_version < _SNAPSHOT_JOBS_SINCE:
        return []
    return [
        Finding(
            "snapshot-name",
            uri,
            f"the names of the snapshots {', '.join(odd)} are kept, but libvirt there can't delete one of "
            "them while the domain runs, nor revert to one that holds memory: a try leaves it shut off",
            "a snapshot under a plain name (letters, digits, '.', '_', '-') has no such limits",
        )
    ]


def bandwidth(request: Request, disks: int) -> list[Finding]:
    """The limit can be kept by as many streams."""
    if not 0 < request.bandwidth_mib_per_s < disks:
        return []
    message = f"{disks} disks may take {disks} MiB/s while libvirt migrates: it limits none to less than 1"
    return [Finding("bandwidth", request.shown_uri(Side.SOURCE), message, "so --bandwidth is exceeded then")]


def space(need_bytes: int, free_bytes: int, directory: str, uri: str, what: str) -> list[Finding]:
    """A directory's file system has room."""
    if free_bytes >= need_bytes:
        return []
    return [
        Finding(
            "space",
            uri,
            f"{directory} has {free_bytes // MIB} MiB free; {what} needs {-(-need_bytes // MIB)} MiB",
            "free space there",
        )
    ]


def boot_file_missing(file: BootFile, domain_name: str, uri: str) -> Finding:
    """A file that the domain needs to run is not at the destination."""
    return Finding(
        "file-missing",
        uri,
        f"{file.path} is missing there; domain {domain_name} uses it as its {file.kind}",
        "copy it there, or eject it",
    )


def path_taken(path: str, uri: str) -> Finding:
    """A file that would have to be made exists already; it is never overwritten.

    It may even be the source's own, in a directory that both hosts share and whose news are shown late.
    """
    return Finding(
        "path-taken",
        uri,
        f"{path} exists already and is not overwritten",
        "if it is an old copy that nobody needs, remove it; "
        "not before --storage shared has been tried if both hosts may share it: that waits longer to see it",
    )
