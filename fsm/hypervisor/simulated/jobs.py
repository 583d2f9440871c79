"""What goes on by itself: one step of the jobs of one domain, on all hosts where it has any."""

from __future__ import annotations

from fsm.hypervisor.simulated import commit, domains, migration, pull
from fsm.hypervisor.simulated.state import WorldState


def advance(state: WorldState, uuid: str) -> bool:
    """Let one step pass for a domain; False when it has no job. Takes no longer in a larger world."""
    hosts = list(state.jobs.get(uuid, ()))
    for uri in hosts:
        host = state.hosts[uri]
        record = host.domains.get(uuid)
        instance = record.instance if record else None
        if instance is None:
            state.drop_idle_jobs(uuid, host)
            continue
        under_way = [disk for disk in instance.disks.values() if disk.commit is not None]
        for disk in under_way:
            commit.advance(state, host, uuid, disk)
        for disk in [disk for disk in instance.disks.values() if disk.pull is not None]:
            pull.advance(state, host, uuid, disk)
        if instance.inactive and any(disk.commit is None for disk in under_way):
            domains.stop(state, host, uuid, "crashed")  # as QEMU 7.2 does
            continue
        if instance.migration is not None:
            migration.advance(state, host, uuid)
    return bool(hosts)
