"""A domain's description as its user wrote it: without the overlays, and without the marker."""

from __future__ import annotations

from fsm.engine.plan import Plan, Side
from fsm.hypervisor import domain_xml, markers


def as_defined(xml: str, plan: Plan | None) -> str:
    """The same description with each base as its disk's source, where the disk is on its overlay.

    Of whichever host the description is: the overlays' paths tell.
    """
    if plan is None:
        return markers.unmarked(xml)
    source = {disk.target: disk.source for disk in domain_xml.disks(xml, whole_chain=False)}
    bases = {
        overlay.target: (overlay.base, overlay.base_format)
        for side in Side
        for overlay in plan.overlays_at(side)
        if source.get(overlay.target) == overlay.path
    }
    devices = frozenset[str]().union(*map(plan.devices_at, Side))
    return markers.unmarked(domain_xml.with_disk_sources(xml, bases, devices))
