"""Which domains of a host use a block device, under whatever name: before it is overwritten."""

from __future__ import annotations

from attrs import frozen

from fsm.engine import devices
from fsm.engine.context import Context
from fsm.engine.plan import Side
from fsm.engine.users import path_of_volume
from fsm.errors import ActionFailed, HostError
from fsm.hypervisor.port import Host
from fsm.hypervisor.shell import Shell
from fsm.hypervisor.values import Base, DiskFacts


@frozen
class DeviceUsers:
    """``found`` are domains and the paths by which they have it.

    ``untold`` are domains, their volumes that may lie on it, and why nobody can tell.
    """

    found: tuple[tuple[str, str], ...]
    untold: tuple[tuple[str, str, str], ...]


async def users_of(host: Host, way: Shell, number: str) -> DeviceUsers:
    """Who uses the device of that number; ``way`` leads to the same host. Raises ``HostError``."""
    users: dict[str, str] = {}
    untold = []
    for uuid in await host.domains():
        facts = await host.domain(uuid)
        for disk in facts.disks if facts is not None else ():
            name = facts.name if facts is not None else uuid
            try:
                users |= dict.fromkeys(await _paths(host, disk), name)
            except HostError as error:
                untold.append((name, disk.source, error.message))
    numbers = await devices.numbers(way, list(users))
    found = tuple((users[path], path) for path, its_number in numbers.items() if its_number == number)
    return DeviceUsers(found, tuple(untold))


async def _paths(host: Host, disk: DiskFacts) -> list[str]:
    """A disk's files and devices; an error for a volume of a pool that has no directory."""
    if disk.source_type != "volume":
        return [path for path in disk.chain if path.startswith("/")]
    return [await path_of_volume(host, disk.source)]


async def expect_free(context: Context, way: Shell, copy: Base) -> None:
    """What a copy is about to overwrite, a device, has not been taken into use since preflight."""
    if not copy.on_device:
        return
    host, device = await context.host(Side.DESTINATION), await devices.device_at(way, copy.path)
    reasons = ["it is gone"]
    if device is not None:
        # Volumes that may lie anywhere have been told of in preflight.
        users = await users_of(host, way, device.number)
        reasons = [*device.busy, *(f"domain {name} uses it, as {path}" for name, path in users.found)]
    if reasons:
        raise ActionFailed(
            "copy-bases",
            f"{host.uri}: the device {copy.path} is not overwritten: {'; '.join(reasons)}",
            retryable=False,
            remedy="free it, or use another one; then migrate again",
        )
