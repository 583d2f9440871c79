"""What is asked of QEMU itself, past libvirt: only where libvirt may have lost track, or has no call for it.

libvirt marks a domain as tainted ("custom-monitor") whose monitor was used so; nothing else changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import libvirt
import libvirt_qemu

from fsm.hypervisor.libvirt.session import Call

_ENDED = frozenset((libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID))
# libvirt's names for the other host's disks while it mirrors to them.
_MIRROR_TARGET = "migration-"
# What QEMU shows of an image in place of a path, where opening that path would not give the same chain: its
# header names the one below relatively, for example. All images above it are shown so as well.
_NO_PATH = "json:"


def uses(call: Call, uuid: str, path: str) -> bool:
    """Whether QEMU has the file in the chain of a disk; False without a QEMU process."""
    names = {name for device in ask(call, uuid, "query-block") or () for name in _chain(device)}
    if path in names or not any(name.startswith(_NO_PATH) for name in names):
        return path in names
    # Each file by itself has its path. A few that are in no chain are among them: a file that counts as used
    # is left alone, one that is taken for unused may be removed under its writer.
    return any(node["file"] == path for node in ask(call, uuid, "query-named-block-nodes", flat=True) or ())


def cut_migration(call: Call, uuid: str) -> None:
    """Cut the connections of memory and of the mirrored disks with QEMU's "yank" (QEMU 6.0 and later)."""
    instances = ask(call, uuid, "query-yank") or ()
    ours = [
        instance
        for instance in instances
        if instance["type"] == "migration" or instance.get("node-name", "").startswith(_MIRROR_TARGET)
    ]
    if ours:
        ask(call, uuid, "yank", instances=ours)


def ask(call: Call, uuid: str, command: str, **arguments: Any) -> Any:
    """Give QEMU's monitor a command. What QEMU returns; None without a QEMU process."""
    try:
        domain = call.domain(uuid)
        if not domain.isActive():
            return None
        words = json.dumps({"execute": command, "arguments": arguments})
        reply = json.loads(libvirt_qemu.qemuMonitorCommand(domain, words, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in _ENDED:
            return None
        raise
    if "return" not in reply:
        raise call.error(f"QEMU refused {command}: {reply.get('error', {}).get('desc', reply)}")
    return reply["return"]


def _chain(device: dict[str, Any]) -> Iterator[str]:
    """The files of one device, from the active layer down (query-block, QEMU's QMP reference)."""
    image = device.get("inserted", {}).get("image")
    while image is not None:  # ends: chains do
        yield image["filename"]
        image = image.get("backing-image")
