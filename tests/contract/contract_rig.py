"""What the contract tests need besides the port: somebody who makes domains and files, and breaks things.

The tests talk to hosts through the port alone; a ``Rig`` stands for the operator, the guest and the machine
room. There is one for the simulated hosts and one for two real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain, repeat
from typing import Protocol, TypeVar

from attrs import evolve, field, frozen, mutable

from fsm.hypervisor.domain_xml import with_disk_sources
from fsm.hypervisor.port import Connector, Host
from fsm.hypervisor.values import (
    DiskFacts,
    DomainFacts,
    FileFacts,
    MigrationRequest,
    Overlay,
    Tuning,
    Wiring,
)
from fsm.machine.observation import DomainState, Job

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB
EAGER_LOOKS = 100
PATIENCE_S = 30.0


@frozen
class RigDisk:
    """A disk to make. ``path`` None: in the image directory; "": an empty drive.

    ``on_device``: the path is that of a device, which is there.
    """

    target: str
    format: str = "qcow2"
    capacity_mib: int = 16
    device: str = "disk"
    read_only: bool = False
    path: str | None = None
    on_device: bool = False


class Rig(Protocol):
    """Two hosts, and what happens to them besides the calls of the port."""

    connector: Connector
    hasty: Connector
    """The same with short deadlines."""
    source: str
    destination: str
    nowhere: str
    """A URI where nothing answers."""
    images: str
    """A directory that both hosts have; no pool covers it at first."""

    async def host(self, uri: str) -> Host:
        """The host, closed at the end of the test."""

    def domain(
        self,
        name: str,
        disks: tuple[RigDisk, ...] = (RigDisk("vda"),),
        *,
        at: str | None = None,
        snapshots: Mapping[str, str | None] | None = None,
        running: bool = True,
        metadata: str | None = None,
    ) -> str:
        """Make a domain, at the source if not said otherwise, with internal snapshots (name to parent).

        ``metadata`` is what stands in its element of that name; None: it has none.
        """

    def write(self, uri: str, uuid: str, target: str, offset: int, length: int, pattern: int) -> None:
        """Have the guest write bytes of one value; it has done so when this returns."""

    def holds(self, uri: str, uuid: str, target: str, offset: int, length: int, pattern: int) -> bool:
        """Whether the guest would read these bytes."""

    def take_snapshot(self, uri: str, uuid: str, name: str) -> None:
        """An operator takes an internal snapshot of the running domain."""

    def resize(self, uri: str, uuid: str, target: str, capacity_mib: int) -> None:
        """Somebody gives a disk of the running domain another size."""

    def pause(self, uri: str, uuid: str) -> None:
        """An operator pauses the domain."""

    def power_off(self, uri: str, uuid: str) -> None:
        """The guest powers itself off."""

    def kill_qemu(self, uri: str, uuid: str) -> None:
        """The domain's process is killed."""

    def write_limit(self, uri: str, uuid: str, target: str) -> int:
        """What QEMU lets the guest write to a disk, in bytes a second; 0: as much as it likes."""

    def memory_limit(self, uri: str, uuid: str) -> int | None:
        """The limit, in MiB/s, that memory has in its migration, or would have in one; None: no limit."""

    def put_file(self, uri: str, path: str, data: Mapping[int, bytes], size_bytes: int) -> None:
        """Make a sparse file."""

    def device(self, uri: str, size_mib: int) -> str:
        """The path of a new block device, all zeros, in a directory of such."""

    def file_bytes(self, uri: str, path: str) -> bytes:
        """A file's content."""

    def exists(self, uri: str, path: str) -> bool:
        """Whether there is a file."""

    def remove_file(self, uri: str, path: str) -> None:
        """Remove a file."""

    def make_directory(self, uri: str, path: str) -> None:
        """Make a directory below ``images``."""

    def image_snapshots(self, uri: str, path: str) -> list[str]:
        """The names of the internal snapshots in an image."""

    def add_pool(self, uri: str, directory: str, *, active: bool) -> None:
        """An operator defines a storage pool."""

    def pools(self, uri: str) -> dict[str, bool]:
        """All pools of a host: directory to whether it is active."""

    def small_directory(self, uri: str, size_mib: int) -> str:
        """A directory on a file system of its own, for one test; the same path on every host."""

    def stop_libvirtd(self, uri: str) -> None:
        """The host's libvirtd is killed; its domains go on."""

    def start_libvirtd(self, uri: str) -> None:
        """It is started again."""

    def isolate(self, uri: str) -> None:
        """Nothing reaches the host any more."""

    def rejoin(self, uri: str) -> None:
        """Undo ``isolate``."""


