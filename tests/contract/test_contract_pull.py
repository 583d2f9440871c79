"""Block pulls: what is below a disk's active layer comes into it, and nobody has to wait for that."""

from __future__ import annotations

import pytest

from fsm.errors import HostError, NotFound
from fsm.hypervisor import domain_xml
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DomainFacts
from tests.contract.contract_rig import KIB, MIB, Rig, disk_of, facts_of, put_overlay, until

NOBODY = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"


# What an image that is in use shows to others is complete only behind a flush, which each write brings.
FLUSHING = (12 * MIB, 64 * KIB, 0x55)


async def alone(host: Host, uuid: str, image: str) -> None:
    """Wait until the disk stands on one image."""

    def over(facts: DomainFacts) -> bool:
        disk = disk_of(facts, "vda")
        return disk.block_job is None and disk.chain == (image,)

    await until(lambda: facts_of(host, uuid), over)


async def test_behind_a_pull_a_disk_stands_on_its_image_alone(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    rig.write(rig.source, uuid, "vda", 0, MIB, 0x11)
    middle = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 64 * KIB, 64 * KIB, 0x22)
    top = await put_overlay(host, uuid)
    rig.write(rig.source, uuid, "vda", 128 * KIB, 64 * KIB, 0x33)
    below = [rig.file_bytes(rig.source, path) for path in (middle.base, middle.path)]
    await host.start_pull(uuid, "vda", top.path)
    await host.start_pull(uuid, "vda", top.path)  # it runs already, or is over
    rig.write(rig.source, uuid, "vda", 192 * KIB, 64 * KIB, 0x44)
    await alone(host, uuid, top.path)
    rig.write(rig.source, uuid, "vda", *FLUSHING)
    await host.start_pull(uuid, "vda", top.path)  # there is nothing below it
    assert disk_of(await facts_of(host, uuid), "vda").block_job is None
    for number, pattern in enumerate((0x11, 0x22, 0x33, 0x44)):
        assert rig.holds(rig.source, uuid, "vda", number * 64 * KIB, 64 * KIB, pattern)
    assert rig.holds(rig.source, uuid, "vda", 256 * KIB, 768 * KIB, 0x11)
    assert [rig.file_bytes(rig.source, path) for path in (middle.base, middle.path)] == below
    found = await host.storage.stat(top.path)
    assert found is not None
    assert found.backing is None
    assert domain_xml.disks(await host.persistent_xml(uuid))[0].source == top.path


async def test_the_job_is_seen_and_stands_against_other_jobs_until_it_is_cancelled(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    rig.write(rig.source, uuid, "vda", 0, 8 * MIB, 0x11)
    overlay = await put_overlay(host, uuid)
    await host.start_commit(uuid, overlay, 1)
    with pytest.raises(HostError):  # one job at a time
        await host.start_pull(uuid, "vda", overlay.path)
    await host.cancel_block_job(uuid, "vda")
    await until(lambda: facts_of(host, uuid), lambda facts: disk_of(facts, "vda").block_job is None)
    await host.start_pull(uuid, "vda", overlay.path)
    job = disk_of(await facts_of(host, uuid), "vda").block_job
    assert job is None or job.kind == "pull"  # it may be over
    await host.cancel_block_job(uuid, "vda")
    await until(lambda: facts_of(host, uuid), lambda facts: disk_of(facts, "vda").block_job is None)
    rig.write(rig.source, uuid, "vda", *FLUSHING)
    assert rig.holds(rig.source, uuid, "vda", 0, 8 * MIB, 0x11)
    await host.start_pull(uuid, "vda", overlay.path)
    await alone(host, uuid, overlay.path)
    rig.write(rig.source, uuid, "vda", *FLUSHING)
    assert rig.holds(rig.source, uuid, "vda", 0, 8 * MIB, 0x11)


async def test_what_is_not_there_is_not_pulled_into(rig: Rig) -> None:
    uuid = rig.domain("web")
    host = await rig.host(rig.source)
    overlay = await put_overlay(host, uuid)
    with pytest.raises(HostError, match="stands on"):
        await host.start_pull(uuid, "vda", overlay.base)
    with pytest.raises(NotFound):
        await host.start_pull(uuid, "vdz", overlay.path)
    with pytest.raises(NotFound):
        await host.start_pull(NOBODY, "vda", overlay.path)
    await host.destroy(uuid)
    with pytest.raises(HostError):
        await host.start_pull(uuid, "vda", overlay.path)
