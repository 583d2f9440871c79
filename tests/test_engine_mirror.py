"""Merging by mirror on simulated hosts: the migration itself writes the overlays into the copied bases."""

from __future__ import annotations

import asyncio

import pytest

from fsm.engine.merging import LONG_FLUSH_BYTES, choose
from fsm.engine.plan import Direct, MergeChoice
from fsm.hypervisor.simulated import Moment, files
from fsm.hypervisor.values import FileFacts
from fsm.machine.observation import Merge
from tests.simulation import DESTINATION, IMAGES, SOURCE, Simulation, check_end, simulate

BASE = f"{IMAGES}/web-vda.qcow2"
AUTOCLEAR_AT = 88


def calls(simulation: Simulation, name: str, host: str) -> int:
    return sum((call.name, call.host) == (name, host) for call in simulation.world.calls)


async def test_nothing_is_left_to_commit_at_the_destination() -> None:
    simulation = await simulate()
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert (result.state, result.cause) == ("committed", "")
    assert simulation.path == ["planned", "snapshotted", "transferring", "committing-dest", "committed"]
    assert calls(simulation, "create_overlay", DESTINATION) == 0
    assert calls(simulation, "start_commit", DESTINATION) == 0
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", [Moment.MIRROR, Moment.MEMORY])
async def test_a_failed_one_removes_the_dirty_copies(moment: Moment) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert result.state == "rolled-back"
    assert calls(simulation, "start_commit", SOURCE) > 0
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("host", [SOURCE, DESTINATION])
async def test_a_daemon_that_dies_at_any_moment_loses_nothing(moment: Moment, host: str) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.restart_libvirtd(host))
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert result.state in ("committed", "rolled-back"), result
    await check_end(simulation, result)


def chosen(simulation: Simulation) -> tuple[str, str, list[str]]:
    """The way of merging that preflight chose, why, and what it told the user."""
    data = simulation.planned
    return data["merge"], data["merge_reason"], [note["message"] for note in data["notes"]]


def store_bitmap(simulation: Simulation) -> None:
    """Set the bit in the header of an image that says so."""
    with simulation.world.changing() as state:
        files.write(state, state.hosts[SOURCE], BASE, AUTOCLEAR_AT, (1).to_bytes(8, "big"))


async def test_an_image_with_bitmaps_is_refused() -> None:
    simulation = await simulate()
    store_bitmap(simulation)
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert result.state == "refused"
    (finding,) = result.findings
    assert (finding.check, finding.host) == ("merge", SOURCE)
    assert "vda" in finding.message
    assert "bitmaps" in finding.message
    assert "--merge commit" in finding.remedy
    await check_end(simulation, result)


async def test_auto_merges_by_mirror_where_it_can() -> None:
    simulation = await simulate()
    result = await simulation.migrate(merge=MergeChoice.AUTO)
    assert result.state == "committed"
    assert calls(simulation, "create_overlay", DESTINATION) == 0
    assert chosen(simulation) == ("mirror", "nothing stands against it", [])
    await check_end(simulation, result)


@pytest.mark.parametrize("bitmaps", [True, False])
async def test_auto_merges_by_commit_elsewhere_and_says_why(bitmaps: bool) -> None:  # noqa: FBT001
    """Elsewhere is also where nobody can tell."""
    simulation = await simulate()
    if bitmaps:
        store_bitmap(simulation)
    else:
        simulation.world.fail("peek", host=SOURCE)
    result = await simulation.migrate(merge=MergeChoice.AUTO)
    assert result.state == "committed"
    assert calls(simulation, "start_commit", DESTINATION) == 2
    merge, reason, notes = chosen(simulation)
    assert (merge, "disk vda" in reason, ("bitmaps" in reason) is bitmaps) == ("commit", True, True)
    assert notes == [reason]
    await check_end(simulation, result)


@pytest.mark.parametrize("merge", [Merge.COMMIT, Merge.MIRROR])
async def test_what_is_asked_for_is_recorded_as_that(merge: Merge) -> None:
    simulation = await simulate()
    await simulation.migrate(merge=merge)
    assert chosen(simulation) == (merge, "asked for", [])


async def test_an_engine_that_takes_over_chooses_no_other_way() -> None:
    simulation = await simulate()
    copied = asyncio.Event()
    simulation.world.at("make_durable", copied.set)
    handle = await simulation.start(merge=MergeChoice.AUTO)
    await copied.wait()
    await handle.detach()
    simulation.world.fail("peek", host=SOURCE, times=1)  # with this it would have chosen otherwise
    result = await (await simulation.engine.resume(handle.migration)).wait()
    assert result.state == "committed"
    assert calls(simulation, "create_overlay", DESTINATION) == 0
    await check_end(simulation, result)


async def test_an_image_that_can_not_be_looked_at_is_refused() -> None:
    simulation = await simulate()
    simulation.world.fail("peek", host=SOURCE)
    result = await simulation.migrate(merge=Merge.MIRROR)
    assert (result.state, [finding.check for finding in result.findings]) == ("refused", ["merge"])
    assert (await simulation.migrate(merge=Merge.MIRROR)).state == "committed"


async def test_a_host_that_is_off_has_no_overlay_left_that_was_never_made() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.power_off(DESTINATION))
    stuck = await simulation.migrate(merge=Merge.MIRROR)
    assert stuck.state == "stuck"
    await simulation.engine.ask(stuck.migration, "retry", ["destination"])
    result = await (await simulation.engine.resume(stuck.migration)).wait()
    assert result.state == "rolled-back"
    assert not [what for what in result.left_behind if ".fsm-" in what]
    assert len(result.left_behind) == 2  # the copies


LONG = LONG_FLUSH_BYTES + 1


@pytest.mark.parametrize(
    ("base", "direct", "merge"),
    [
        (FileFacts(BASE, LONG, LONG, LONG, "raw"), None, Merge.COMMIT),
        (FileFacts(BASE, LONG, LONG, LONG, "raw"), Direct(), Merge.MIRROR),
        (FileFacts(BASE, LONG, LONG - 1, LONG, "raw"), None, Merge.MIRROR),
        (FileFacts(BASE, LONG, LONG, LONG - 1, "qcow2"), None, Merge.COMMIT),
        (FileFacts(BASE, LONG, LONG, LONG, "qcow2"), None, Merge.MIRROR),
    ],
    ids=["raw", "synced-by-nbd", "short", "larger-than-its-disk", "synced-by-a-resize"],
)
async def test_auto_leaves_no_long_flush_to_the_switch_over(
    base: FileFacts, direct: Direct | None, merge: Merge
) -> None:
    simulation = await simulate()
    source = await simulation.world.connect(SOURCE)
    facts = await source.domain(simulation.uuid)
    assert facts is not None
    request = simulation.request(merge=MergeChoice.AUTO, direct=direct)
    chosen, reason, _against = await choose(source, facts, (), [base], request)
    assert (chosen, "flushed" in reason) == (merge, merge is Merge.COMMIT)
    for asked in (MergeChoice.COMMIT, MergeChoice.MIRROR):
        request = simulation.request(merge=asked)
        assert (await choose(source, facts, (), [base], request))[0] == Merge(asked)
