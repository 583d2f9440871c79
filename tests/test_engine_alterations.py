"""Somebody takes snapshots, resizes or puts layers while the overlays exist: nothing is lost unsaid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lxml import etree

from fsm.engine.effective import as_defined
from fsm.engine.history import fold
from fsm.engine.plan import MergeChoice
from fsm.engine.result import Result
from fsm.errors import NotFound
from fsm.hypervisor.simulated import commit, files
from fsm.hypervisor.simulated.state import Denied
from fsm.images.qcow2 import MAGIC
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

IMAGES = "/var/lib/libvirt/images"


def take(simulation: Simulation, uri: str, name: str = "theirs") -> Callable[[], None]:
    """Take an internal snapshot, as an operator does who knows nothing of the migration."""
    return lambda: simulation.world.take_snapshot(uri, simulation.uuid, name)


def stored(simulation: Simulation, uri: str, name: str = "theirs") -> list[str]:
    """The disks where a snapshot is found, in any layer or file."""
    contents = simulation.world.snapshot_contents(uri, simulation.uuid)
    return sorted(target for target, found in contents if found == name)


def committed(simulation: Simulation) -> list[str]:
    return [call.name for call in simulation.world.calls if call.name in ("start_commit", "pivot")]


async def again(simulation: Simulation, result: Result, *accept_loss: str) -> Result:
    await simulation.engine.ask(result.migration, "retry", accept_loss=accept_loss)
    return await (await simulation.engine.resume(result.migration)).wait()


async def accept_and_check(simulation: Simulation, result: Result, state: str, home: str) -> None:
    """Asked once more nothing changes; only who gives the snapshot up gets further."""
    assert result.state == "stuck", result
    assert "'theirs'" in result.cause
    assert "--accept-loss theirs" in result.remedy
    assert f"fsm rescue {result.migration}" in result.remedy
    assert stored(simulation, home) == ["vda", "vdb"]
    still = await again(simulation, result)
    assert (still.state, still.cause) == ("stuck", result.cause)
    other = await again(simulation, result, "another")
    assert other.state == "stuck"
    assert stored(simulation, home) == ["vda", "vdb"]
    ended = await again(simulation, result, "theirs")
    assert ended.state == state, ended
    assert stored(simulation, home) == []
    await check_end(simulation, ended)


@pytest.mark.parametrize("call", ["create_sparse", "make_durable"])
async def test_a_snapshot_taken_during_the_copy(call: str) -> None:
    simulation = await simulate()
    simulation.world.at(call, take(simulation, SOURCE))
    result = await simulation.migrate()
    assert committed(simulation) == []
    await accept_and_check(simulation, result, "rolled-back", SOURCE)


async def test_a_snapshot_taken_before_the_snapshots_were_recorded() -> None:
    simulation = await simulate()
    simulation.world.at("create_overlays", take(simulation, SOURCE), when="after")
    result = await simulation.migrate()
    assert committed(simulation) == []
    await accept_and_check(simulation, result, "rolled-back", SOURCE)


async def test_a_snapshot_taken_right_before_the_migration_is_refused_by_libvirt_and_then_found() -> None:
    simulation = await simulate()
    simulation.world.at("migrate", take(simulation, SOURCE))
    result = await simulation.migrate()
    assert committed(simulation) == []
    await accept_and_check(simulation, result, "rolled-back", SOURCE)


async def test_a_snapshot_whose_metadata_is_deleted_again() -> None:
    """Then libvirt knows nothing of it, and would migrate: the overlay's own table tells."""
    simulation = await simulate()

    def take_and_forget() -> None:
        take(simulation, SOURCE)()
        simulation.world.forget_snapshot(SOURCE, simulation.uuid, "theirs")

    simulation.world.at("make_durable", take_and_forget)
    result = await simulation.migrate()
    await accept_and_check(simulation, result, "rolled-back", SOURCE)


