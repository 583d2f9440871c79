"""Live migration of a domain on overlays, and libvirt's refusals."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve

from fsm.errors import HostError, NotFound
from fsm.hypervisor import domain_xml
from fsm.hypervisor.values import Tuning, Wiring
from fsm.machine.observation import DomainState, Job
from tests.contract.contract_rig import (
    KIB,
    MIB,
    Prepared,
    Rig,
    RigDisk,
    assert_back,
    committed,
    disk_of,
    facts_of,
    prepare,
    until,
)

NOBODY = "8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11"


@pytest.mark.parametrize("merge", ["commit", "mirror"])
async def test_a_domain_may_have_another_name_there(rig: Rig, merge: str) -> None:
    """Its process and its definition; the descriptions that are handed over have the name that it had."""
    uuid, name = rig.domain("web"), "m & <il> 'é'"
    prepared = await prepare(rig, uuid, destination_overlays=merge == "commit")
    request = await prepared.request(merge=merge, destination_name=name)
    await prepared.source.migrate(uuid, request)
    there = prepared.destination
    assert await there.resolve(name) == uuid
    with pytest.raises(NotFound):
        await there.resolve("web")
    assert (await facts_of(there, uuid)).name == name
    for xml in (await there.domain_xml(uuid), await there.persistent_xml(uuid)):
        assert domain_xml.name(xml) == name
    for overlay in prepared.overlays if merge == "commit" else ():
        await committed(there, uuid, overlay)
    assert domain_xml.name(await there.persistent_xml(uuid)) == name


async def test_a_name_that_another_domain_has_there_is_refused(rig: Rig) -> None:
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    other = domain_xml.with_name(await prepared.source.persistent_xml(uuid), "mail")
    await prepared.destination.define(other.replace(uuid, NOBODY))
    with pytest.raises(HostError):
        await prepared.source.migrate(uuid, await prepared.request(destination_name="mail"))
    await assert_back(prepared)
    assert await prepared.destination.resolve("mail") == NOBODY


async def slow(rig: Rig, bandwidth_mib_per_s: int = 4) -> tuple[Prepared, asyncio.Task[None]]:
    """A migration that has begun and that takes its time."""
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    return prepared, await prepared.begin(bandwidth_mib_per_s)


@pytest.mark.parametrize("merge", ["commit", "mirror"])
async def test_a_domain_moves_with_its_writes_and_snapshots(rig: Rig, merge: str) -> None:
    disks = (RigDisk("vda"), RigDisk("vdb"))
    uuid = rig.domain("it's <web> & more", disks, snapshots={"s1": None, "s2": "s1"})
    rig.write(rig.source, uuid, "vda", 0, 64 * KIB, 0x11)
    saved = await (await rig.host(rig.source)).snapshots(uuid)
    prepared = await prepare(rig, uuid, ("vda", "vdb"), destination_overlays=merge == "commit")
    for target in ("vda", "vdb"):
        rig.write(rig.source, uuid, target, 4 * KIB, MIB, 0x22)
    await prepared.migrate(merge=merge)
    assert await prepared.source.domain(uuid) is None
    there = prepared.destination
    facts = await facts_of(there, uuid)
    assert (facts.state, facts.reason, facts.job) == (DomainState.RUNNING, "migrated", Job.NONE)
    assert facts.persistent
    for overlay in prepared.overlays:
        if merge == "commit":
            assert disk_of(facts, overlay.target).chain == (overlay.path, overlay.base)
            await committed(there, uuid, overlay)
        assert disk_of(await facts_of(there, uuid), overlay.target).chain == (overlay.base,)
        assert rig.holds(rig.destination, uuid, overlay.target, 4 * KIB, MIB, 0x22)
        assert rig.image_snapshots(rig.destination, overlay.base) == ["s1", "s2"]
    assert rig.holds(rig.destination, uuid, "vda", 0, 4 * KIB, 0x11)
    await there.define_snapshots(uuid, saved)
    assert (await facts_of(there, uuid)).current_snapshot == "s2"
    assert [disk.source for disk in domain_xml.disks(await there.persistent_xml(uuid))] == [
        overlay.base for overlay in prepared.overlays
    ]


@pytest.mark.parametrize(
    "tuning",
    [
        Tuning(auto_converge=True, max_downtime_ms=500),
        Tuning(parallel=True, parallel_connections=3, auto_converge=True),
        Tuning(parallel=True),
        Tuning(compress=True),
        Tuning(compress=True, comp_methods=("mt", "xbzrle")),
        Tuning(auto_converge=True, auto_converge_initial=30, auto_converge_increment=20, abort_on_error=True),
        Tuning(compress=True, comp_methods=("mt",), comp_mt_level=1, comp_mt_threads=2, comp_mt_dthreads=2),
        Tuning(compress=True, comp_methods=("xbzrle",), comp_xbzrle_cache=1 << 26),
    ],
)
async def test_every_tuning_is_taken(rig: Rig, tuning: Tuning) -> None:
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    rig.write(rig.source, uuid, "vda", 0, 64 * KIB, 0x22)
    await prepared.migrate(tuning=tuning)
    assert (await facts_of(prepared.destination, uuid)).reason == "migrated"
    assert rig.holds(rig.destination, uuid, "vda", 0, 64 * KIB, 0x22)


async def test_where_it_listens_and_takes_the_disks(rig: Rig) -> None:
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    rig.write(rig.source, uuid, "vda", 0, 64 * KIB, 0x22)
    everywhere = "0.0.0.0"  # noqa: S104  # of a host that exists inside the lab alone
    await prepared.migrate(wiring=Wiring(listen_address=everywhere, disks_port=49999))
    assert (await facts_of(prepared.destination, uuid)).reason == "migrated"
    assert rig.holds(rig.destination, uuid, "vda", 0, 64 * KIB, 0x22)


async def test_connections_without_parallel_stand_against_it(rig: Rig) -> None:
    prepared = await prepare(rig, rig.domain("web"))
    with pytest.raises(HostError, match="parallel"):
        await prepared.migrate(tuning=Tuning(parallel_connections=3, max_downtime_ms=500))
    await assert_back(prepared)


async def test_a_paused_domain_arrives_paused(rig: Rig) -> None:
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    rig.pause(rig.source, uuid)
    await prepared.migrate()
    assert await prepared.source.domain(uuid) is None
    facts = await facts_of(prepared.destination, uuid)
    assert (facts.state, facts.reason) == (DomainState.PAUSED, "user")


async def test_a_raw_base_beside_a_qcow2_one(rig: Rig) -> None:
    uuid = rig.domain("web", (RigDisk("vda"), RigDisk("vdb", format="raw", capacity_mib=4)))
    rig.write(rig.source, uuid, "vdb", 0, 64 * KIB, 0x11)
    prepared = await prepare(rig, uuid, ("vda", "vdb"))
    rig.write(rig.source, uuid, "vdb", 64 * KIB, 64 * KIB, 0x22)
    await prepared.migrate()
    for overlay in prepared.overlays:
        await committed(prepared.destination, uuid, overlay)
    assert rig.holds(rig.destination, uuid, "vdb", 0, 64 * KIB, 0x11)
    assert rig.holds(rig.destination, uuid, "vdb", 64 * KIB, 64 * KIB, 0x22)
    assert rig.file_bytes(rig.destination, prepared.overlays[1].base)[:4096] == b"\x11" * 4096


async def test_writes_during_the_migration_arrive(rig: Rig) -> None:
    prepared, task = await slow(rig, 3)
    rig.write(rig.source, prepared.uuid, "vda", 0, 64 * KIB, 0x33)
    rig.write(rig.source, prepared.uuid, "vda", 12 * MIB, 64 * KIB, 0x44)
    await task
    await committed(prepared.destination, prepared.uuid, prepared.overlays[0])
    assert rig.holds(rig.destination, prepared.uuid, "vda", 0, 64 * KIB, 0x33)
    assert rig.holds(rig.destination, prepared.uuid, "vda", 64 * KIB, 7 * MIB, 0x22)
    assert rig.holds(rig.destination, prepared.uuid, "vda", 12 * MIB, 64 * KIB, 0x44)


async def test_a_running_migration_shows_on_both_sides_and_can_be_aborted(rig: Rig) -> None:
    prepared, task = await slow(rig)
    progress = await until(
        lambda: prepared.source.migration_progress(prepared.uuid),
        lambda found: found is None or found.disk_done_bytes > 0,
    )
    assert progress is not None, "it has ended already"
    assert progress.disk_done_bytes <= progress.disk_total_bytes
    there = await facts_of(prepared.destination, prepared.uuid)
    assert (there.state, there.reason, there.job) == (DomainState.PAUSED, "migration", Job.MIGRATION_IN)
    assert (await prepared.destination.migration_progress(prepared.uuid)) is not None
    await prepared.source.abort_job(prepared.uuid)
    with pytest.raises(HostError):
        await task
    await assert_back(prepared)
    assert await prepared.source.migration_progress(prepared.uuid) is None
    await prepared.source.abort_job(prepared.uuid)  # there is none any more
    assert rig.holds(rig.source, prepared.uuid, "vda", 0, 8 * MIB, 0x22)
    await prepared.migrate()  # and it can be begun again
    assert rig.holds(rig.destination, prepared.uuid, "vda", 0, 8 * MIB, 0x22)


async def test_memory_gets_another_limit_while_it_migrates(rig: Rig) -> None:
    prepared, task = await slow(rig, 1)
    source, uuid = prepared.source, prepared.uuid
    await prepared.destination.limit_memory(uuid, 1)  # it only waits there
    await source.limit_memory(uuid, 1000, 7)  # somebody has set another one
    assert rig.memory_limit(rig.source, uuid) == 1
    await source.limit_memory(uuid, 1000, 1)
    assert rig.memory_limit(rig.source, uuid) == 1000
    await source.limit_memory(uuid, 500)
    assert rig.memory_limit(rig.source, uuid) == 500
    await source.abort_job(uuid)
    with pytest.raises(HostError):
        await task
    await assert_back(prepared)
    await source.limit_memory(uuid, 1)  # no migration any more: nothing is kept for the next one
    assert rig.memory_limit(rig.source, uuid) is None


async def test_a_migration_whose_connections_are_cut_fails_at_once(rig: Rig) -> None:
    prepared, task = await slow(rig)
    progress = await until(
        lambda: prepared.source.migration_progress(prepared.uuid),
        lambda found: found is None or found.disk_done_bytes > 0,
    )
    assert progress is not None, "it has ended already"
    await prepared.source.cut_migration(prepared.uuid)
    with pytest.raises(HostError):
        await task
    await assert_back(prepared)
    await prepared.source.cut_migration(prepared.uuid)  # there is nothing to cut any more
    await prepared.source.cut_migration(NOBODY)


async def test_a_migration_goes_on_when_nobody_waits_for_it_any_more(rig: Rig) -> None:
    prepared, task = await slow(rig, 8)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def source() -> object:
        return await prepared.source.domain(prepared.uuid)

    await until(source, lambda found: found is None)
    facts = await facts_of(prepared.destination, prepared.uuid)
    assert facts.state is DomainState.RUNNING
    assert rig.holds(rig.destination, prepared.uuid, "vda", 0, 8 * MIB, 0x22)


async def test_the_source_goes_on_when_the_destination_dies(rig: Rig) -> None:
    prepared, task = await slow(rig)
    rig.kill_qemu(rig.destination, prepared.uuid)
    with pytest.raises(HostError):
        await task
    await assert_back(prepared)
    assert rig.holds(rig.source, prepared.uuid, "vda", 0, 8 * MIB, 0x22)


async def test_a_second_migration_of_the_same_domain_is_refused(rig: Rig) -> None:
    prepared, task = await slow(rig, 8)
    # The first one may have ended when libvirt answers the second; it never runs twice.
    with pytest.raises(HostError):
        await prepared.migrate()
    await task


async def test_snapshot_metadata_stands_against_it(rig: Rig) -> None:
    uuid = rig.domain("web", snapshots={"s1": None})
    source = await rig.host(rig.source)
    saved = await source.snapshots(uuid)
    prepared = await prepare(rig, uuid)
    await source.define_snapshots(uuid, saved)
    with pytest.raises(HostError, match="snapshot"):
        await prepared.migrate()
    await assert_back(prepared)
    assert (await facts_of(source, uuid)).snapshots == ("s1",)


@pytest.mark.parametrize("missing", ["path", "base"])
async def test_a_missing_file_at_the_destination_stands_against_it(rig: Rig, missing: str) -> None:
    prepared = await prepare(rig, rig.domain("web"))
    rig.remove_file(rig.destination, getattr(prepared.overlays[0], missing))
    with pytest.raises(HostError):
        await prepared.migrate()
    await assert_back(prepared)


async def test_a_running_commit_stands_against_it(rig: Rig) -> None:
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    await prepared.source.start_commit(uuid, prepared.overlays[0], 1)
    with pytest.raises(HostError):
        await prepared.migrate()
    await prepared.source.cancel_block_job(uuid, "vda")
    await until(
        lambda: facts_of(prepared.source, uuid), lambda facts: disk_of(facts, "vda").block_job is None
    )
    await assert_back(prepared)


async def test_the_domain_there_already_stands_against_it(rig: Rig) -> None:
    prepared = await prepare(rig, rig.domain("web"))
    rig.domain("web", (RigDisk("vda", path=f"{rig.images}/theirs.qcow2"),), at=rig.destination)
    request = await prepared.request()
    name_taken = evolve(request)
    with pytest.raises(HostError):
        await prepared.source.migrate(prepared.uuid, name_taken)
    facts = await facts_of(prepared.source, prepared.uuid)
    assert (facts.state, facts.job) == (DomainState.RUNNING, Job.NONE)


async def test_a_domain_does_not_migrate_to_where_it_is(rig: Rig) -> None:
    prepared = await prepare(rig, rig.domain("web"))
    request = evolve(await prepared.request(), destination_uri=rig.source)
    with pytest.raises(HostError, match="same host"):
        await prepared.source.migrate(prepared.uuid, request)
    await assert_back(prepared)


async def test_a_destination_that_is_not_there(rig: Rig) -> None:
    prepared = await prepare(rig, rig.domain("web"))
    request = evolve(await prepared.request(), destination_uri=rig.nowhere)
    with pytest.raises(HostError):
        await prepared.source.migrate(prepared.uuid, request)
    await assert_back(prepared)


async def test_a_shut_off_domain_does_not_migrate(rig: Rig) -> None:
    prepared = await prepare(rig, rig.domain("web"))
    request = await prepared.request()
    await prepared.source.destroy(prepared.uuid)
    with pytest.raises(HostError):
        await prepared.source.migrate(prepared.uuid, request)
    assert (await facts_of(prepared.source, prepared.uuid)).state is DomainState.SHUT_OFF
    assert await prepared.source.migration_progress(prepared.uuid) is None
    await prepared.source.abort_job(prepared.uuid)
    with pytest.raises(NotFound):
        await prepared.source.migrate(NOBODY, request)


async def test_a_domain_that_powers_itself_off_on_the_way_stays_at_the_source(rig: Rig) -> None:
    prepared, task = await slow(rig)
    rig.kill_qemu(rig.source, prepared.uuid)
    with pytest.raises(HostError):
        await task
    facts = await until(
        lambda: facts_of(prepared.source, prepared.uuid),
        lambda facts: facts.state is DomainState.SHUT_OFF,
    )
    assert facts.persistent

    async def there() -> object:
        return await prepared.destination.domain(prepared.uuid)

    await until(there, lambda found: found is None)
