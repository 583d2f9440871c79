"""One limit for all streams of a migration, on simulated hosts."""

from __future__ import annotations

import pytest

from fsm.engine.bandwidth import longest_rest_s, share_mib_per_s
from fsm.engine.context import Progress
from fsm.engine.result import Result
from fsm.hypervisor.values import MigrationRequest
from tests.simulation import SOURCE, Simulation, check_end, simulate


@pytest.mark.parametrize(
    ("total", "disks", "share"), [(0, 2, 0), (8, 1, 8), (8, 2, 4), (9, 2, 4), (1, 3, 1), (8, 0, 8)]
)
def test_each_stream_gets_an_equal_share(total: int, disks: int, share: int) -> None:
    assert share_mib_per_s(total, disks) == share


def test_a_mirror_may_rest_as_long_as_its_limit_asks_for() -> None:
    assert longest_rest_s(0, 2) == 0
    assert longest_rest_s(2, 2) == 18.0
    assert longest_rest_s(64, 1) < 3.0


def memory_limits(simulation: Simulation) -> list[tuple[object, ...]]:
    return [call.arguments[1:] for call in simulation.world.calls if call.name == "limit_memory"]


async def at_leisure(simulation: Simulation, **changes: object) -> Result:
    """Migrate, a second passing with each piece of progress."""

    def on_progress(_progress: Progress) -> None:
        simulation.world.clock.pass_until(simulation.world.clock.monotonic_s() + 1)

    handle = await simulation.engine.start(simulation.request(**changes), on_progress=on_progress)
    return await handle.wait()


async def test_memory_gets_what_the_mirrors_leave() -> None:
    simulation = await simulate()
    result = await at_leisure(simulation, bandwidth_mib_per_s=8)
    assert result.state == "committed"
    (request,) = (call.arguments[1] for call in simulation.world.calls if call.name == "migrate")
    assert isinstance(request, MigrationRequest)
    assert request.bandwidth_mib_per_s == 4
    limits = memory_limits(simulation)
    assert limits[0] == (8, 4)
    assert all(isinstance(now, int) and 1 <= now <= 8 for now, _was in limits)
    await check_end(simulation, result)


async def test_without_a_limit_memory_has_none() -> None:
    simulation = await simulate()
    await simulation.migrate()
    assert memory_limits(simulation) == []


async def test_a_limit_that_can_not_be_set_is_no_reason_to_fail() -> None:
    simulation = await simulate()
    simulation.world.fail("limit_memory", host=SOURCE, times=None)
    result = await at_leisure(simulation, bandwidth_mib_per_s=8)
    assert memory_limits(simulation)
    assert result.state == "committed"
    await check_end(simulation, result)


async def test_a_limit_that_libvirt_can_not_keep_is_told() -> None:
    simulation = await simulate()
    await simulation.migrate(bandwidth_mib_per_s=1)
    (notes,) = (record.data["notes"] for record in simulation.records if record.data.get("notes"))
    assert [note["check"] for note in notes] == ["bandwidth"]