@pytest.mark.parametrize("call", ["start_commit", "pivot"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_snapshot_taken_during_the_commit_at_the_destination(call: str, nth: int) -> None:
    """libvirt refuses it while a commit runs; before the first one begins it is found, and nothing ends."""
    simulation = await simulate()
    refused: list[str] = []

    def happen() -> None:
        try:
            take(simulation, DESTINATION)()
        except Denied as error:
            refused.append(str(error))

    simulation.world.at(call, happen, nth=nth)
    result = await simulation.migrate()
    if refused:
        assert result.state == "committed"
        await check_end(simulation, result)
        return
    assert (call, nth) == ("start_commit", 1)
    assert "pivot" not in committed(simulation)
    await accept_and_check(simulation, result, "committed", DESTINATION)


async def test_a_snapshot_taken_after_the_switch_over() -> None:
    simulation = await simulate()
    simulation.world.at("migrate", take(simulation, DESTINATION), when="after")
    result = await simulation.migrate()
    assert committed(simulation) == []
    await accept_and_check(simulation, result, "committed", DESTINATION)


async def test_a_snapshot_with_the_name_of_one_that_moved() -> None:
    """At the destination the names are free until the metadata is restored."""
    simulation = await simulate()
    simulation.world.at("migrate", take(simulation, DESTINATION, "s1"), when="after")
    result = await simulation.migrate()
    assert result.state == "stuck"
    assert "'s1'" in result.cause
    ended = await again(simulation, result, "s1")
    assert ended.state == "committed"
    await check_end(simulation, ended)


async def test_a_snapshot_taken_while_rolling_back() -> None:
    simulation = await simulate()
    world = simulation.world
    world.fail("migrate", times=None)
    world.at("start_commit", take(simulation, SOURCE))
    result = await simulation.migrate()
    assert "pivot" not in committed(simulation)
    assert "cancel_block_job" in [call.name for call in world.calls]
    await accept_and_check(simulation, result, "rolled-back", SOURCE)


async def test_a_layer_put_on_the_overlay() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.add_layer(SOURCE, uuid, "vda", f"{IMAGES}/theirs"))
    result = await simulation.migrate()
    assert result.state == "stuck"
    assert f"{IMAGES}/theirs" in result.cause
    assert committed(simulation) == []
    await check_end(simulation, result)


@pytest.mark.parametrize("home", [SOURCE, DESTINATION])
async def test_a_snapshot_is_rescued_and_the_migration_goes_on(home: str) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    if home == SOURCE:
        world.at("make_durable", take(simulation, SOURCE))
    else:
        world.at("migrate", take(simulation, DESTINATION), when="after")
    result = await simulation.migrate()
    assert result.state == "stuck"
    expected = {target: world.snapshot_view(home, uuid, target, "theirs") for target in ("vda", "vdb")}
    simulation.write()
    await simulation.engine.ask(result.migration, "rescue")
    ended = await (await simulation.engine.resume(result.migration)).wait()
    assert ended.state == ("rolled-back" if home == SOURCE else "committed"), ended
    for target in ("vda", "vdb"):
        path = f"{IMAGES}/web-{target}.qcow2.rescued-theirs"
        assert world.image_snapshots(home, path) == {"theirs": expected[target]}
    rescued = [path for path in world.files(home) if "rescued" in path]
    assert len(rescued) == 2
    assert stored(simulation, home) == []
    for path in rescued:
        world.remove_file(home, path)
    await check_end(simulation, ended)


async def test_a_rescue_that_fails_leaves_the_snapshot_where_it_is() -> None:
    simulation = await simulate()
    world = simulation.world
    world.at("make_durable", take(simulation, SOURCE))
    result = await simulation.migrate()
    world.set_free_bytes(SOURCE, IMAGES, 1 << 20)
    await simulation.engine.ask(result.migration, "rescue")
    full = await (await simulation.engine.resume(result.migration)).wait()
    assert full.state == "stuck"
    assert "MiB free" in full.cause
    world.set_free_bytes(SOURCE, IMAGES, 1 << 40)
    world.fail("save_snapshot", nth=2)  # the first disk's image is made, the second's is not
    await simulation.engine.ask(result.migration, "rescue")
    half = await (await simulation.engine.resume(result.migration)).wait()
    assert half.state == "stuck"
    assert stored(simulation, SOURCE) == ["vda", "vdb"]
    await simulation.engine.ask(result.migration, "rescue")
    ended = await (await simulation.engine.resume(result.migration)).wait()
    assert ended.state == "rolled-back"
    rescued = sorted(path for path in world.files(SOURCE) if "rescued" in path)
    base = f"{IMAGES}/web-vda.qcow2.rescued-theirs"
    assert rescued == [base, f"{base}.2", f"{IMAGES}/web-vdb.qcow2.rescued-theirs"]


async def test_nothing_to_rescue() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.resize(SOURCE, uuid, "vda", 7 << 20))
    result = await simulation.migrate()
    await simulation.engine.ask(result.migration, "rescue")
    ended = await (await simulation.engine.resume(result.migration)).wait()
    assert ended.state == "stuck"
    assert "no overlay holds a snapshot" in ended.cause


