"""How far the marker of a migration whose journal is lost is believed: its word alone removes no file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from attrs import evolve

from fsm.engine.adoption import AdoptionRefused
from fsm.hypervisor.simulated import files
from fsm.machine.observation import Merge
from tests.lost_journals import (
    Lost,
    adopt,
    adopted,
    check_adopted,
    kill_destination,
    lose,
    lose_journal,
    lost,
    marker_of,
    settle,
)
from tests.simulation import DESTINATION, IMAGES, ON_SHARED, SOURCE, check_end, simulate

__all__ = ["lost"]  # a fixture


async def test_the_other_host_is_found_by_the_marker(lost: Lost) -> None:
    result = await adopt(lost.engine, (SOURCE,))
    await check_adopted(lost.simulation, result)


async def test_a_uri_that_could_run_a_command_is_not_taken_from_a_marker(lost: Lost) -> None:
    for uri in ("qemu+ext:///system?command=/bin/x", "qemu+ssh://b/system?command=/bin/x", "qemu:///system"):
        await lost.marked(destination_uri=uri)
        assert "--host" in await lost.refused((SOURCE,))
    # Named by the operator, the host is known by its UUID, whatever the marker says.
    await check_adopted(lost.simulation, await adopt(lost.engine))


async def test_another_host_is_not_taken_for_the_destination(lost: Lost) -> None:
    await lost.marked(destination_host="8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11")
    assert "is not its destination" in await lost.refused()


async def test_a_journal_that_is_there_is_not_lost(lost: Lost, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    host = lost.engine.journal.location.partition(":")[0]
    await lost.marked(journal=f"{host}:{path}")
    assert f"fsm --journal {path} resume {lost.migration}" in await lost.refused()
    await lost.marked(journal=f"another-machine:{path}")
    await check_adopted(lost.simulation, await adopt(lost.engine))


@pytest.mark.parametrize("changes", [{"migration": "../../x"}, {"overlays": ()}], ids=["id", "no-disks"])
async def test_a_marker_is_believed_as_far_as_it_is_borne_out(lost: Lost, changes: dict[str, object]) -> None:
    await lost.marked(**changes)
    case, examined = await lost.examined()
    with pytest.raises(AdoptionRefused):
        await lost.engine.adopt(case, examined)


async def test_copies_that_nobody_vouches_for_are_left_and_named(lost: Lost) -> None:
    """The marker does not say that they were made; only one that holds nothing at all is known for ours."""
    await lost.marked(bases=(), snapshots="")
    copy = f"{IMAGES}/web-vda.qcow2"
    with lost.simulation.world.changing() as state:
        files.write(state, state.hosts[DESTINATION], copy, 0, b"something")
    result = await adopted(lost.engine)
    assert result.state == "rolled-back"
    assert any(copy in left for left in result.left_behind)
    assert copy in lost.simulation.world.files(DESTINATION)


async def test_a_marker_that_conceals_that_both_hosts_share_a_base_removes_no_base() -> None:
    lost = await lose(ON_SHARED)
    overlays = (await marker_of(lost.simulation)).overlays
    assert all(overlay.shared for overlay in overlays)
    await lost.marked(overlays=[evolve(overlay, shared=False) for overlay in overlays])
    result = await adopted(lost.engine)
    assert result.state == "rolled-back"
    assert [disk.path for disk in ON_SHARED if any(str(disk.path) in left for left in result.left_behind)]
    await check_end(lost.simulation, result)


async def test_files_that_are_not_the_domains_are_never_touched(lost: Lost) -> None:
    overlay = "/etc/shadow.fsm-" + lost.migration
    first, second = (await marker_of(lost.simulation)).overlays
    await lost.marked(overlays=(evolve(first, base="/etc/shadow", path=overlay), second))
    await lost.refused()


async def test_a_file_at_a_place_that_only_a_marker_tells_is_left_and_named(lost: Lost) -> None:
    """Whoever may describe the domain could have any file of the destination removed otherwise."""
    simulation, victim = lost.simulation, "/srv/somebodys"
    marker = await marker_of(simulation)
    first, second = marker.overlays
    simulation.world.put_file(DESTINATION, victim, {0: b"precious"}, size_bytes=marker.bases[0].size_bytes)
    await lost.marked(overlays=(evolve(first, destination_base=victim), second))
    result = await adopted(lost.engine)
    assert result.state == "rolled-back"
    assert any(victim in left for left in result.left_behind)
    assert victim in simulation.world.files(DESTINATION)


async def test_a_copy_that_has_another_length_than_recorded_is_left_and_named(lost: Lost) -> None:
    """The guest has run on it, or it is another file: either way nobody may remove it."""
    simulation = lost.simulation
    base = f"{IMAGES}/web-vda.qcow2"
    with simulation.world.changing() as state:
        files.remove(state, state.hosts[DESTINATION], base)
    simulation.world.put_file(DESTINATION, base, {0: b"precious"}, size_bytes=1 << 16)
    result = await adopted(lost.engine)
    assert result.state == "rolled-back"
    assert any(base in left for left in result.left_behind)
    assert base in simulation.world.files(DESTINATION)
    assert f"{IMAGES}/web-vdb.qcow2" not in simulation.world.files(DESTINATION)


async def test_a_copy_that_a_failed_mirror_has_written_into_is_removed_or_named() -> None:
    """It has its recorded length only by chance; another file may have any."""
    simulation = await simulate()
    kill_destination(simulation)
    reached = asyncio.Event()
    simulation.world.at("start_commit", reached.set)
    handle = await simulation.start(merge=Merge.MIRROR)
    await reached.wait()
    await handle.detach()
    await settle(simulation)
    result = await adopted(await lose_journal(simulation))
    assert result.state == "rolled-back"
    copies = [path for path in simulation.world.files(DESTINATION) if "web-" in path]
    assert [left.partition(": ")[2].partition(",")[0] for left in result.left_behind] == copies
    assert not any(".fsm-" in path for path in simulation.world.files(SOURCE))
