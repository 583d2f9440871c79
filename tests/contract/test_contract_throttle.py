"""Throttling a guest's writes, at rest and while a migration or a block commit is under way."""

from __future__ import annotations

import pytest

from fsm.errors import HostError
from fsm.machine.observation import Job
from tests.contract.contract_rig import (
    KIB,
    MIB,
    Rig,
    RigDisk,
    assert_back,
    committed,
    facts_of,
    prepare,
    put_overlay,
)

NOBODY = "8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11"


async def test_one_disk_is_throttled_and_let_go(rig: Rig) -> None:
    uuid = rig.domain("it's <web> & more", (RigDisk("vda"), RigDisk("vdb")))
    host = await rig.host(rig.source)
    before = await host.domain_xml(uuid), await host.persistent_xml(uuid)
    await host.throttle_writes(uuid, "vdb", 2 * MIB)
    assert [rig.write_limit(rig.source, uuid, target) for target in ("vda", "vdb")] == [0, 2 * MIB]
    await host.throttle_writes(uuid, "vdb", MIB, 16)
    assert rig.write_limit(rig.source, uuid, "vdb") == MIB
    assert (await host.domain_xml(uuid), await host.persistent_xml(uuid)) == before
    for _ in range(2):
        await host.lift_throttle(uuid, "vdb")
        assert rig.write_limit(rig.source, uuid, "vdb") == 0
    assert (await host.domain_xml(uuid), await host.persistent_xml(uuid)) == before


async def test_what_does_not_run_is_not_throttled(rig: Rig) -> None:
    off = rig.domain("off", running=False)
    host = await rig.host(rig.source)
    for uuid in (NOBODY, off):
        await host.lift_throttle(uuid, "vda")
        await host.allow_downtime(uuid, 500)
        with pytest.raises(HostError):
            await host.throttle_writes(uuid, "vda", MIB)
    uuid = rig.domain("web")
    with pytest.raises(HostError):
        await host.throttle_writes(uuid, "vdz", MIB)


async def test_a_throttle_holds_while_a_migration_is_under_way_and_stays_behind(rig: Rig) -> None:
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    task = await prepared.begin(4)
    await prepared.source.throttle_writes(uuid, "vda", 64 * KIB, 1)
    assert rig.write_limit(rig.source, uuid, "vda") == 64 * KIB
    await prepared.source.allow_downtime(uuid, 400)
    assert (await facts_of(prepared.source, uuid)).job is Job.MIGRATION_OUT
    await task
    assert rig.write_limit(rig.destination, uuid, "vda") == 0
    assert rig.holds(rig.destination, uuid, "vda", 0, 8 * MIB, 0x22)


async def test_a_throttle_outlives_a_failed_migration(rig: Rig) -> None:
    uuid = rig.domain("web")
    prepared = await prepare(rig, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    task = await prepared.begin(4)
    await prepared.source.throttle_writes(uuid, "vda", 64 * KIB, 1)
    await prepared.source.abort_job(uuid)
    with pytest.raises(HostError):
        await task
    await assert_back(prepared)
    assert rig.write_limit(rig.source, uuid, "vda") == 64 * KIB
    await prepared.source.lift_throttle(uuid, "vda")
    assert rig.write_limit(rig.source, uuid, "vda") == 0


async def test_a_throttle_holds_while_a_commit_is_under_way_and_behind_it(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x22)
    await host.start_commit(uuid, overlay, 1)
    await host.throttle_writes(uuid, "vda", 64 * KIB, 1)
    assert rig.write_limit(rig.source, uuid, "vda") == 64 * KIB
    await host.cancel_block_job(uuid, "vda")
    await committed(host, uuid, overlay)
    assert rig.write_limit(rig.source, uuid, "vda") == 64 * KIB
    await host.lift_throttle(uuid, "vda")
    assert rig.write_limit(rig.source, uuid, "vda") == 0