async def test_a_disk_that_grows_during_the_copy_arrives_grown() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.resize(SOURCE, uuid, "vda", 12 << 20))
    result = await simulation.migrate()
    assert result.state == "committed", result
    await check_end(simulation, result)
    host = await world.connect(DESTINATION)
    sizes = [await host.storage.stat(f"{IMAGES}/web-{target}.qcow2") for target in ("vda", "vdb")]
    assert [facts.capacity_bytes for facts in sizes if facts] == [12 << 20, 8 << 20]


async def test_a_disk_that_grows_is_rolled_back_grown() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.resize(SOURCE, uuid, "vda", 12 << 20))
    world.fail("migrate", times=None)
    result = await simulation.migrate()
    assert result.state == "rolled-back", result
    await check_end(simulation, result)


async def test_a_disk_that_shrinks_is_stuck_until_it_has_its_size_again() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.resize(SOURCE, uuid, "vda", 7 << 20))
    result = await simulation.migrate()
    assert result.state == "stuck"
    assert "vda" in result.cause
    assert "blockresize" in result.remedy
    assert committed(simulation) == []
    world.resize(SOURCE, uuid, "vda", 8 << 20)
    ended = await again(simulation, result)
    assert ended.state == "rolled-back"
    await check_end(simulation, ended)


async def test_a_base_that_is_written_to_while_it_is_copied_is_no_copy() -> None:
    simulation = await simulate()
    world = simulation.world

    def write() -> None:
        with world.changing() as state:
            files.write(state, state.hosts[SOURCE], f"{IMAGES}/web-vda.qcow2", 40 << 20, b"x")

    world.at("open_channel", write, host=SOURCE, nth=3)
    result = await simulation.migrate()
    assert result.state == "rolled-back"
    assert "written to while it was copied" in result.cause


async def test_an_overlay_file_that_holds_a_snapshot_is_never_removed() -> None:
    """Somebody commits the overlay himself: the snapshot in it is in nobody's way, and is left."""
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", take(simulation, SOURCE))
    result = await simulation.migrate()
    assert result.state == "stuck"
    with world.changing() as state:
        host = state.hosts[SOURCE]
        instance = host.domains[uuid].instance
        assert instance is not None
        for target, disk in instance.disks.items():
            disk.layers = disk.layers[1:]
            commit.follow(host.domains[uuid], target, disk.layers[0])
    ended = await again(simulation, result)
    assert ended.state == "rolled-back"
    assert len(ended.left_behind) == 2
    assert all("theirs" in left for left in ended.left_behind)
    assert len([path for path in world.files(SOURCE) if ".fsm-" in path]) == 2


async def test_an_overlay_file_whose_snapshots_nobody_can_tell_is_never_removed() -> None:
    simulation = await simulate()
    world = simulation.world
    spoilt: list[str] = []

    def spoil() -> None:
        spoilt.append(next(path for path in world.files(SOURCE) if ".fsm-" in path))
        with world.changing() as state:
            files.write(state, state.hosts[SOURCE], spoilt[0], 0, MAGIC + b"\xff" * 100)

    world.at("pivot", spoil)
    result = await simulation.migrate(merge=MergeChoice.COMMIT)
    assert result.state == "committed"
    (left,) = result.left_behind
    assert spoilt[0] in left
    assert "whatever snapshots it holds" in left
    assert [path for path in world.files(SOURCE) if ".fsm-" in path] == spoilt


async def test_management_sees_the_domain_as_its_user_defined_it() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    host = await world.connect(SOURCE)
    before = await host.persistent_xml(uuid)
    world.at("make_durable", take(simulation, SOURCE))
    result = await simulation.migrate()
    assert result.state == "stuck"
    shown = await host.persistent_xml(uuid)
    assert ".fsm-" in shown
    for domain in ("web", uuid):
        effective = await simulation.engine.effective_xml(domain, SOURCE)
        assert canonical(effective) == canonical(before)
    recorded = fold("planned", simulation.journal.records(result.migration)).bases.persistent_xml
    plan = simulation.engine.guard.plan_of(uuid)
    assert canonical(as_defined(recorded, plan)) == canonical(before)


async def test_a_domain_without_a_migration_is_shown_as_it_is() -> None:
    simulation = await simulate()
    before = await (await simulation.world.connect(SOURCE)).persistent_xml(simulation.uuid)
    assert canonical(await simulation.engine.effective_xml("web", SOURCE)) == canonical(before)
    with pytest.raises(NotFound):
        await simulation.engine.effective_xml("nobody", SOURCE)


def canonical(xml: str) -> bytes:
    root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
    return etree.tostring(root, method="c14n")
