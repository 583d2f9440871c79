"""What the tests of the libvirt binding share: two hosts, and small domains that never boot anything."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from attrs import field, mutable

from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DomainFacts, Overlay
from fsm.lab import Lab, LabError, LabHost

IMAGES = "/var/lib/libvirt/images"
NAME = 'it\'s <web> & "mail"'


def two_hosts(directory: Path) -> Iterator[Lab]:
    """A lab without a guest, as the body of a fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSM_LAB_DIR", str(directory))
        with Lab.up(guest=False) as lab:
            yield lab


def image(
    host: LabHost, path: str, size: str = "16M", *, image_format: str = "qcow2", compat: str = "1.1"
) -> None:
    """Create an empty image."""
    options = ["-o", f"compat={compat}"] if image_format == "qcow2" else []
    host.run(["qemu-img", "create", "-q", "-f", image_format, *options, path, size])


def define(
    host: LabHost, name: str, disks: dict[str, str], *, image_format: str = "qcow2", devices: str = ""
) -> str:
    """Define a domain of disks (target to path), start it paused, and return its UUID."""
    described = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='{image_format}'/>"
        f"<source file={quoteattr(path)}/><target dev='{target}' bus='virtio'/></disk>"
        for target, path in disks.items()
    )
    xml = (
        f"<domain type='qemu'><name>{escape(name)}</name><description>a &amp; b</description>"
        "<memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
        f"<devices>{described}{devices}<memballoon model='none'/></devices></domain>"
    )
    host.virsh("define", "--file", "/dev/stdin", stdin=xml)
    host.virsh("start", "--domain", name, "--paused")
    return host.virsh("domuuid", "--domain", name).strip()


def state(host: LabHost, name: str) -> str:
    """In virsh's words."""
    return host.virsh("domstate", "--domain", name).strip()


def remove(host: LabHost, name: str) -> None:
    """Remove a domain, whatever it does."""
    if name not in host.virsh("list", "--all", "--name").splitlines():
        return
    if state(host, name) != "shut off":
        try:
            host.virsh("destroy", "--domain", name)
        except LabError:
            if state(host, name) != "shut off":  # it has ended by itself meanwhile
                raise
    host.virsh("undefine", "--domain", name, "--snapshots-metadata")


def overlays_of(facts: DomainFacts) -> tuple[Overlay, ...]:
    """An overlay for each disk that has an image."""
    return tuple(
        Overlay(disk.target, f"{disk.source}.overlay", disk.source, disk.format)
        for disk in facts.disks
        if disk.device == "disk" and disk.source
    )


async def facts_of(host: Host, uuid: str) -> DomainFacts:
    """The domain, which must exist."""
    facts = await host.domain(uuid)
    assert facts is not None
    return facts


async def overlays(host: Host, uuid: str) -> tuple[Overlay, ...]:
    """The same, of a domain as it is."""
    return overlays_of(await facts_of(host, uuid))


def take(host: LabHost, name: str, description: str = "-") -> None:
    """An internal snapshot of the domain."""
    host.virsh("snapshot-create-as", "--domain", NAME, "--name", name, "--description", description)


async def until(
    host: Host, uuid: str, holds: Callable[[DomainFacts | None], bool], timeout_s: float = 30
) -> DomainFacts | None:
    """Read the domain at each of its changes until something holds of it."""
    watch = host.watch(uuid)
    try:
        async with asyncio.timeout(timeout_s):
            while not holds(facts := await host.domain(uuid)):
                await watch.changed(0.5)
        return facts
    finally:
        watch.close()


async def until_ready(host: Host, uuid: str, target: str) -> None:
    """Wait for a block job's real readiness."""

    def ready(facts: DomainFacts | None) -> bool:
        jobs = [disk.block_job for disk in facts.disks if disk.target == target] if facts else []
        return any(job is not None and job.ready for job in jobs)

    await until(host, uuid, ready)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@mutable
class Received:
    """A sink that keeps what it was given."""

    content: bytearray = field(factory=bytearray)
    holes: list[tuple[int, int]] = field(factory=list)
    start: int = 0

    def data(self, offset: int, chunk: bytes) -> None:
        assert offset == self.start + len(self.content)
        self.content += chunk

    def hole(self, offset: int, length: int) -> None:
        assert offset == self.start + len(self.content)
        assert length > 0
        self.holes.append((offset, length))
        self.content += bytes(length)
