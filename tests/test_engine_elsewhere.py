"""Copies that have other paths at the destination than their originals at the source, on simulated hosts."""

from __future__ import annotations

from typing import Any

import pytest
from lxml import etree

from fsm.engine.plan import MergeChoice, Plan, Request, StorageChoice, Verify
from fsm.engine.space import MARGIN_LEAST_BYTES, MIB
from fsm.errors import BadInput
from fsm.hypervisor.simulated import Moment
from fsm.hypervisor.simulated.state import active
from fsm.hypervisor.values import Overlay
from fsm.journal.records import converter
from fsm.machine.observation import DomainState
from tests.lives import AFTER, Life, Point
from tests.simulation import (
    DESTINATION,
    IMAGES,
    ON_SHARED,
    PLACED,
    SHARED,
    SOURCE,
    Simulation,
    check_end,
    simulate,
)
from tests.test_engine_space import BLOCKS, WRITTEN_BYTES, fill, let_time_pass

COPIES = {"/srv/first.qcow2", f"{IMAGES}/web-vda.qcow2"}
WAYS = [
    pytest.param(DomainState.RUNNING, MergeChoice.COMMIT, id="commit"),
    pytest.param(DomainState.RUNNING, MergeChoice.MIRROR, id="mirror"),
    pytest.param(DomainState.SHUT_OFF, MergeChoice.AUTO, id="shut-off"),
]


def at_destination(simulation: Simulation) -> set[str]:
    return set(simulation.world.files(DESTINATION)) - set(simulation.before.files[DESTINATION])


@pytest.mark.parametrize(("state", "merge"), WAYS)
async def test_copies_lie_where_they_are_mapped_to(state: DomainState, merge: MergeChoice) -> None:
    simulation = await simulate(state=state)
    result = await simulation.migrate(merge=merge, disk_map=PLACED, verify=Verify.FULL)
    assert (result.state, result.cause) == ("committed", "")
    assert at_destination(simulation) == COPIES
    assert simulation.planned.get("placed") == dict(entry.split("=") for entry in PLACED)
    await check_end(simulation, result)


@pytest.mark.parametrize("merge", [MergeChoice.COMMIT, MergeChoice.MIRROR])
@pytest.mark.parametrize("moment", Moment)
async def test_a_failed_one_leaves_nothing_there(moment: Moment, merge: MergeChoice) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(merge=merge, disk_map=PLACED)
    await check_end(simulation, result)


async def test_a_copy_that_was_interrupted_goes_on_where_it_is_mapped_to() -> None:
    simulation = await simulate()

    def die(life: Life, point: Point) -> None:
        if (point.moment, point.name) == (AFTER["outcome"], "action complete-marker"):
            life.kill()

    await Life(simulation, die).run(None, disk_map=PLACED)
    (header,) = simulation.journal.headers()
    result = await Life(simulation).run(header.migration)
    assert result is not None
    assert result.state == "committed"
    assert at_destination(simulation) == COPIES
    await check_end(simulation, result)


async def test_one_that_is_stuck_there_is_explained_and_shown_as_its_user_would_have_it() -> None:
    simulation = await simulate()
    world = simulation.world
    world.at("start_commit", lambda: world.set_free_bytes(DESTINATION, IMAGES, 0), host=DESTINATION)
    result = await simulation.migrate(disk_map=PLACED)
    assert result.state == "stuck"
    assert "has 0 MiB free" in result.cause
    effective = await simulation.engine.effective_xml("web", DESTINATION)
    wanted = simulation.described_at(DESTINATION, simulation.before.definition)
    assert canonical(effective) == canonical(wanted)
    world.set_free_bytes(DESTINATION, IMAGES, 1 << 40)
    await simulation.engine.ask(result.migration, "retry")
    result = await (await simulation.engine.resume(result.migration)).wait()
    assert result.state == "committed"
    await check_end(simulation, result)


def canonical(xml: str) -> bytes:
    root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
    return etree.tostring(root, method="c14n")


async def pooled(simulation: Simulation, **request: object) -> Any:
    """Migrate to a host that has a pool of the name "elsewhere"."""
    simulation.world.add_directory(DESTINATION, "/srv/elsewhere")
    simulation.world.add_pool(DESTINATION, "/srv/elsewhere")
    simulation.before.pools[DESTINATION] = simulation.world.pools(DESTINATION)
    return await simulation.migrate(**request)


