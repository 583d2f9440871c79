"""The marker in a domain's metadata, written and removed as libvirt does it."""

from __future__ import annotations

from fsm.hypervisor import markers
from fsm.hypervisor.simulated.state import HostState, WorldState, domain_record, idle
from fsm.hypervisor.values import Marker


def mark(state: WorldState, host: HostState, uuid: str, marker: Marker) -> None:
    """Write the marker into the running domain and into its definition."""
    record = domain_record(host, uuid)
    idle(record.instance)
    if record.instance is not None:
        record.instance.xml = markers.marked(record.instance.xml, marker)
    if record.definition is not None:
        record.definition = markers.marked(record.definition, marker)
    state.touch(host, uuid)


def unmark(state: WorldState, host: HostState, uuid: str) -> None:
    """Remove the marker from both; nothing happens where there is none."""
    record = host.domains.get(uuid)
    if record is None:
        return
    idle(record.instance)
    if record.instance is not None:
        record.instance.xml = markers.unmarked(record.instance.xml)
    if record.definition is not None:
        record.definition = markers.unmarked(record.definition)
    state.touch(host, uuid)
