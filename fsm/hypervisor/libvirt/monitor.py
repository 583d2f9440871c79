"""What QEMU itself says, past libvirt: asked only where libvirt may have lost track of it.

libvirt marks a domain as tainted ("custom-monitor") that was asked so; nothing else changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import libvirt
import libvirt_qemu

from fsm.hypervisor.libvirt.session import Call

_QUERY = json.dumps({"execute": "query-block"})


def uses(call: Call, uuid: str, path: str) -> bool:
    """Whether QEMU has the file in the chain of a disk; False without a QEMU process."""
    try:
        domain = call.domain(uuid)
        if not domain.isActive():
            return False
        reply = json.loads(libvirt_qemu.qemuMonitorCommand(domain, _QUERY, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            return False
        raise
    if "return" not in reply:
        raise call.error(f"QEMU does not tell its disks: {reply.get('error', {}).get('desc', reply)}")
    return path in {name for device in reply["return"] for name in _chain(device)}


def _chain(device: dict[str, Any]) -> Iterator[str]:
    """The files of one device, from the active layer down (query-block, QEMU's QMP reference)."""
    image = device.get("inserted", {}).get("image")
    while image is not None:  # ends: chains do
        yield image["filename"]
        image = image.get("backing-image")
