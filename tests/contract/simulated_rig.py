"""The contract's rig on the simulated hosts."""

from __future__ import annotations

from collections.abc import Mapping

from fsm.hypervisor import domain_xml
from fsm.hypervisor.port import Connector, Host
from fsm.hypervisor.simulated import SimulatedDisk, SimulatedWorld
from fsm.hypervisor.simulated import files as simulated_files
from fsm.hypervisor.simulated import images as simulated_images
from fsm.machine.observation import DomainState
from tests.contract.contract_rig import MIB, RigDisk

PAGE = 4096
MACHINE = "pc-i440fx-7.2"


class SimulatedRig:
    """See ``contract_rig.Rig``."""

    source = "sim://alpha/system"
    destination = "sim://beta/system"
    nowhere = "sim://gamma/system"
    images = "/var/lib/libvirt/images"

    def __init__(self) -> None:
        self.world = SimulatedWorld()
        for uri in (self.source, self.destination):
            self.world.add_host(uri, machines=(MACHINE,))
        self.connector: Connector = self.world
        self.hasty: Connector = self.world

    async def host(self, uri: str) -> Host:
        return await self.world.connect(uri)

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
        described = (
            SimulatedDisk(
                disk.target,
                path=f"{self.images}/{name}-{disk.target}.{disk.format}" if disk.path is None else disk.path,
                capacity_bytes=disk.capacity_mib * MIB,
                format=disk.format,
                device=disk.device,
                read_only=disk.read_only,
                written=(),
            )
            for disk in disks
        )
        state = DomainState.RUNNING if running else DomainState.SHUT_OFF
        uri = at or self.source
        uuid = self.world.add_domain(uri, name, described, snapshots, state=state, memory_mib=8)
        if metadata is not None:
            with self.world.changing() as changed:
                record = changed.hosts[uri].domains[uuid]
                record.definition = _with_metadata(record.definition or "", metadata)
                if record.instance is not None:
                    record.instance.xml = _with_metadata(record.instance.xml, metadata)
        return uuid

    def write(self, uri: str, uuid: str, target: str, offset: int, length: int, pattern: int) -> None:
        for block in range(offset // PAGE, (offset + length) // PAGE):
            self.world.guest_write(uuid, target, block, bytes([pattern]) * PAGE, at=uri)

    def holds(self, uri: str, uuid: str, target: str, offset: int, length: int, pattern: int) -> bool:
        wanted = (bytes([pattern]) * PAGE).rstrip(b"\0")
        blocks = range(offset // PAGE, (offset + length) // PAGE)
        return all(self.world.guest_read(uuid, target, block, at=uri) == wanted for block in blocks)

    def take_snapshot(self, uri: str, uuid: str, name: str) -> None:
        self.world.take_snapshot(uri, uuid, name)

    def resize(self, uri: str, uuid: str, target: str, capacity_mib: int) -> None:
        self.world.resize(uri, uuid, target, capacity_mib * MIB)

    def pause(self, uri: str, uuid: str) -> None:
        self.world.pause(uri, uuid)

    def power_off(self, uri: str, uuid: str) -> None:
        self.world.power_off_guest(uuid)

    def kill_qemu(self, uri: str, uuid: str) -> None:
        self.world.kill_qemu(uri, uuid)

    def write_limit(self, uri: str, uuid: str, target: str) -> int:
        return self.world.throttle_of(uri, uuid, target) or 0

    def memory_limit(self, uri: str, uuid: str) -> int | None:
        instance = self.world.state.hosts[uri].domains[uuid].instance
        job = instance.migration if instance else None
        return job.memory_mib_per_s if job else None

    def put_file(self, uri: str, path: str, data: Mapping[int, bytes], size_bytes: int) -> None:
        self.world.put_file(uri, path, data, size_bytes=size_bytes)

    def device(self, uri: str, size_mib: int) -> str:
        self.world.add_device(uri, "/dev/vg/web", size_mib * MIB)
        return "/dev/vg/web"

    def file_bytes(self, uri: str, path: str) -> bytes:
        return self.world.file_bytes(uri, path)

    def exists(self, uri: str, path: str) -> bool:
        return path in self.world.files(uri)

    def remove_file(self, uri: str, path: str) -> None:
        with self.world.changing() as state:
            simulated_files.remove(state, state.hosts[uri], path)

    def make_directory(self, uri: str, path: str) -> None:
        self.world.add_directory(uri, path)

    def image_snapshots(self, uri: str, path: str) -> list[str]:
        state = self.world.state
        file = simulated_files.existing(state, state.hosts[uri], path)
        return [entry.name for entry in simulated_images.snapshot_table(file)]

    def add_pool(self, uri: str, directory: str, *, active: bool) -> None:
        self.world.add_pool(uri, directory, active=active)

    def pools(self, uri: str) -> dict[str, bool]:
        return self.world.pools(uri)

    def small_directory(self, uri: str, size_mib: int) -> str:
        self.world.add_filesystem(uri, mount="/small", size_bytes=size_mib * MIB)
        return "/small"

    def stop_libvirtd(self, uri: str) -> None:
        self.world.stop_libvirtd(uri)

    def start_libvirtd(self, uri: str) -> None:
        self.world.start_libvirtd(uri)

    def isolate(self, uri: str) -> None:
        self.world.disconnect(uri)

    def rejoin(self, uri: str) -> None:
        self.world.reconnect(uri)


def _with_metadata(xml: str, metadata: str) -> str:
    text = xml.replace("</uuid>", f"</uuid><metadata>{metadata}</metadata>", 1)
    return domain_xml.serialize(domain_xml.parse(text))
