"""A link that falls silent while memory moves: the engine cuts its connections before QEMU waits on them."""

from __future__ import annotations

import pytest

from fsm.hypervisor.simulated import Moment, migration
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate


@pytest.fixture(autouse=True)
def keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as libvirt's own 30 s, in steps of 0.1 s: it must not be what ends the migration here."""
    monkeypatch.setattr(migration, "KEEPALIVE_STEPS", 300)


async def silent() -> Simulation:
    """The link falls silent when memory begins to move."""
    simulation = await simulate()
    world = simulation.world
    world.at_moment(simulation.uuid, Moment.MEMORY, lambda: world.cut(SOURCE, DESTINATION))
    return simulation


def calls(simulation: Simulation) -> list[str]:
    names = [call.name for call in simulation.world.calls]
    return [name for name in names if name in ("cut_migration", "abort_job")]


async def test_a_migration_over_a_silent_link_is_cut() -> None:
    simulation = await silent()
    result = await simulation.migrate()
    assert calls(simulation) == ["cut_migration"]
    assert result.state == "rolled-back"
    assert "moved for 9 s, so its connections were cut" in result.cause
    assert "destination's storage" in result.remedy
    (note,) = [record for record in simulation.records if record.name == "cut-migration"]
    assert note.data["warning"].startswith(SOURCE)
    await check_end(simulation, result)


async def test_an_abort_over_a_silent_link_is_a_cut_as_well() -> None:
    simulation = await silent()
    handle = await simulation.start()
    simulation.world.at("migration_progress", handle.abort, nth=40)
    result = await handle.wait()
    assert calls(simulation)[0] == "cut_migration"
    assert result.state == "rolled-back"
    await check_end(simulation, result)


async def test_a_migration_that_moves_is_not_cut() -> None:
    simulation = await simulate()
    assert (await simulation.migrate()).state == "committed"
    assert calls(simulation) == []
