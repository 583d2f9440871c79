"""Snapshots whose names the destination's libvirt carries but can't use."""

from __future__ import annotations

import pytest

from fsm.engine.checks import Finding
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

WITHOUT_JOBS, WITH_JOBS = (10, 8, 0), (10, 9, 0)


async def with_snapshot(name: str, there: tuple[int, int, int]) -> Simulation:
    """A domain with one more snapshot, on its way to a host with that libvirt."""
    simulation = await simulate()
    simulation.world.state.hosts[DESTINATION].libvirt_version = there
    simulation.world.take_snapshot(SOURCE, simulation.uuid, name)
    return simulation


async def notes(simulation: Simulation, name: str) -> list[Finding]:
    """What preflight told of names, of a migration that went on all the same."""
    result = await simulation.migrate()
    assert result.state == "committed"
    await check_end(simulation, result, also=(name,))
    return [note for note in result.notes if note.check == "snapshot-name"]


@pytest.mark.parametrize("name", ["before upgrade", "a&b", "näher", "a/b", "<1>", "x\ny"])
async def test_a_name_that_can_not_be_a_jobs_is_carried_and_told_of(name: str) -> None:
    (note,) = await notes(await with_snapshot(name, WITH_JOBS), name)
    assert note.host == DESTINATION
    assert repr(name) in note.message
    assert "s1" not in note.message


@pytest.mark.parametrize("name", ["before-upgrade_2.1", "9", "A"])
async def test_a_plain_name_is_nothing_to_tell(name: str) -> None:
    assert await notes(await with_snapshot(name, WITH_JOBS), name) == []


async def test_an_older_libvirt_takes_any_name() -> None:
    assert await notes(await with_snapshot("a b", WITHOUT_JOBS), "a b") == []
