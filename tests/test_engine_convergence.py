"""A guest that writes faster than it is copied, on simulated hosts: throttled, paused, given up; and told."""

from __future__ import annotations

from types import ModuleType

import pytest

from fsm.engine.context import Progress
from fsm.engine.convergence import MemoryPasses, Window
from fsm.engine.engine import Engine
from fsm.engine.result import Result
from fsm.hypervisor.simulated import commit, guest, migration
from fsm.hypervisor.simulated.state import HostState, LiveDisk, WorldState, active
from fsm.hypervisor.values import JobProgress
from fsm.journal.records import Record
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

MIB = 1 << 20


def keep_writing(monkeypatch: pytest.MonkeyPatch, module: ModuleType, blocks: int, bound: int = 0) -> None:
    """Have the guest write so many blocks before each step of a job, until a throttle stops it."""
    step = module.advance

    def advance(state: WorldState, host: HostState, uuid: str, *rest: LiveDisk) -> None:
        instance = active(host, uuid)[1]
        throttle = instance.disks["vda"].throttle
        if instance.running and not (throttle is not None and throttle <= bound):
            for block in range(300, 300 + blocks):
                guest.write(state, uuid, "vda", block, f"{block}".encode(), host.uri)
        step(state, host, uuid, *rest)

    monkeypatch.setattr(module, "advance", advance)


async def migrate(simulation: Simulation, **changes: object) -> Result:
    """Migrate, two seconds passing with each piece of progress."""

    def on_progress(_progress: Progress) -> None:
        simulation.world.clock.pass_until(simulation.world.clock.monotonic_s() + 2)

    def on_record(record: Record) -> None:
        simulation.records.append(record)

    request = simulation.request(**changes)
    handle = await simulation.engine.start(request, on_record=on_record, on_progress=on_progress)
    return await handle.wait()


def warnings(simulation: Simulation, name: str) -> list[str]:
    return [record.data["warning"] for record in simulation.records if record.name == name]


def lifted(simulation: Simulation) -> list[str]:
    return [call.host for call in simulation.world.calls if call.name == "lift_throttle"]


@pytest.mark.parametrize("merge", ["commit", "mirror"])
async def test_a_fast_writer_is_throttled_until_the_mirror_catches_up(
    monkeypatch: pytest.MonkeyPatch, merge: str
) -> None:
    simulation = await simulate()
    keep_writing(monkeypatch, migration, 60, bound=2 * MIB)
    result = await migrate(simulation, merge=merge, bandwidth_mib_per_s=1)
    assert result.state == "committed", result
    assert warnings(simulation, "throttle-writes")
    assert lifted(simulation) == [DESTINATION]
    await check_end(simulation, result)


async def test_one_that_is_not_slowed_down_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = await simulate()
    keep_writing(monkeypatch, migration, 60)
    result = await migrate(simulation, bandwidth_mib_per_s=1)
    assert result.state == "rolled-back"
    assert "faster than they are copied" in result.cause
    assert len(warnings(simulation, "throttle-writes")) == 3
    assert lifted(simulation) == [SOURCE]
    assert simulation.world.throttle_of(SOURCE, simulation.uuid, "vda") is None
    await check_end(simulation, result)


async def test_a_throttle_that_can_not_be_set_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = await simulate()
    simulation.world.fail("throttle_writes", times=None)
    keep_writing(monkeypatch, migration, 60)
    result = await migrate(simulation, bandwidth_mib_per_s=1)
    assert result.state == "rolled-back"
    assert any("throttle" in record.data for record in simulation.records if record.name == "migrate")
    simulation.world.faults.clear()
    await check_end(simulation, result)


async def test_a_slow_commit_catches_up_with_a_throttled_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = await simulate()
    keep_writing(monkeypatch, commit, 60, bound=2 * MIB)
    result = await migrate(simulation)
    assert result.state == "committed", result
    assert warnings(simulation, "throttle-writes")
    assert lifted(simulation) == [DESTINATION]
    await check_end(simulation, result)


async def test_a_commit_that_never_catches_up_gets_stuck_and_keeps_its_throttle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = await simulate()
    keep_writing(monkeypatch, commit, 60)
    result = await migrate(simulation)
    assert result.state == "stuck"
    assert "although its writes are throttled" in result.cause
    assert simulation.world.throttle_of(DESTINATION, simulation.uuid, "vda")
    assert lifted(simulation) == []
    monkeypatch.undo()
    other = Engine(simulation.journal, simulation.world, clock=simulation.world.clock)
    await other.ask(result.migration, "retry")
    result = await (await other.resume(result.migration)).wait()
    assert result.state == "committed"
    assert simulation.world.throttle_of(DESTINATION, simulation.uuid, "vda") is None
    await check_end(simulation, result)


