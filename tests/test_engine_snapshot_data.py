"""Snapshots that only the images know, or only libvirt: carried as they are, and told of."""

from __future__ import annotations

from attrs import evolve

from fsm.engine.snapshot_data import differences
from tests.simulation import SOURCE, check_end, simulate


def told(stored: dict[str, list[str]], described: list[str]) -> dict[str, str]:
    return {finding.check: finding.message for finding in differences("qemu:///system", stored, described)}


def test_nothing_is_told_where_both_agree() -> None:
    assert told({"vda": ["s1", "s2"], "vdb": ["s1"]}, ["s1", "s2"]) == {}
    assert told({}, []) == {}


def test_each_side_is_told_with_its_names() -> None:
    found = told({"vda": ["s1", "x y"], "vdb": []}, ["s1", "gone"])
    assert set(found) == {"snapshot-data", "snapshot-metadata"}
    assert "'gone'" in found["snapshot-data"]
    assert "disk vda" in found["snapshot-metadata"]
    assert "'x y'" in found["snapshot-metadata"]


def test_many_are_counted() -> None:
    found = told({"vda": [f"s{number}" for number in range(9)]}, [])
    assert "and 4 more" in found["snapshot-metadata"]


async def test_data_without_metadata_comes_along() -> None:
    simulation = await simulate()
    world, uuid, before = simulation.world, simulation.uuid, simulation.before
    await (await world.connect(SOURCE)).forget_snapshots(uuid, ["s2"])
    result = await simulation.migrate()
    assert result.state == "committed"
    notes = [note for note in result.notes if note.check == "snapshot-metadata"]
    assert ["'s2'" in note.message for note in notes] == [True, True]  # one for each disk
    described = tuple(one for one in before.metadata if one.name != "s2")
    simulation.before = evolve(before, metadata=described)
    await check_end(simulation, result)  # and the contents of s2 are among those compared
