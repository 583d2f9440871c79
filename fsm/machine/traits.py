"""What one host, or both, show of the domain: the traits that conditions are made of."""

from __future__ import annotations

from fsm.machine.observation import Disk, Domain, DomainState, Host, Job, Layer, Size

# The block job that this migration itself runs.
OUR_BLOCK_JOB = "active-commit"

# libvirt's reasons of a source instance that has handed its memory over: it must never run again.
HANDED_OVER = frozenset({"migration", "postcopy", "postcopy-failed"})
# libvirt's reasons of a destination instance that still waits for its memory.
INCOMING = frozenset({"migration", "starting-up"})


def active(host: Host) -> Domain | None:
    """The domain if it is known to have a QEMU process on this host."""
    return host.domain if host.domain is not None and host.domain.active else None


def handed_over(domain: Domain) -> bool:
    """The instance has given its memory away."""
    return domain.state is DomainState.PAUSED and domain.reason in HANDED_OVER


def incoming(domain: Domain) -> bool:
    """The instance waits for a migration into it and has not been started yet."""
    waits = domain.state is DomainState.PAUSED and domain.reason in INCOMING
    return waits or domain.job is Job.MIGRATION_IN


def some_disk_on(host: Host, layer: Layer) -> bool:
    """Some migrated disk of the host is on that layer."""
    # A loop: replay asks this a million times, and building a generator or a set costs more than it.
    if host.domain is not None:
        for disk in host.domain.disks:
            if disk.layer is layer:
                return True
    return False


def foreign(host: Host) -> bool:
    """The domain has a layer that is not ours, or has become another's."""
    domain = host.domain
    return domain is not None and (domain.marked_by_another or some_disk_on(host, Layer.FOREIGN))


def on_overlay(host: Host) -> bool:
    """Something is left to commit, and nothing foreign is in the way."""
    return some_disk_on(host, Layer.OVERLAY) and not foreign(host)


def on_base(host: Host) -> bool:
    """Nothing is left to commit."""
    if not some_disk_on(host, Layer.BASE) or some_disk_on(host, Layer.OVERLAY) or foreign(host):
        return False
    return host.domain is not None and all(disk.block_job is None for disk in host.domain.disks)


def is_altered(host: Host) -> bool:
    """Something came into the overlay, or upon the disk, that a commit would destroy or trip over."""
    domain = host.domain
    if domain is None:
        return False
    for disk in domain.disks:
        job = disk.block_job
        # A migration mirrors its disks by block jobs of its own.
        if job is not None and job.kind != OUR_BLOCK_JOB and domain.job is Job.NONE:
            return True
        # What is taken once the disks are on their bases lies in the bases, where it belongs.
        if disk.layer is Layer.OVERLAY and (domain.unrecorded or holds_foreign(disk)):
            return True
    return False


def holds_foreign(disk: Disk) -> bool:
    """The overlay's file shows what this migration did not put into it."""
    return bool(disk.stored) or disk.size is Size.UNFIT or bool(disk.damage)


def owned_by_source(source: Host, destination: Host) -> bool:
    """The domain is at the source alone, without a job, and was not handed over."""
    domain = source.domain
    if domain is None or domain.job is not Job.NONE:
        return False
    seen_absent = destination.reachable and destination.domain is None
    if domain.active and not handed_over(domain) and not incoming(domain):
        return seen_absent or destination.fenced
    # One that stands still may take over only where the destination was seen to have nothing: a destination
    # that is merely attested to be off may have run the domain, and acknowledged writes, before it went.
    return seen_absent and (not domain.active or domain.reason == "migration")


def owned_by_destination(source: Host, destination: Host) -> bool:
    """The domain has arrived at the destination and the source is known to have no instance of it."""
    there, here = destination.domain, active(source)
    source_known = source.fenced or source.reachable
    return there is not None and not incoming(there) and source_known and here is None


def superseded(source: Host, destination: Host) -> bool:
    """The source is paused after handing over, its job is done, and the destination has the domain."""
    # Whether it still runs there does not matter: it may have run, and acknowledged writes.
    here, there = active(source), destination.domain
    return (
        here is not None
        and handed_over(here)
        and here.job is Job.NONE
        and there is not None
        and not incoming(there)
        and there.job is Job.NONE
    )


def both_run(source: Host, destination: Host) -> bool:
    """Both hosts have an instance that may write, and no migration job explains it."""
    here, there = active(source), active(destination)
    return (
        here is not None
        and there is not None
        and here.job is not Job.MIGRATION_OUT
        and not incoming(there)
        and not handed_over(here)
    )
