"""A domain whose disks stand on a common chain of files, on simulated hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fsm.engine.plan import MergeChoice
from fsm.hypervisor.simulated import SimulatedDisk, SimulatedWorld, files, images
from tests.simulation import DESTINATION, IMAGES, SHARED, SNAPSHOTS, SOURCE, Before, Simulation, simulate

GOLDEN, MIDDLE = f"{IMAGES}/golden.raw", f"{IMAGES}/middle.qcow2"
LOWER = (GOLDEN, MIDDLE)
MIB = 1 << 20
CONTENT = {0: b"golden", 5 * MIB: b"block"}
AUTO = {"merge": MergeChoice.AUTO}


ON_CHAIN = tuple(SimulatedDisk(target, backing=(MIDDLE, "qcow2")) for target in ("vda", "vdb"))


async def chained(
    disks: Sequence[SimulatedDisk] = ON_CHAIN,
    snapshots: Mapping[str, str | None] = SNAPSHOTS,
    *,
    there: bool = True,
    content: dict[int, bytes] | None = None,
    **domain: Any,
) -> Simulation:
    """A domain whose disks stand on a common chain of two files; ``there``: the destination has it, too."""
    simulation = await simulate()
    world = simulation.world = SimulatedWorld()
    for uri in (SOURCE, DESTINATION):
        world.add_host(uri)
    world.add_filesystem(SOURCE, DESTINATION, mount=SHARED, size_bytes=1 << 40)
    world.add_pool(SOURCE, IMAGES)
    for uri in (SOURCE, DESTINATION) if there else (SOURCE,):
        found = CONTENT if uri == SOURCE or content is None else content
        world.put_file(uri, GOLDEN, found, size_bytes=8 * MIB)
        with world.changing() as state:
            images.create(state, state.hosts[uri], MIDDLE, 8 * MIB, (GOLDEN, "raw"))
    uuid = simulation.uuid = world.add_domain(SOURCE, "web", disks, snapshots, **domain)
    simulation.before = Before.of(world, uuid, layers=3)
    return simulation


def content(simulation: Simulation, uri: str) -> dict[str, bytes]:
    """What the files below the bases hold on a host."""
    with simulation.world.changing() as state:
        host = state.hosts[uri]
        return {path: files.read(files.existing(state, host, path), 0, 8 * MIB) for path in LOWER}


def written_into(simulation: Simulation, uri: str) -> None:
    """Somebody writes into the lowest file of a host."""
    with simulation.world.changing() as state:
        files.write(state, state.hosts[uri], GOLDEN, 0, b"GOLDEN")


def untouched(simulation: Simulation) -> None:
    """Nobody has made, written or removed a file below the bases."""
    changes = [call for call in simulation.world.calls if call.name in ("create_sparse", "remove", "writer")]
    assert {str(call.arguments[0]) for call in changes}.isdisjoint(LOWER)


async def refused(simulation: Simulation, **changes: Any) -> str:
    """The one reason against it."""
    result = await simulation.migrate(**AUTO, **changes)
    assert (result.state, [finding.check for finding in result.findings]) == ("refused", ["backing-file"])
    untouched(simulation)
    assert simulation.world.files(DESTINATION) == simulation.before.files[DESTINATION]
    return f"{result.findings[0].message}; {result.findings[0].remedy}"