@mutable
class Received:
    """A sink that keeps what it was given."""

    data_at: dict[int, bytes] = field(factory=dict)
    holes: list[tuple[int, int]] = field(factory=list)
    end: int = 0

    def data(self, offset: int, chunk: bytes) -> None:
        assert offset >= self.end, "ranges come in ascending order"
        self.data_at[offset] = chunk
        self.end = offset + len(chunk)

    def hole(self, offset: int, length: int) -> None:
        assert offset >= self.end, "ranges come in ascending order"
        self.holes.append((offset, length))
        self.end = offset + length

    def content(self, start: int = 0) -> bytes:
        """The whole range, holes as zeros."""
        whole = bytearray(self.end - start)
        for offset, chunk in self.data_at.items():
            whole[offset - start : offset - start + len(chunk)] = chunk
        return bytes(whole)

    @property
    def data_bytes(self) -> int:
        """How much of it came as data."""
        return sum(len(chunk) for chunk in self.data_at.values())


async def until(read: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """Read again and again until what is read is as wanted."""
    # Simulated jobs make a step whenever the event loop turns, however fast the machine is: whoever looks
    # more seldom may miss what he looks for. Real ones need no more than a look now and then.
    pauses_s = chain(repeat(0.0, EAGER_LOOKS), repeat(0.02))
    async with asyncio.timeout(PATIENCE_S):
        while not holds(value := await read()):  # noqa: ASYNC110 - not everything is announced
            await asyncio.sleep(next(pauses_s))
    return value


async def facts_of(host: Host, uuid: str) -> DomainFacts:
    """The domain, which must exist."""
    facts = await host.domain(uuid)
    assert facts is not None
    return facts


async def stat_of(host: Host, path: str) -> FileFacts:
    """The file, which must exist."""
    facts = await host.storage.stat(path)
    assert facts is not None
    return facts


def disk_of(facts: DomainFacts, target: str) -> DiskFacts:
    """One disk of a domain."""
    return next(disk for disk in facts.disks if disk.target == target)


async def overlay_for(host: Host, uuid: str, target: str = "vda") -> Overlay:
    """The overlay that a migration would put over a disk."""
    disk = disk_of(await facts_of(host, uuid), target)
    return Overlay(target, f"{disk.source}.overlay", disk.source, disk.format)


async def put_overlay(host: Host, uuid: str, target: str = "vda") -> Overlay:
    """Have a disk run on an overlay."""
    overlay = await overlay_for(host, uuid, target)
    await host.create_overlays(uuid, (overlay,))
    return overlay


async def ready(host: Host, uuid: str, target: str = "vda") -> None:
    """Wait until the disk's block job may be pivoted."""

    def is_ready(facts: DomainFacts) -> bool:
        job = disk_of(facts, target).block_job
        assert job is not None, "the block job is gone"
        return job.ready

    await until(lambda: facts_of(host, uuid), is_ready)


async def committed(host: Host, uuid: str, overlay: Overlay) -> None:
    """Commit an overlay and pivot."""
    await host.start_commit(uuid, overlay)
    await ready(host, uuid, overlay.target)
    await host.pivot(uuid, overlay.target)


@mutable
class Prepared:
    """A domain on overlays, with everything at the destination that a migration needs."""

    rig: Rig
    source: Host
    destination: Host
    uuid: str
    overlays: tuple[Overlay, ...]

    async def request(
        self, *, merge: str = "commit", bandwidth_mib_per_s: int = 0, destination_name: str = ""
    ) -> MigrationRequest:
        """The request that the engine would make."""
        disks = {
            overlay.target: (overlay.path, "qcow2")
            if merge == "commit"
            else (overlay.base, overlay.base_format)
            for overlay in self.overlays
        }
        return MigrationRequest(
            destination_uri=self.rig.destination,
            destination_xml=with_disk_sources(await self.source.domain_xml(self.uuid), disks),
            persistent_xml=with_disk_sources(await self.source.persistent_xml(self.uuid), disks),
            disks=tuple(overlay.target for overlay in self.overlays),
            destination_name=destination_name,
            bandwidth_mib_per_s=bandwidth_mib_per_s,
        )

    async def migrate(
        self,
        *,
        merge: str = "commit",
        bandwidth_mib_per_s: int = 0,
        tuning: Tuning | None = None,
        wiring: Wiring | None = None,
    ) -> None:
        """Migrate."""
        request = await self.request(merge=merge, bandwidth_mib_per_s=bandwidth_mib_per_s)
        await self.source.migrate(
            self.uuid, evolve(request, tuning=tuning or Tuning(), wiring=wiring or Wiring())
        )

    async def begin(self, bandwidth_mib_per_s: int) -> asyncio.Task[None]:
        """Migrate slowly in a task of its own; both sides are at work when this returns."""
        task = asyncio.create_task(self.migrate(bandwidth_mib_per_s=bandwidth_mib_per_s))
        await until(lambda: facts_of(self.source, self.uuid), lambda facts: facts.job is Job.MIGRATION_OUT)

        async def there() -> str | None:
            facts = await self.destination.domain(self.uuid)
            return facts.reason if facts else None

        # Before that the destination is starting its QEMU. libvirt 9.0 does not survive being killed then:
        # it keeps a domain without a process that nothing can end.
        await until(there, lambda reason: reason == "migration")
        return task


async def prepare(
    rig: Rig, uuid: str, targets: tuple[str, ...] = ("vda",), *, destination_overlays: bool = True
) -> Prepared:
    """Overlays at the source, copies of the bases and overlays at the destination, metadata dropped."""
    source, destination = await rig.host(rig.source), await rig.host(rig.destination)
    overlays = tuple([await overlay_for(source, uuid, target) for target in targets])
    await source.create_overlays(uuid, overlays)
    await source.forget_snapshots(uuid, [snapshot.name for snapshot in await source.snapshots(uuid)])
    for overlay in overlays:
        facts = await stat_of(source, overlay.base)
        await destination.storage.create_sparse(overlay.base, facts.size_bytes)
        await asyncio.to_thread(copy_bytes, rig, overlay.base, facts.size_bytes)
        if destination_overlays:
            await destination.storage.create_overlay(overlay, facts.capacity_bytes)
    return Prepared(rig, source, destination, uuid, overlays)


def copy_bytes(rig: Rig, path: str, size_bytes: int) -> None:
    """Copy a file from the source to the destination."""
    reader, other = rig.connector.open_channel(rig.source), rig.connector.open_channel(rig.destination)
    writer = other.writer(path)
    reader.read(path, 0, size_bytes, writer)
    writer.close()
    reader.close()
    other.close()


async def assert_back(prepared: Prepared) -> None:
    """The domain runs at the source alone, without a job."""
    facts = await until(lambda: facts_of(prepared.source, prepared.uuid), lambda facts: facts.job is Job.NONE)
    assert facts.state is DomainState.RUNNING
    assert facts.persistent
    overlay = prepared.overlays[0]
    assert disk_of(facts, overlay.target).chain == (overlay.path, overlay.base)

    async def there() -> object:
        return await prepared.destination.domain(prepared.uuid)

    await until(there, lambda found: found is None)
