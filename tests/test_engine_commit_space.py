"""Whether a commit has the room that it needs: QEMU does not survive one that runs out of space."""

from __future__ import annotations

import pytest

from fsm.engine.commit_causes import FULL_BYTES
from fsm.engine.commit_space import growth_bytes
from fsm.engine.handle import Result
from fsm.engine.space import MIB
from fsm.hypervisor.simulated import Moment, SimulatedDisk
from fsm.hypervisor.simulated.state import active
from fsm.hypervisor.values import FileFacts, Overlay
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

IMAGES = "/var/lib/libvirt/images"


def calls(simulation: Simulation) -> list[str]:
    return [call.name for call in simulation.world.calls]


async def free_and_retry(simulation: Simulation, stuck: Result) -> None:
    """What the remedy says, and that it helps."""
    assert stuck.state == "stuck"
    assert stuck.remedy.startswith(f"free space in {IMAGES} on {DESTINATION}")
    assert "the guest's data is in the overlay" in stuck.cause
    simulation.world.set_free_bytes(DESTINATION, IMAGES, 1 << 40)
    await simulation.engine.ask(stuck.migration, "retry")
    result = await (await simulation.engine.resume(stuck.migration)).wait()
    assert result.state == "committed"
    await check_end(simulation, result)


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
async def test_a_commit_that_may_run_out_of_space_is_not_begun(*, paused: bool) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid

    def write() -> None:
        simulation.write()
        if paused:
            world.pause(SOURCE, uuid)

    world.at("make_durable", write)
    world.at_moment(uuid, Moment.CONFIRM, lambda: world.set_free_bytes(DESTINATION, IMAGES, MIB))
    stuck = await simulation.migrate()
    assert "start_commit" not in calls(simulation)
    running = [] if paused else [DESTINATION]
    assert (world.active_at(uuid), world.running_at(uuid)) == ([DESTINATION], running)
    await free_and_retry(simulation, stuck)
    assert world.running_at(uuid) == running


async def test_a_commit_that_would_run_out_of_space_is_cancelled() -> None:
    simulation = await simulate(disks=("vda",))
    world, blocks = simulation.world, range(600, 1000)

    def write() -> None:
        for block in blocks:
            world.guest_write(simulation.uuid, "vda", block, b"x")

    def tighten() -> None:
        _, instance = active(world.state.hosts[DESTINATION], simulation.uuid)
        job = instance.disks["vda"].commit
        assert job is not None
        job.step_blocks = 1  # it has not come to the end of the space when it is looked at
        world.set_free_bytes(DESTINATION, IMAGES, len(blocks) * 4096 // 2)

    world.at("make_durable", write)
    world.at("start_commit", tighten, host=DESTINATION, when="after")
    stuck = await simulation.migrate()
    assert "cancel_block_job" in calls(simulation)
    assert "MiB to be committed" in stuck.cause
    await free_and_retry(simulation, stuck)


async def test_a_running_commit_is_taken_over_however_little_space_there_is() -> None:
    simulation = await simulate(disks=("vda",))
    world = simulation.world
    world.at("start_commit", lambda: world.set_free_bytes(DESTINATION, IMAGES, 2 * MIB), when="after")
    result = await simulation.migrate()
    assert result.state == "committed"
    await check_end(simulation, result)


async def test_directories_of_one_file_system_are_taken_together() -> None:
    simulation = await simulate(disks=("vda", SimulatedDisk("vdb", path="/srv/web-vdb.qcow2")))
    world, blocks = simulation.world, range(1000)

    def write() -> None:
        for target in ("vda", "vdb"):
            for block in blocks:
                world.guest_write(simulation.uuid, target, block, b"x")

    # Enough for either overlay, not for both.
    free_bytes = FULL_BYTES + len(blocks) * 4096 * 3 // 2
    world.at("make_durable", write)
    world.at_moment(
        simulation.uuid, Moment.CONFIRM, lambda: world.set_free_bytes(DESTINATION, IMAGES, free_bytes)
    )
    stuck = await simulation.migrate()
    assert (stuck.state, "start_commit" in calls(simulation)) == ("stuck", False)
    assert "its overlays hold 8 MiB to be committed" in stuck.cause


@pytest.mark.parametrize(
    ("base_format", "allocated_bytes", "growth"),
    [("raw", 8 * MIB, 0), ("raw", 7 * MIB, 3 * MIB), ("qcow2", 8 * MIB, 3 * MIB)],
)
def test_only_a_whole_raw_base_takes_all_without_growing(
    base_format: str, allocated_bytes: int, growth: int
) -> None:
    base = FileFacts("/a", 8 * MIB, allocated_bytes, 8 * MIB, base_format)
    top = FileFacts("/a.fsm-1", 4 * MIB, 3 * MIB, 8 * MIB, "qcow2", "/a")
    overlay = Overlay("vda", "/a.fsm-1", "/a", base_format)
    assert growth_bytes(overlay, (base, top)) == growth
    assert growth_bytes(overlay, (base,)) == 0
