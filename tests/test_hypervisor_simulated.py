"""What the simulated hypervisor has besides the port: time, guests and copies of itself.

That it behaves like libvirt is what the contract tests show.
"""

from __future__ import annotations

import asyncio
import copy
import time

import pytest

from fsm.errors import HostError, NotFound
from fsm.hypervisor.domain_xml import with_disk_sources
from fsm.hypervisor.simulated import Denied, GuestStopped, Moment, Pace, SimulatedDisk, SimulatedWorld, key
from fsm.hypervisor.values import MigrationRequest, Overlay
from fsm.images.tables import compare_tables
from fsm.machine.observation import DomainState
from tests.simulated_hosts import IMAGES, A, B, commit, facts_of, overlay_at, prepare, two_hosts


@pytest.fixture
def world() -> SimulatedWorld:
    return two_hosts()


# Guests and images


async def test_a_whole_migration_keeps_writes_and_snapshots(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web", snapshots={"s1": None, "s2": "s1", "s3": "s1"})
    before = world.snapshot_contents(A, uuid)
    assert len({tuple(blocks.items()) for blocks in before.values()}) == 3, "each holds something else"
    overlay, request = await prepare(world, uuid)
    world.guest_write(uuid, "vda", 7, b"into the overlay")
    world.at_moment(uuid, Moment.MIRROR, lambda: world.guest_write(uuid, "vda", 8, b"behind the copy"))
    world.at_moment(uuid, Moment.MEMORY, lambda: world.guest_write(uuid, "vda", 7, b"to both sides"))
    await (await world.connect(A)).migrate(uuid, request)
    world.at_moment(uuid, Moment.COMMIT, lambda: world.guest_write(uuid, "vda", 9, b"while it is committed"))
    world.at_moment(uuid, Moment.COMMIT_READY, lambda: world.guest_write(uuid, "vda", 8, b"while ready"))
    host = await world.connect(B)
    await commit(host, uuid, overlay)
    await host.storage.remove(overlay.path)
    assert world.running_at(uuid) == [B]
    assert world.lost_writes(uuid) == []
    assert world.guest_read(uuid, "vda", 7) == b"to both sides"
    assert world.snapshot_contents(B, uuid) == before


async def test_a_lost_write_is_found(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    overlay, request = await prepare(world, uuid)
    world.guest_write(uuid, "vda", 7, b"into the overlay")
    request = MigrationRequest(B, request.destination_xml, request.persistent_xml, ())  # mirrors nothing
    await (await world.connect(A)).migrate(uuid, request)
    (lost,) = world.lost_writes(uuid)
    assert (lost.target, lost.block, lost.expected, lost.found) == ("vda", 7, b"into the overlay", b"")
    assert overlay.path in world.files(B)


async def test_the_images_are_qcow2_for_whoever_reads_their_tables(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web", snapshots={"s1": None, "with <odd> & 'signs'": "s1"})
    overlay, _ = await prepare(world, uuid)
    await compare_tables(await world.connect(A), await world.connect(B), overlay.base, "qcow2")
    assert world.file_bytes(A, overlay.base) == world.file_bytes(B, overlay.base)
    assert world.data_extents(A, overlay.base) == world.data_extents(B, overlay.base)


async def test_reverting_brings_back_what_a_snapshot_holds(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web", snapshots={"s1": None})
    world.guest_write(uuid, "vda", 0, b"new")
    world.guest_write(uuid, "vda", 50, b"new")
    world.revert(A, uuid, "s1")
    assert world.guest_read(uuid, "vda", 0) == b"vda:0"
    assert world.guest_read(uuid, "vda", 50) == b""


async def test_a_snapshot_on_the_overlay_vanishes_with_it(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web", snapshots={"s1": None})
    overlay = await overlay_at(world, A, uuid)
    world.take_snapshot(A, uuid, "foreign")
    assert ("vda", "foreign") in world.snapshot_contents(A, uuid)
    await commit(await world.connect(A), uuid, overlay)
    assert ("vda", "foreign") not in world.snapshot_contents(A, uuid)
    with pytest.raises(Denied, match="does not exist"):
        world.revert(A, uuid, "foreign")


async def test_a_guest_that_finds_no_space_is_paused_and_was_not_acknowledged(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    host = await world.connect(A)
    world.set_free_bytes(A, IMAGES, 4096)
    world.guest_write(uuid, "vda", 100, b"the last page")
    with pytest.raises(GuestStopped):
        world.guest_write(uuid, "vda", 101, b"too much")
    facts = await facts_of(host, uuid)
    assert (facts.state, facts.reason) == (DomainState.PAUSED, "io-error")
    assert facts.disk_errors == (("vda", "no-space"),)
    world.set_free_bytes(A, IMAGES, 1 << 20)
    await host.resume(uuid)
    world.guest_write(uuid, "vda", 101, b"now")
    assert world.lost_writes(uuid) == []
    assert (await facts_of(host, uuid)).disk_errors == ()


async def test_a_foreign_layer_shows_in_the_chain(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    overlay = await overlay_at(world, A, uuid)
    world.add_layer(A, uuid, "vda", f"{IMAGES}/foreign")
    facts = await facts_of(await world.connect(A), uuid)
    assert facts.disks[0].chain == (f"{IMAGES}/foreign", overlay.path, overlay.base)
    with pytest.raises(HostError, match="chain"):
        await (await world.connect(A)).start_commit(uuid, overlay)


async def test_a_base_on_shared_storage_can_be_read_but_not_mirrored_into(world: SimulatedWorld) -> None:
    world.add_filesystem(A, B, mount="/shared", size_bytes=1 << 30)
    uuid = world.add_domain(A, "web", [SimulatedDisk("vda", path="/shared/base.qcow2")])
    source, destination = await world.connect(A), await world.connect(B)
    overlay = Overlay("vda", f"{IMAGES}/local", "/shared/base.qcow2", "qcow2")
    await source.create_overlays(uuid, [overlay])
    await destination.storage.create_overlay(overlay, 8 << 20)
    live, defined = await source.domain_xml(uuid), await source.persistent_xml(uuid)
    into_base = {"vda": ("/shared/base.qcow2", "qcow2")}
    mirror = MigrationRequest(
        B, with_disk_sources(live, into_base), with_disk_sources(defined, into_base), ("vda",)
    )
    with pytest.raises(HostError, match="lock"):
        await source.migrate(uuid, mirror)
    world.guest_write(uuid, "vda", 3, b"in the overlay")
    await source.migrate(uuid, MigrationRequest(B, live, defined, ("vda",)))
    await commit(destination, uuid, overlay)
    assert world.lost_writes(uuid) == []


# Time


async def test_manual_pace_waits_for_ticks(world: SimulatedWorld) -> None:
    world.pace = Pace.MANUAL
    uuid = world.add_domain(A, "web")
    host = await world.connect(A)
    overlay = await overlay_at(world, A, uuid)
    watch = host.watch(uuid)
    await host.start_commit(uuid, overlay)
    assert await watch.changed(1)
    for _ in range(20):
        assert not (await facts_of(host, uuid)).disks[0].block_job.ready  # type: ignore[union-attr]
    assert not await watch.changed(0.01)
    waiting = asyncio.create_task(watch.changed(10))
    await asyncio.sleep(0)
    world.tick(5)
    assert await waiting
    assert (await facts_of(host, uuid)).disks[0].block_job.ready  # type: ignore[union-attr]


async def test_a_quiet_wait_costs_simulated_time_only(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    watch = (await world.connect(A)).watch(uuid)
    began = time.monotonic()
    await asyncio.gather(*(world.clock.sleep(3600) for _ in range(10)))
    assert world.clock.monotonic_s() == 3600, "side by side"
    assert not await watch.changed(3600)
    assert not await world.clock.wait(asyncio.Event(), 3600)
    assert world.clock.monotonic_s() == 3 * 3600
    assert time.monotonic() - began < 1


async def test_a_watch_hears_nothing_from_a_host_that_is_cut_off_until_it_is_back(
    world: SimulatedWorld,
) -> None:
    uuid = world.add_domain(A, "web")
    watch = (await world.connect(A)).watch(uuid)
    world.disconnect(A)
    world.power_off_guest(uuid)
    assert not await watch.changed(1)
    world.reconnect(A)
    assert await watch.changed(1)


async def test_a_thousand_migrations_at_once(world: SimulatedWorld) -> None:
    uuids = [world.add_domain(A, f"d{number}") for number in range(1000)]
    host = await world.connect(A)

    async def migrate(uuid: str) -> None:
        overlay = await overlay_at(world, A, uuid)
        destination = await world.connect(B)
        facts = await host.storage.stat(overlay.base)
        assert facts is not None
        await destination.storage.create_sparse(overlay.base, facts.size_bytes)
        channel, other = world.open_channel(A), world.open_channel(B)
        channel.read(overlay.base, 0, facts.size_bytes, other.writer(overlay.base))
        await destination.storage.create_overlay(overlay, facts.capacity_bytes)
        world.guest_write(uuid, "vda", 9)
        live, defined = await host.domain_xml(uuid), await host.persistent_xml(uuid)
        await host.migrate(uuid, MigrationRequest(B, live, defined, ("vda",)))
        await commit(destination, uuid, overlay)

    began = time.process_time()
    await asyncio.gather(*map(migrate, uuids))
    assert time.process_time() - began < 30
    assert all(world.running_at(uuid) == [B] and not world.lost_writes(uuid) for uuid in uuids[::100])


# Copies


async def test_a_world_can_be_copied_and_both_go_on(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web", snapshots={"s1": None})
    overlay = await overlay_at(world, A, uuid)
    await (await world.connect(A)).start_commit(uuid, overlay)
    other = SimulatedWorld(state=copy.deepcopy(world.state))
    assert key(other.state) == key(world.state)
    assert hash(key(other.state)) == hash(key(world.state))
    world.tick()
    assert key(other.state) != key(world.state)
    other.tick()
    assert key(other.state) == key(world.state)
    world.guest_write(uuid, "vda", 1, b"only here")
    assert other.guest_read(uuid, "vda", 1) == b"vda:1"


async def test_equal_worlds_have_equal_keys_whatever_was_looked_at(world: SimulatedWorld) -> None:
    uuid = world.add_domain(A, "web")
    before = key(world.state)
    host = await world.connect(A)
    world.pause(A, uuid)
    assert key(world.state) != before
    world.resume(A, uuid)
    assert world.running_at(uuid) == [A]
    with pytest.raises(NotFound):
        await host.resolve("nobody")