async def test_all_go_into_a_pool_but_for_what_is_mapped() -> None:
    simulation = await simulate()
    result = await pooled(simulation, pool="elsewhere", disk_map=("vdb=/srv/b",))
    assert result.state == "committed"
    assert at_destination(simulation) == {"/srv/elsewhere/web-vda.qcow2", "/srv/b"}


async def test_a_volume_is_named_by_its_pool() -> None:
    simulation = await simulate()
    result = await pooled(simulation, disk_map=("vda=elsewhere/renamed",))
    assert result.state == "committed"
    assert at_destination(simulation) == {"/srv/elsewhere/renamed", f"{IMAGES}/web-vdb.qcow2"}


async def test_what_both_hosts_share_stays_out_of_the_pool_unless_it_is_mapped() -> None:
    simulation = await simulate(ON_SHARED)
    result = await pooled(
        simulation, pool="elsewhere", disk_map=("vda=/srv/a",), storage=StorageChoice.SHARED
    )
    assert result.state == "committed"
    assert simulation.planned.get("shared") == ["vdb"]
    assert at_destination(simulation) == {"/srv/a"}
    assert f"{SHARED}/web-vda.qcow2" in simulation.world.files(SOURCE)


async def test_a_disk_that_is_mapped_to_where_it_is_is_not_moved() -> None:
    simulation = await simulate()
    result = await simulation.migrate(disk_map=(f"vda={IMAGES}/web-vda.qcow2",))
    assert (result.state, simulation.planned.get("placed")) == ("committed", None)
    await check_end(simulation, result)


@pytest.mark.parametrize(
    ("request_", "check", "words"),
    [
        ({"disk_map": ("vdx=/srv/x",)}, "no-such-disk", "does not exist"),
        ({"disk_map": ("vdb=/srv/x",), "exclude_disks": ("vdb",)}, "no-such-disk", "is not copied"),
        ({"disk_map": ("vda=/srv/x", "vdb=/srv/x")}, "path-taken", "vda and vdb"),
        ({"disk_map": (f"vda={IMAGES}/web-vdb.qcow2",)}, "path-taken", "vda and vdb"),
        ({"disk_map": ("vda=/srv/there",)}, "path-taken", "/srv/there"),
        ({"disk_map": ("vda=/srv/no/such/x",)}, "directory-missing", "/srv/no/such"),
        ({"disk_map": ("vda=nowhere/x",)}, "pool", "nowhere"),
        ({"pool": "nowhere"}, "pool", "nowhere"),
    ],
)
async def test_preflight_refuses(request_: dict[str, Any], check: str, words: str) -> None:
    simulation = await simulate()
    simulation.world.put_file(DESTINATION, "/srv/there", b"somebody's")
    before = simulation.world.files(DESTINATION)
    result = await simulation.migrate(**request_)
    assert result.state == "refused"
    found = [finding for finding in result.findings if finding.check == check]
    assert any(words in finding.message for finding in found), result.findings
    assert simulation.world.files(DESTINATION) == before


async def test_space_is_demanded_where_the_copies_will_lie() -> None:
    simulation = await simulate()
    simulation.world.add_filesystem(DESTINATION, mount="/small", size_bytes=1 << 20)
    result = await simulation.migrate(disk_map=("vda=/small/x",))
    assert [(one.check, "/small" in one.message) for one in result.findings] == [("space", True)]


SMALL = "/small"
ON_SMALL = (f"vda={SMALL}/a", f"vdb={SMALL}/b")


async def test_the_file_system_of_the_copies_is_watched() -> None:
    """It could take the overlays, but not their commit as well."""
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.add_filesystem(DESTINATION, mount=SMALL, size_bytes=1 << 40)
    free_bytes = MARGIN_LEAST_BYTES + 2 * MIB + WRITTEN_BYTES
    world.at("create_overlays", lambda: world.set_free_bytes(DESTINATION, SMALL, free_bytes), when="after")

    def happen() -> None:
        let_time_pass(simulation)
        fill(simulation)

    world.at_moment(uuid, Moment.MIRROR, happen)
    result = await simulation.migrate(bandwidth_mib_per_s=1, disk_map=ON_SMALL)
    assert result.state == "rolled-back"
    assert f"{DESTINATION}: {SMALL} would be full before the end" in result.cause
    await check_end(simulation, result)