async def test_without_need_nothing_is_throttled() -> None:
    simulation = await simulate()
    await simulation.migrate()
    assert not {"throttle_writes", "lift_throttle"} & {call.name for call in simulation.world.calls}


async def test_memory_that_does_not_converge_is_rolled_back() -> None:
    simulation = await simulate()
    simulation.world.dirty_memory(simulation.uuid, 100)
    result = await migrate(simulation, bandwidth_mib_per_s=8)
    assert result.state == "rolled-back"
    assert "faster than it is sent" in result.cause
    assert "--max-pause" in result.remedy
    await check_end(simulation, result)


async def test_memory_ends_by_the_pause_that_the_user_allows() -> None:
    simulation = await simulate()
    simulation.world.dirty_memory(simulation.uuid, 100)
    changes = {"bandwidth_mib_per_s": 8, "max_pause_ms": 60_000}
    result = await migrate(simulation, **changes)
    assert result.state == "committed", result
    assert "60000 ms" in warnings(simulation, "allow-pause")[0]
    await check_end(simulation, result)


async def test_a_pause_that_is_too_short_does_not_help() -> None:
    simulation = await simulate()
    simulation.world.dirty_memory(simulation.uuid, 100)
    changes = {"bandwidth_mib_per_s": 8, "max_pause_ms": 301}
    result = await migrate(simulation, **changes)
    assert result.state == "rolled-back"
    assert len(warnings(simulation, "allow-pause")) == 1
    await check_end(simulation, result)


async def test_a_timeout_ends_it_by_a_pause_however_long() -> None:
    simulation = await simulate()
    simulation.world.dirty_memory(simulation.uuid, 100)
    result = await migrate(simulation, bandwidth_mib_per_s=8, timeout_s=1)
    assert result.state == "committed", result
    assert ["after 1 s" in what for what in warnings(simulation, "time-out")] == [True]
    assert warnings(simulation, "allow-pause") == []
    await check_end(simulation, result)


async def test_a_timeout_that_is_not_reached_does_nothing() -> None:
    simulation = await simulate()
    result = await migrate(simulation, timeout_s=100_000)
    assert result.state == "committed"
    assert warnings(simulation, "time-out") == []
    allowed = [call for call in simulation.world.calls if call.name == "allow_downtime"]
    assert allowed == []


def test_a_copy_converges_as_long_as_less_is_left() -> None:
    began = Window(0.0, 0, 100 * MIB)
    assert began.converges(Window(10.0, 16 * MIB, 99 * MIB))
    assert not began.converges(Window(10.0, 17 * MIB, 99 * MIB))
    assert not began.converges(Window(10.0, 16 * MIB, 120 * MIB))
    assert began.carried(Window(10.0, 16 * MIB, 0)) == 1.6 * MIB


def job(number: int, left: int, throttle: int = 0) -> JobProgress:
    total = 1000 * MIB
    return JobProgress(total - left * MIB, total, memory_iteration=number, cpu_throttle_percent=throttle)


@pytest.mark.parametrize(
    ("passes", "still"),
    [
        ([(1, 1000, 0), (2, 500, 0), (3, 250, 0), (4, 120, 0), (5, 60, 0)], False),
        ([(1, 1000, 0), (2, 500, 0), (3, 480, 0), (4, 490, 0), (5, 500, 0)], True),
        ([(1, 1000, 0), (2, 500, 0), (3, 480, 20), (4, 490, 30), (5, 500, 40)], False),
        ([(1, 1000, 0), (2, 500, 0), (2, 400, 0), (2, 100, 0), (2, 1, 0)], False),
    ],
)
def test_passes_over_the_memory_bring_something(passes: list[tuple[int, int, int]], still: bool) -> None:  # noqa: FBT001
    watched = MemoryPasses()
    assert [watched.stand_still(job(*one), 10.0 * index) for index, one in enumerate(passes)][-1] is still


def test_quick_passes_are_given_time() -> None:
    watched = MemoryPasses()
    assert not any(watched.stand_still(job(number, 500), 0.1 * number) for number in range(1, 20))
