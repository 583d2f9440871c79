"""What happens to hosts without anybody asking them: daemons and machines die, links are cut."""

from __future__ import annotations

from fsm.hypervisor.simulated import domains, migration
from fsm.hypervisor.simulated.state import Denied, HostState, WorldState, active


def stop_libvirtd(state: WorldState, host: HostState) -> None:
    """The daemon dies. Its domains and their block jobs go on; migrations that it takes part in end."""
    host.libvirtd = False
    for uuid in list(state.jobs):
        _end_migration(state, host, uuid)


def _end_migration(state: WorldState, host: HostState, uuid: str) -> None:
    for uri in list(state.jobs.get(uuid, ())):
        record = state.hosts[uri].domains.get(uuid)
        job = record.instance.migration if record and record.instance else None
        if job is None or host.uri not in (uri, job.destination):
            continue
        migration.fail(state, uuid, "Cannot recv data: client socket is closed", lost=host.uri == uri)


def start_libvirtd(host: HostState) -> None:
    """The daemon runs again and finds its domains."""
    host.libvirtd = True


def power_off(state: WorldState, host: HostState) -> None:
    """The machine loses its power: all its QEMU processes are gone, the files stay."""
    for uuid, record in list(host.domains.items()):
        if record.instance is not None and record.instance.ghost:
            lay_ghost(state, host, uuid)  # status files lie in /run
        elif record.instance is not None:
            domains.stop(state, host, uuid, "unknown")
    host.powered = False
    # Pools that were made for a while live in /run.
    host.pools = {directory: pool for directory, pool in host.pools.items() if not pool.ours}


def power_on(host: HostState) -> None:
    """The machine is up again, with its libvirtd and no domain running."""
    host.powered = host.libvirtd = True


def kill_qemu(state: WorldState, host: HostState, uuid: str) -> None:
    """The domain's process is killed."""
    domains.stop(state, host, uuid, "crashed")


def leave_ghost(state: WorldState, host: HostState, uuid: str) -> None:
    """The daemon was killed while it started the QEMU of an arriving domain, and runs again.

    As libvirt 9.0 has it: the domain stays, paused and starting up, without a process; destroying it times
    out, now and after every restart of the daemon.
    """
    record, instance = active(host, uuid)
    if not instance.incoming_from:
        raise Denied(f"domain {record.name} is not arriving at {host.uri}")
    migration.fail(state, uuid, "Cannot recv data: client socket is closed", keep_arriving=True)
    instance.reason = "starting-up"
    instance.ghost = True
    state.touch(host, uuid)


def lay_ghost(state: WorldState, host: HostState, uuid: str) -> None:
    """The operator stops libvirtd, removes the domain's status file and starts libvirtd again."""
    record, instance = active(host, uuid)
    if not instance.ghost:
        raise Denied(f"domain {record.name} at {host.uri} is no ghost")
    record.instance = None
    record.stopped = "failed"
    if record.definition is None:
        del host.domains[uuid]
    state.touch(host, uuid)


def cut(state: WorldState, one: HostState, other: HostState) -> None:
    """No packet passes between two hosts any more."""
    state.cuts.add(frozenset((one.uri, other.uri)))


def mend(state: WorldState, one: HostState, other: HostState) -> None:
    """Undo ``cut``."""
    state.cuts.discard(frozenset((one.uri, other.uri)))
