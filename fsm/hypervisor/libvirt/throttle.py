"""Throttling a guest's writes in QEMU, also while a migration holds the domain.

libvirt's own call (``virDomainSetBlockIoTune``) waits for a migration's end, and its description would have
to be put right again at both hosts. So QEMU is asked, and libvirt's description stays what the user has made
of it: ``<iotune>`` is what a throttle is lifted to.
"""

from __future__ import annotations

from typing import Any

import libvirt
from lxml import etree

from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt.monitor import ask
from fsm.hypervisor.libvirt.session import Call

# libvirt's words for QEMU's: total_bytes_sec is bps, write_iops_sec_max is iops_wr_max.
_KINDS = {"bytes": "bps", "iops": "iops"}
_WAYS = {"total": "", "read": "_rd", "write": "_wr"}
_SUFFIXES = ("", "_max", "_max_length")
_NAMES = {
    f"{way}_{kind}_sec{suffix}": f"{short}{end}{suffix}"
    for kind, short in _KINDS.items()
    for way, end in _WAYS.items()
    for suffix in _SUFFIXES
} | {"size_iops_sec": "iops_size", "group_name": "group"}


def throttle_writes(call: Call, uuid: str, target: str, bytes_per_s: int, per_s: int) -> None:
    """Let the guest write no more than this to a disk; a tighter limit of its user's stays."""
    disk = _disk(call, uuid, target)
    if disk is None:
        raise call.error(f"domain {uuid} does not run here, or has no disk {target!r}")
    tune = _described(disk)
    _lower(tune, "bps", bytes_per_s)
    _lower(tune, "iops", per_s)
    _set(call, uuid, disk, tune)


def lift_throttle(call: Call, uuid: str, target: str) -> None:
    """Bring back the limits that libvirt's description has; nothing happens where the domain does not run."""
    disk = _disk(call, uuid, target)
    if disk is not None:
        _set(call, uuid, disk, _described(disk))


def _disk(call: Call, uuid: str, target: str) -> etree._Element | None:
    try:
        domain = call.domain(uuid)
        if not domain.isActive():
            return None
        root = domain_xml.parse(domain.XMLDesc(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    disks = root.iterfind("devices/disk")
    return next((disk for disk in disks if disk.find(f"target[@dev='{target}']") is not None), None)


def _described(disk: etree._Element) -> dict[str, Any]:
    """``<iotune>`` in QEMU's words (block_set_io_throttle)."""
    tune: dict[str, Any] = {f"{kind}{way}": 0 for kind in _KINDS.values() for way in _WAYS.values()}
    for child in disk.iterfind("iotune/*"):
        text = child.text or ""
        if child.tag in _NAMES:
            tune[_NAMES[child.tag]] = text if child.tag == "group_name" else int(text)
    return tune


def _lower(tune: dict[str, Any], kind: str, limit: int) -> None:
    """QEMU takes either one limit for reading and writing together or one for each."""
    if not limit:
        return
    name = kind if tune[kind] else f"{kind}_wr"
    tune[name] = min(limit, tune[name] or limit)
    for suffix in _SUFFIXES[1:]:  # no bursts
        tune.pop(f"{name}{suffix}", None)


def _set(call: Call, uuid: str, disk: etree._Element, tune: dict[str, Any]) -> None:
    alias = disk.find("alias")
    name = alias.get("name", "") if alias is not None else ""
    found = [device.get("qdev", "") for device in ask(call, uuid, "query-block") or ()]
    # A virtio disk's is a part of the device that bears the name.
    own = [qdev for qdev in found if qdev and name and (qdev == name or f"/{name}/" in qdev)]
    if len(own) != 1:
        raise call.error(f"QEMU shows no device for disk alias {name!r}: {found}")
    ask(call, uuid, "block_set_io_throttle", id=own[0], **tune)
