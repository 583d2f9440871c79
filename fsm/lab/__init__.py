"""Two real libvirt hosts on one machine, a guest that tests something, and the proofs about it.

    from fsm.lab import Lab

    with Lab.up() as lab:
        source, destination = lab.hosts
        source.virsh("list")

A host is a network, mount and UTS namespace with its own libvirtd, addresses and libvirt directories; both
hosts use the same paths. Only root can make one.
"""

from __future__ import annotations

from fsm.lab.errors import LabError
from fsm.lab.guest import DEFAULT_GUEST, Guest, revert, start
from fsm.lab.host import BOOT, IMAGES, SERIAL, LabHost
from fsm.lab.lab import DomainStatus, HostStatus, Lab, LabStatus
from fsm.lab.proof import (
    Block,
    ImageSnapshot,
    Missing,
    active_digest,
    backing_file,
    missing_writes,
    snapshot_digests,
    snapshot_table,
)
from fsm.lab.serial import Ack, Gap, SerialWatch, acknowledged
from fsm.lab.spec import DiskSpec, GuestSpec, Ring, SnapshotSpec

__all__ = [
    "BOOT",
    "DEFAULT_GUEST",
    "IMAGES",
    "SERIAL",
    "Ack",
    "Block",
    "DiskSpec",
    "DomainStatus",
    "Gap",
    "Guest",
    "GuestSpec",
    "HostStatus",
    "ImageSnapshot",
    "Lab",
    "LabError",
    "LabHost",
    "LabStatus",
    "Missing",
    "Ring",
    "SerialWatch",
    "SnapshotSpec",
    "acknowledged",
    "active_digest",
    "backing_file",
    "missing_writes",
    "revert",
    "snapshot_digests",
    "snapshot_table",
    "start",
]
