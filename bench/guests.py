"""The guest that every contender gets: made anew for each run, always in the same way."""

from __future__ import annotations

import os
from contextlib import suppress

from attrs import frozen

from bench.images import Image
from fsm.lab import DiskSpec, Guest, GuestSpec, Lab, LabError, LabHost, Ring, SnapshotSpec
from fsm.lab.process import run

NAME = "bench"
COPY_TIMEOUT_S = 900.0


def guest_spec(image: Image, pause_ms: int = 5) -> GuestSpec:
    """One qcow2 disk with incompressible data, two internal snapshots, writing all the time.

    ``pause_ms`` is how long the guest waits behind each write.
    """
    return GuestSpec(
        name=NAME,
        disks=(DiskSpec(target="vda", size_mib=image.size_mib, data_mib=image.data_mib),),
        snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
        ring=Ring(interval_ms=pause_ms),
    )


@frozen
class Scene:
    """Where a run takes place."""

    lab: Lab
    spec: GuestSpec

    @property
    def source(self) -> LabHost:
        """Where the guest is made."""
        return self.lab.hosts[0]

    @property
    def destination(self) -> LabHost:
        """Where it is to go."""
        return self.lab.hosts[1]

    @property
    def image(self) -> str:
        """The path of the guest's image on both hosts."""
        return self.spec.disks[0].image(self.spec.name)

    def guest(self, host: LabHost) -> Guest:
        """The guest as seen on a host."""
        return Guest(host, self.spec.name, self.spec)

    def make(self) -> None:
        """Make the guest on the source, and have everything written out that its making left in memory."""
        self.lab.define_guest(self.source, self.spec)
        os.sync()

    def forget_snapshots(self) -> None:
        """Drop libvirt's metadata of the snapshots, as who migrates by other means must; the image keeps
        them."""
        for snapshot in reversed(self.spec.snapshots):
            self.source.virsh("snapshot-delete", self.spec.name, snapshot.name, "--metadata")

    def keep_image(self, path: str) -> None:
        """Leave at ``path`` the image of a guest that is gone: with data, snapshots and saved memory."""
        try:
            self.make()
            self.source.virsh("destroy", self.spec.name)
            files = [str(self.source.path(one)) for one in (self.image, path)]
            run(["cp", "--sparse=always", "--reflink=never", "--", *files], timeout=COPY_TIMEOUT_S)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the guest from both hosts, whatever became of it."""
        for host in self.lab.hosts:
            with suppress(LabError):
                host.virsh("destroy", self.spec.name)
            with suppress(LabError):
                host.virsh("undefine", self.spec.name, "--snapshots-metadata")
            host.path(self.image).unlink(missing_ok=True)
            self.guest(host).serial_log.unlink(missing_ok=True)


def allocated_bytes(host: LabHost, path: str) -> int:
    """Bytes that a file takes on its host's disk."""
    return host.path(path).stat().st_blocks * 512
