"""Making a world: hosts, file systems, files, domains."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from uuid import NAMESPACE_URL, uuid5

from attrs import define

from fsm.hypervisor.simulated import documents, domains, files, guest, images, snapshots
from fsm.hypervisor.simulated.core import WorldCore
from fsm.hypervisor.simulated.documents import SimulatedDisk
from fsm.hypervisor.simulated.state import PAGE, FileSystem, HostState, Pool
from fsm.hypervisor.values import is_among_devices
from fsm.machine.observation import DomainState

IMAGES = "/var/lib/libvirt/images"
_DIRECTORIES = ("/", "/boot", "/srv", "/var", "/var/lib", "/var/lib/libvirt", IMAGES)
_TIB = 1024**4


@define(eq=False)
class Builder(WorldCore):
    """What tests begin with."""

    def add_host(
        self,
        uri: str,
        *,
        uuid: str | None = None,
        hostname: str | None = None,
        libvirt_version: tuple[int, int, int] = (9, 0, 0),
        hypervisor_version: tuple[int, int, int] = (7, 2, 0),
        security_models: tuple[str, ...] = (),
        machines: Iterable[str] = (),
        space_bytes: int = _TIB,
    ) -> HostState:
        """Add a host with one file system of ``space_bytes``. Empty ``machines``: it accepts every type."""
        with self.changing() as state:
            host = HostState(
                uri,
                uuid or str(uuid5(NAMESPACE_URL, uri)),
                hostname or f"host{len(state.hosts) + 1}",
                libvirt_version,
                hypervisor_version,
                security_models,
                frozenset(machines),
            )
            state.hosts[uri] = host
            self.add_filesystem(uri, mount="/", size_bytes=space_bytes)
            for directory in _DIRECTORIES:
                self.add_directory(uri, directory)
            return host

    def add_filesystem(self, *uris: str, mount: str, size_bytes: int) -> None:
        """Mount a new file system at all these hosts: a small one, or one that they share."""
        with self.changing() as state:
            identity = f"{mount} of {', '.join(uris)}"
            state.filesystems[identity] = FileSystem(size_bytes, directories={mount})
            for uri in uris:
                state.hosts[uri].mounts[mount] = identity

    def add_directory(self, uri: str, path: str) -> None:
        """Make a directory, and those above it."""
        with self.changing() as state:
            host = state.hosts[uri]
            mount = max((one for one in host.mounts if _is_below(path, one)), key=len)
            where = state.filesystems[host.mounts[mount]]
            while path not in where.directories and path != mount:
                where.directories.add(path)
                path = posixpath.dirname(path)
            where.directories.add(mount)

    def add_link(self, uri: str, path: str, target: str) -> None:
        """Have a directory that leads to another one."""
        with self.changing() as state:
            state.hosts[uri].links[path] = target

    def add_pool(self, uri: str, directory: str, *, active: bool = True) -> None:
        """Have an operator's storage pool on a directory."""
        with self.changing() as state:
            state.hosts[uri].pools[directory] = Pool(active)

    def put_file(
        self, uri: str, path: str, data: Mapping[int, bytes] | bytes = b"", *, size_bytes: int | None = None
    ) -> None:
        """Make a file; ``data`` maps offsets to bytes, the rest up to ``size_bytes`` is a hole."""
        with self.changing() as state:
            host = state.hosts[uri]
            file = files.create(state, host, path)
            for offset, chunk in ({0: data} if isinstance(data, bytes) else data).items():
                files.write(state, host, path, offset, chunk)
            if size_bytes is not None:
                file.size = size_bytes

    def add_device(self, uri: str, path: str, size_bytes: int) -> None:
        """Make a block device, below ``/dev``, with the directories above it."""
        self.add_directory(uri, posixpath.dirname(path))
        with self.changing() as state:
            files.create_device(state, state.hosts[uri], path, size_bytes)

    def add_domain(
        self,
        uri: str,
        name: str,
        disks: Iterable[SimulatedDisk | str] = ("vda",),
        snapshots: Mapping[str, str | None] | None = None,
        *,
        uuid: str | None = None,
        state: DomainState = DomainState.RUNNING,
        persistent: bool = True,
        memory_mib: int = 64,
        machine: str = "pc-i440fx-7.2",
        kernel: str | None = None,
        initrd: str | None = None,
    ) -> str:
        """Add a domain and return its UUID.

        ``snapshots`` maps the name of each internal snapshot, in the order of taking them, to its parent. The
        guest writes a block to each disk between them, and one at the end; these count as acknowledged.
        ``kernel`` and ``initrd`` must exist at the host (``put_file``).
        """
        boot = {tag: path for tag, path in (("kernel", kernel), ("initrd", initrd)) if path is not None}
        with self.changing() as world:
            host = world.hosts[uri]
            described = [self._placed(host, name, disk) for disk in disks]
            text = documents.definition(
                name=name,
                uuid=uuid or str(uuid5(NAMESPACE_URL, name)),
                memory_mib=memory_mib,
                machine=machine,
                disks=described,
                **boot,
            )
            record = domains.define(world, host, text)
            domains.start_paused(world, host, record.uuid)
            domains.resume(world, host, record.uuid)
            self._fill(host, record.uuid, [disk for disk, path in described if path], snapshots or {})
            if not persistent:
                record.definition = None
            self._settle(host, record.uuid, state)
            return record.uuid

    def _placed(self, host: HostState, name: str, disk: SimulatedDisk | str) -> tuple[SimulatedDisk, str]:
        """Make the disk's image, unless it exists already, and tell where it is."""
        if isinstance(disk, str):
            disk = SimulatedDisk(disk)
        path = f"{IMAGES}/{name}-{disk.target}.{disk.format}" if disk.path is None else disk.path
        found = files.find(self.state, host, path) if path else None
        if found is not None and is_among_devices(path) and not found.pages and disk.format == "qcow2":
            images.put(self.state, host, path, disk.capacity_bytes, disk.backing)
        elif path and found is None:
            if disk.format == "raw":
                files.create(self.state, host, path, disk.capacity_bytes)
            else:
                images.create(self.state, host, path, disk.capacity_bytes, disk.backing)
        return disk, path

    def _fill(
        self, host: HostState, uuid: str, disks: list[SimulatedDisk], tree: Mapping[str, str | None]
    ) -> None:
        record = host.domains[uuid]
        written = [disk for disk in disks if disk.device == "disk" and not disk.read_only]
        for disk in written:
            for block in disk.written:
                guest.write(self.state, uuid, disk.target, block, f"{disk.target}:{block}".encode())
        for number, (name, parent) in enumerate(tree.items()):
            if parent != record.current and parent is not None:
                snapshots.revert(self.state, host, uuid, parent)
            self._mark(uuid, written, number, name)
            snapshots.take(self.state, host, uuid, name, f"taken as <{name}> & kept")
        if tree:
            self._mark(uuid, written, len(tree), "after the last snapshot")

    def _mark(self, uuid: str, disks: list[SimulatedDisk], number: int, text: str) -> None:
        for disk in disks:
            # From the disk's end, out of the way of what tests write.
            block = disk.capacity_bytes // PAGE - 1 - number
            guest.write(self.state, uuid, disk.target, block, f"{disk.target}: {text}".encode())

    def _settle(self, host: HostState, uuid: str, wanted: DomainState) -> None:
        instance = host.domains[uuid].instance
        if instance is not None:
            instance.reason = "booted"
        match wanted:
            case DomainState.PAUSED:
                domains.pause(self.state, host, uuid)
            case DomainState.SHUT_OFF:
                domains.stop(self.state, host, uuid, "shutdown")
            case DomainState.CRASHED:
                guest.crash(self.state, host, uuid)
            case DomainState.RUNNING:
                pass


def _is_below(path: str, mount: str) -> bool:
    return path == mount or path.startswith(mount.rstrip("/") + "/")
