"""The marker in a domain's metadata.

libvirt leaves an empty ``<metadata/>`` behind when the last entry is removed. In the definition this is
undone by defining the domain again without it; a running domain keeps the empty element until its next start.
"""

from __future__ import annotations

from typing import Any

import libvirt

from fsm.hypervisor import markers
from fsm.hypervisor.libvirt.lifecycle import find
from fsm.hypervisor.libvirt.session import Call, is_alive
from fsm.hypervisor.values import Marker

_DEFINITION = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG


def mark(call: Call, uuid: str, marker: Marker) -> None:
    """Write the marker into the running domain and into its definition, whichever there are."""
    domain = call.domain(uuid)
    alone = markers.stands_alone(domain.XMLDesc(_DEFINITION))
    where = (_LIVE if domain.isActive() else 0) | (_CONFIG if domain.isPersistent() else 0)
    _set(domain, markers.element(marker, alone=alone), where)


def unmark(call: Call, uuid: str) -> None:
    """Remove the marker from both.

    The running domain comes last: its marker is the one that is read, so a removal that was cut off shows.
    """
    domain = find(call, uuid)
    if domain is None:
        return
    if domain.isPersistent():
        definition = domain.XMLDesc(_DEFINITION)
        if markers.read(definition) is not None:
            _unmark_definition(call, domain, definition)
    if domain.isActive() and markers.read(domain.XMLDesc(0)) is not None:
        _set(domain, None, _LIVE)


def _unmark_definition(call: Call, domain: Any, definition: str) -> None:
    if markers.stands_alone(definition):
        try:
            call.connection.defineXML(markers.unmarked(definition))
        except libvirt.libvirtError:
            # A host may not accept anew what it has. An empty element does no harm; no answer at all does.
            if not is_alive(call.connection):
                raise
        else:
            return
    _set(domain, None, _CONFIG)


def _set(domain: Any, element: str | None, where: int) -> None:
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, markers.KEY, markers.NAMESPACE, where)
