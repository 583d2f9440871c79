"""Block devices of simulated hosts; what a shell would tell of them the world itself tells."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from attrs import evolve

from fsm.engine.context import Context
from fsm.engine.device_users import expect_free
from fsm.engine.devices import Device
from fsm.engine.direct import shell
from fsm.engine.hardware import Hardware
from fsm.engine.plan import Direct, MergeChoice, Side
from fsm.errors import HostError
from fsm.hypervisor.port import RangeWriter
from fsm.hypervisor.shell import Shell
from fsm.hypervisor.simulated import SimulatedDisk, SimulatedWorld, domains, files, pools, snapshots
from fsm.hypervisor.values import Base, is_among_devices
from tests.simulation import DESTINATION, SNAPSHOTS, SOURCE, Before, Inline, Simulation, fresh_journal

MIB = 1 << 20
SIZE_BYTES = 192 * MIB
VOLUMES = {target: f"/dev/vg/web-{target}" for target in ("vda", "vdb")}
SCRATCH = "/srv/scratch"
TEMPLATE_CONTENT = {0: b"template", 5 * MIB: b"block"}
MERGES = [MergeChoice.COMMIT, MergeChoice.MIRROR]
NAMED = tuple(f"{target}={path}" for target, path in VOLUMES.items())
BY_COMMANDS = Direct(source_shell="sh", destination_shell="sh")
PLAIN = {"direct": BY_COMMANDS, "overlay_directory": SCRATCH, "disk_map": NAMED}


class Told:
    """The world as a shell shows it; tests put in what is to be different."""

    world: SimulatedWorld

    def __init__(self) -> None:
        self.changes: dict[tuple[str, str], dict[str, object]] = {}
        self.hardware: dict[tuple[str, str], Hardware] = {}
        self.stale = self.elsewhere = self.silent = ""
        self.stale_from = 0

    async def device_at(self, shell: Shell, path: str) -> Device | None:
        state = self.world.state
        found = files.find(state, state.hosts[shell.uri], path)
        if found is None or not is_among_devices(path):
            return None
        device = Device(path, found.size, path, f"{shell.uri} {path}")
        return evolve(device, **self.changes.get((shell.uri, path), {}))  # type: ignore[arg-type]

    async def numbers(self, shell: Shell, paths: Sequence[str]) -> dict[str, str]:
        return {path: path for path in paths if is_among_devices(path) or (shell.uri, path) in self.changes}

    async def holds_data(self, shell: Shell, device: Device) -> bool:
        state = self.world.state
        return any(files.existing(state, state.hosts[shell.uri], device.path).pages.values())

    async def findings(self, *_: object) -> list[object]:
        return []

    async def named(self, shell: Shell, path: str) -> str:
        state = self.world.state
        found = pools.stat(state, state.hosts[shell.uri], path)
        when = "of another node" if self.elsewhere == shell.uri else found and found.modified
        return f"{found.size_bytes} {when}" if found is not None else ""

    async def hardware_of(self, shell: Shell, path: str) -> Hardware:
        """What is one file of the world has one name."""
        if self.silent == shell.uri:
            raise HostError("no route", host=shell.uri, call="shell")
        state = self.world.state
        found = files.find(state, state.hosts[shell.uri], path)
        told = Hardware(f"naa.{id(found):x}") if found is not None else Hardware(why="there is none")
        return self.hardware.get((shell.uri, path), told)

    async def digest(self, shell: Shell, path: str, offset: int, length: int) -> str:
        if self.stale == shell.uri and offset + length > self.stale_from:
            return "as it was"
        state = self.world.state
        return files.read(files.existing(state, state.hosts[shell.uri], path), offset, length).hex()


async def copied(context: Context, direct: Direct, base: Base, _tell: object) -> None:
    """The copy, without commands. Zeros are on the devices already."""
    await expect_free(
        context, shell(context.request, direct, Side.DESTINATION), context.planned.copy_of(base)
    )
    channels = [context.hosts.connector.open_channel(uri) for uri in (SOURCE, DESTINATION)]
    writer: RangeWriter = channels[1].writer(context.planned.copy_of(base).path)
    channels[0].read(base.path, 0, base.size_bytes, writer)
    writer.close()
    for channel in channels:
        channel.close()


def expect_kept(simulation: Simulation) -> None:
    """Nothing is lost at the destination."""
    assert simulation.world.lost_writes(simulation.uuid, at=DESTINATION) == []
    found = simulation.world.snapshot_contents(DESTINATION, simulation.uuid)
    assert found == simulation.before.contents


def on_devices(
    told: Told,
    size_bytes: int = SIZE_BYTES,
    image_format: str = "qcow2",
    *,
    shared: bool = False,
    cache: str = "",
    template: str = "",
    **domain: object,
) -> Simulation:
    """Both hosts have volumes of the same names; a domain with snapshots lies on those of the source.

    ``shared``: they are the very same ones. ``template``: the disks stand on this file of the source.
    """
    asyncio.get_running_loop().set_default_executor(Inline())
    world = told.world = SimulatedWorld()
    for uri in (SOURCE, DESTINATION):
        world.add_host(uri)
        world.add_filesystem(uri, mount=SCRATCH, size_bytes=1 << 40)
    if shared:
        world.add_filesystem(SOURCE, DESTINATION, mount="/dev/vg", size_bytes=1 << 40)
    for uri in (SOURCE,) if shared else (SOURCE, DESTINATION):
        for path in VOLUMES.values():
            world.add_device(uri, path, size_bytes)
    raw = image_format == "raw"
    if template:
        world.put_file(SOURCE, template, TEMPLATE_CONTENT, size_bytes=8 * MIB)
    disks = [
        SimulatedDisk(
            target,
            path,
            format=image_format,
            capacity_bytes=size_bytes if raw else 8 * MIB,
            cache=cache,
            backing=(template, "raw") if template else None,
        )
        for target, path in VOLUMES.items()
    ]
    uuid = world.add_domain(SOURCE, "web", disks, {} if raw else SNAPSHOTS, **domain)  # type: ignore[arg-type]
    hosts = world.state.hosts
    before = Before(
        contents=world.snapshot_contents(SOURCE, uuid),
        metadata=snapshots.listed(hosts[SOURCE], uuid),
        definition=domains.persistent_xml(hosts[SOURCE], uuid),
        files={uri: world.files(uri) for uri in hosts},
        pools={uri: world.pools(uri) for uri in hosts},
        layers=2 if template else 1,
    )
    return Simulation(world, uuid, before, fresh_journal())


def changed_devices(simulation: Simulation) -> list[str]:
    """The calls that would make or remove one."""
    changes = ("remove", "create_sparse", "create_overlay")
    return [
        call.name
        for call in simulation.world.calls
        if call.name in changes and is_among_devices(str(call.arguments[0]))
    ]