async def test_a_commit_that_would_fill_the_file_system_of_the_copies_is_cancelled() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.add_filesystem(DESTINATION, mount=SMALL, size_bytes=1 << 40)

    def tighten() -> None:
        _, instance = active(world.state.hosts[DESTINATION], uuid)
        for disk in instance.disks.values():
            if disk.commit is not None:
                disk.commit.step_blocks = 1
        world.set_free_bytes(DESTINATION, SMALL, len(BLOCKS) * 4096)

    world.at("make_durable", lambda: fill(simulation))
    world.at("start_commit", tighten, host=DESTINATION, when="after", nth=2)
    result = await simulation.migrate(disk_map=ON_SMALL)
    assert result.state == "stuck"
    assert "cancel_block_job" in [call.name for call in world.calls]
    assert result.remedy.startswith(f"free space in {SMALL} on {DESTINATION}")
    world.set_free_bytes(DESTINATION, SMALL, 1 << 40)
    await simulation.engine.ask(result.migration, "retry")
    result = await (await simulation.engine.resume(result.migration)).wait()
    assert result.state == "committed"
    await check_end(simulation, result)


async def test_a_disk_that_no_longer_fits_its_copy_is_found() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    shrink = lambda: world.resize(DESTINATION, uuid, "vda", 7 << 20)  # noqa: E731
    world.at("migrate", shrink, when="after")
    result = await simulation.migrate(disk_map=PLACED)
    assert result.state == "stuck"
    assert "disk vda was resized" in result.cause
    assert "start_commit" not in [call.name for call in world.calls]
    world.resize(DESTINATION, uuid, "vda", 8 << 20)
    await simulation.engine.ask(result.migration, "retry")
    result = await (await simulation.engine.resume(result.migration)).wait()
    assert result.state == "committed"
    await check_end(simulation, result)


async def test_a_guest_that_found_no_space_for_its_copy_goes_on_when_there_is_some() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.add_filesystem(DESTINATION, mount=SMALL, size_bytes=1 << 40)

    def fill_up() -> None:
        world.set_free_bytes(DESTINATION, SMALL, 0)
        simulation.write()

    world.at("start_commit", fill_up, host=DESTINATION)
    result = await simulation.migrate(disk_map=ON_SMALL)
    assert (result.state, world.running_at(uuid)) == ("stuck", [])
    # There was room all the time in the directories that the originals lie in.
    await simulation.engine.ask(result.migration, "retry")
    result = await (await simulation.engine.resume(result.migration)).wait()
    assert (result.state, world.running_at(uuid)) == ("stuck", [])
    world.set_free_bytes(DESTINATION, SMALL, 1 << 40)
    await simulation.engine.ask(result.migration, "retry")
    result = await (await simulation.engine.resume(result.migration)).wait()
    assert (result.state, world.running_at(uuid)) == ("committed", [DESTINATION])
    await check_end(simulation, result)


@pytest.mark.parametrize(
    "disk_map",
    [
        *(("vda",), ("vda=",), ("=/srv/x",), ("vda=x",), ("vda=pool/",), ("vda=pool/a/b",), ("vda=/",)),
        *(("vda=/srv/../x",), ("vda=//srv/x",), ("vda=/srv/x/",), ("vda=/srv/a\nb",), ("vda=/dev/sdb",)),
        ("vda=/srv/x", "vda=/srv/y"),
    ],
)
async def test_what_is_no_place_is_bad_input(disk_map: tuple[str, ...]) -> None:
    simulation = await simulate()
    with pytest.raises(BadInput, match="--disk-map"):
        await simulation.start(disk_map=disk_map)


def test_a_plan_from_before_there_were_other_paths_can_be_read() -> None:
    overlay = {"target": "vda", "path": "/i/a.fsm-1", "base": "/i/a", "base_format": "qcow2", "shared": False}
    old = {"domain_uuid": "u", "domain_name": "web", "overlays": [overlay]}
    plan = converter.structure(old, Plan)
    assert (plan.moved, plan.destination_name, plan.overlays[0].arrived) == ({}, "", plan.overlays[0])
    converter.structure({"domain": "web", "destination_uri": "sim://b"}, Request)


def test_an_overlay_arrives_beside_its_copy() -> None:
    overlay = Overlay("vda", "/i/a.fsm-1", "/i/a", "qcow2", destination_base="/o/b")
    assert overlay.arrived == Overlay("vda", "/o/b.fsm-1", "/o/b", "qcow2")
    assert overlay.arrived.arrived == overlay.arrived
    assert overlay.files == ("/i/a", "/i/a.fsm-1", "/o/b", "/o/b.fsm-1")
