"""The contract's rig on two real hosts. Its guests run no system: QEMU itself writes for them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4
from xml.sax.saxutils import escape, quoteattr

from lxml import etree

from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.port import Connector, Host
from fsm.lab import IMAGES, Lab, LabError, LabHost, snapshot_table
from fsm.lab.process import wait_until
from tests.contract.contract_rig import RigDisk

UNLIMITED_MIB_PER_S = 1 << 40
SMALL = "/var/lib/libvirt/small"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LabRig:
    """See ``contract_rig.Rig``."""

    def __init__(self, lab: Lab, number: int) -> None:
        self._lab = lab
        self._number = number
        self._by_uri = {host.uri: host for host in lab.hosts}
        self._open: list[Host] = []
        self._devices: list[tuple[LabHost, str]] = []
        self.source, self.destination = (host.uri for host in lab.hosts)
        self.nowhere = f"qemu+tcp://{lab.hosts[0].address}:1/system"
        self.images = IMAGES
        self.connector: Connector = LibvirtConnector()
        self.hasty: Connector = LibvirtConnector(deadline_s=1.5)

    async def close(self) -> None:
        """Leave nothing of the test behind."""
        self._lab.mend()
        for machine in self._lab.hosts:
            machine.start_libvirtd()
        for host in self._open:
            await host.close()
        for machine in self._lab.hosts:
            _clean(machine)
        for machine, device in self._devices:
            machine.run(["losetup", "--detach", device])

    async def host(self, uri: str) -> Host:
        host = await self.connector.connect(uri)
        self._open.append(host)
        return host

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
        machine = self._by_uri[at or self.source]
        described = [(disk, f"{self.images}/{name}-{disk.target}.{disk.format}") for disk in disks]
        described = [(disk, path if disk.path is None else disk.path) for disk, path in described]
        for disk, path in described:
            if disk.on_device or (path and not machine.path(path).exists()):
                size = f"{disk.capacity_mib}M"
                machine.run(["qemu-img", "create", "-q", "-f", disk.format, path, size])
        uuid = str(uuid4())
        # One virsh for all of it: starting one takes longer than what it does.
        commands = ["define --file /dev/stdin"]
        if running:
            commands.append(f"start --domain {uuid}")
        commands += _taking(uuid, snapshots or {})
        machine.virsh("; ".join(commands), stdin=_domain_xml(uuid, name, described, metadata))
        return uuid

    def write(self, uri: str, uuid: str, target: str, offset: int, length: int, pattern: int) -> None:
        self._qemu_io(uri, uuid, target, f"write -P {pattern} {offset} {length}")
        self._qemu_io(uri, uuid, target, "flush")

    def _qemu_io(self, uri: str, uuid: str, target: str, command: str) -> None:
        device = f"/machine/peripheral/{self._disk(uri, uuid, target)[0]}/virtio-backend"
        words = ["--domain", uuid, "--hmp", f'qemu-io -d {device} "{command}"']
        answer = self._by_uri[uri].virsh("qemu-monitor-command", *words)
        assert not answer.strip(), answer

    def _disk(self, uri: str, uuid: str, target: str) -> tuple[str, str, str]:
        """Alias, active layer and its format."""
        root = etree.fromstring(self._by_uri[uri].virsh("dumpxml", "--domain", uuid))
        disk = next(
            one for one in root.iterfind("devices/disk") if one.find(f"target[@dev='{target}']") is not None
        )
        found = [disk.find(tag) for tag in ("alias", "source", "driver")]
        keys = (("name",), ("file", "dev"), ("type",))
        alias, path, image_format = (
            next((value for key in names if element is not None and (value := element.get(key))), "")
            for element, names in zip(found, keys, strict=True)
        )
        return alias, path, image_format

    def holds(self, uri: str, uuid: str, target: str, offset: int, length: int, pattern: int) -> bool:
        _, path, image_format = self._disk(uri, uuid, target)
        command = ["-c", f"read -P {pattern} {offset} {length}", path]
        answer = self._by_uri[uri].run(
            ["sh", "-c", 'qemu-io "$@" 2>&1 || true', "qemu-io", "-r", "-U", "-f", image_format, *command]
        )
        assert f"read {length}/{length} bytes" in answer, answer
        return "verification failed" not in answer

    def take_snapshot(self, uri: str, uuid: str, name: str) -> None:
        self._by_uri[uri].virsh("snapshot-create-as", "--domain", uuid, "--name", name)

    def resize(self, uri: str, uuid: str, target: str, capacity_mib: int) -> None:
        self._by_uri[uri].virsh("blockresize", uuid, target, f"{capacity_mib}M")

    def pause(self, uri: str, uuid: str) -> None:
        self._by_uri[uri].virsh("suspend", "--domain", uuid)

    def power_off(self, uri: str, uuid: str) -> None:
        # What a guest's kernel does: write "soft off" into the ACPI control register. The firmware puts the
        # register there some time after the start.
        machine = self._by_uri[uri]

        def is_off() -> bool:
            with suppress(LabError):  # it may end between the two
                machine.virsh("qemu-monitor-command", "--domain", uuid, "--hmp", "o /w 0x604 0x2000")
            return machine.virsh("domstate", "--domain", uuid).strip() == "shut off"

        wait_until(is_off, timeout=30, what="the guest's power-off")

    def kill_qemu(self, uri: str, uuid: str) -> None:
        machine = self._by_uri[uri]
        machine.kill_qemu(machine.virsh("domname", "--domain", uuid).strip())

    def write_limit(self, uri: str, uuid: str, target: str) -> int:
        # libvirt asks QEMU for a running domain.
        shown = self._by_uri[uri].virsh("blkdeviotune", uuid, target)
        values = dict(line.replace(" ", "").split(":", 1) for line in shown.splitlines() if ":" in line)
        return int(values["write_bytes_sec"])

    def memory_limit(self, uri: str, uuid: str) -> int | None:
        found = int(self._by_uri[uri].virsh("migrate-getspeed", "--domain", uuid))
        return found if found < UNLIMITED_MIB_PER_S else None

    def put_file(self, uri: str, path: str, data: Mapping[int, bytes], size_bytes: int) -> None:
        with self._path(uri, path).open("xb") as file:
            file.truncate(size_bytes)
            for offset, chunk in data.items():
                file.seek(offset)
                file.write(chunk)

    def device(self, uri: str, size_mib: int) -> str:
        machine = self._by_uri[uri]
        directory = f"{self.images}/devices"
        machine.run(["mkdir", "-p", directory])
        backing = str(machine.directory / f"device-{len(self._devices)}.img")
        machine.run(["rm", "-f", backing])
        machine.run(["truncate", f"--size={size_mib}M", backing])
        device = machine.run(["losetup", "--find", "--show", backing]).strip()
        self._devices.append((machine, device))
        machine.run(["ln", "-s", device, f"{directory}/web"])
        return f"{directory}/web"

    def file_bytes(self, uri: str, path: str) -> bytes:
        return self._path(uri, path).read_bytes()

    def exists(self, uri: str, path: str) -> bool:
        return self._path(uri, path).exists()

    def remove_file(self, uri: str, path: str) -> None:
        self._path(uri, path).unlink()

    def make_directory(self, uri: str, path: str) -> None:
        self._path(uri, path).mkdir(parents=True)

    def _path(self, uri: str, path: str) -> Path:
        return self._by_uri[uri].path(path)

    def image_snapshots(self, uri: str, path: str) -> list[str]:
        return [entry.name for entry in snapshot_table(path, enter=self._by_uri[uri].enter)]

    def add_pool(self, uri: str, directory: str, *, active: bool) -> None:
        machine = self._by_uri[uri]
        xml = f"<pool type='dir'><name>theirs</name><target><path>{escape(directory)}</path></target></pool>"
        machine.virsh("pool-define", "--file", "/dev/stdin", stdin=xml)
        if active:
            machine.virsh("pool-start", "--pool", "theirs")

    def pools(self, uri: str) -> dict[str, bool]:
        machine = self._by_uri[uri]
        return {_pool_directory(machine, name): _is_active(machine, name) for name in _pool_names(machine)}

    def small_directory(self, uri: str, size_mib: int) -> str:
        # Unmounted with the host only, so each test has a path of its own.
        path = f"{SMALL}/{self._number}"
        self._by_uri[uri].mount_small(path, size_mib)
        return path

    def stop_libvirtd(self, uri: str) -> None:
        self._by_uri[uri].kill_libvirtd()

    def start_libvirtd(self, uri: str) -> None:
        self._by_uri[uri].start_libvirtd()

    def isolate(self, uri: str) -> None:
        self._lab.cut(self._by_uri[uri])

    def rejoin(self, uri: str) -> None:
        self._lab.mend()


def _taking(uuid: str, tree: Mapping[str, str | None]) -> Iterator[str]:
    current = None
    for snapshot, parent in tree.items():
        if parent is not None and parent != current:
            yield f"snapshot-revert --domain {uuid} --snapshotname {parent}"
        description = f"taken as <{snapshot}> & kept"
        yield f"snapshot-create-as --domain {uuid} --name {snapshot} --description '{description}'"
        current = snapshot


def _domain_xml(uuid: str, name: str, disks: list[tuple[RigDisk, str]], metadata: str | None) -> str:
    described = "".join(
        f"<disk type='{'block' if disk.on_device else 'file'}' device='{disk.device}'>"
        f"<driver name='qemu' type='{disk.format}'/>"
        + (f"<source {'dev' if disk.on_device else 'file'}={quoteattr(path)}/>" if path else "")
        + f"<target dev='{disk.target}' bus='{'virtio' if disk.device == 'disk' else 'ide'}'/>"
        + ("<readonly/>" if disk.read_only else "")
        + "</disk>"
        for disk, path in disks
    )
    return (
        f"<domain type='qemu'><name>{escape(name)}</name><uuid>{uuid}</uuid>"
        + ("" if metadata is None else f"<metadata>{metadata}</metadata>")
        + "<memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>"
        f"<devices>{described}<memballoon model='none'/></devices></domain>"
    )


def _clean(machine: LabHost) -> None:
    # Few calls of virsh: starting it takes most of the time.
    if left := _left(machine):
        uuids = [one for one in left if _UUID.fullmatch(one)]
        pools = [one for one in left if not _UUID.fullmatch(one)]
        # What is not active can't be destroyed, and what is transient is gone then: virsh goes on.
        commands = [
            f"destroy --domain {uuid}; undefine --domain {uuid} --snapshots-metadata" for uuid in uuids
        ]
        commands += [f"pool-destroy --pool {pool}; pool-undefine --pool {pool}" for pool in pools]
        with suppress(LabError):
            machine.virsh("; ".join(commands))
        left = _left(machine)
        assert not left, f"{machine.name} was not cleaned: {left}"
    for entry in machine.path(IMAGES).iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _left(machine: LabHost) -> list[str]:
    """UUIDs of domains and names of pools."""
    return machine.virsh("list --all --uuid; pool-list --all --name").split()


def _pool_names(machine: LabHost) -> list[str]:
    return machine.virsh("pool-list", "--all", "--name").split()


def _is_active(machine: LabHost, name: str) -> bool:
    return name in machine.virsh("pool-list", "--name").split()


def _pool_directory(machine: LabHost, name: str) -> str:
    path = etree.fromstring(machine.virsh("pool-dumpxml", "--pool", name)).findtext("target/path")
    assert path is not None
    return path
