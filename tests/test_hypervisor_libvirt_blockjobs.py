"""Overlays and block commits on a real libvirtd; the guests are paused and boot nothing."""

from __future__ import annotations

import pytest

from fsm.errors import HostError, NotFound
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Overlay
from fsm.lab import LabHost
from tests.lab_rig import NEEDS_LAB
from tests.libvirt_helpers import (
    IMAGES,
    NAME,
    define,
    digest,
    facts_of,
    image,
    overlays,
    remove,
    take,
    until_ready,
)

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.libvirt_fixtures"]


async def test_overlays_are_made_at_once_and_once(alpha: LabHost, host: Host, uuid: str) -> None:
    take(alpha, "s1")
    bases = [disk.chain for disk in (await facts_of(host, uuid)).disks]
    made = await overlays(host, uuid)
    await host.create_overlays(uuid, made)
    for _ in range(2):
        facts = await facts_of(host, uuid)
        assert [disk.chain for disk in facts.disks] == [
            (made[0].path, *bases[0]),
            (made[1].path, *bases[1]),
            *bases[2:],
        ]
        assert facts.disks[0].formats == ("qcow2", "qcow2")
        assert facts.snapshots == ("s1",)
        await host.create_overlays(uuid, made)


async def test_some_disks_have_their_overlay(host: Host, uuid: str) -> None:
    made = await overlays(host, uuid)
    await host.create_overlays(uuid, made[:1])
    with pytest.raises(HostError, match="vdb"):
        await host.create_overlays(uuid, made)
    assert len((await facts_of(host, uuid)).disks[1].chain) == 1


async def test_overlays_that_can_not_be_made(alpha: LabHost, host: Host, uuid: str) -> None:
    made = await overlays(host, uuid)
    before = [disk.chain for disk in (await facts_of(host, uuid)).disks]
    alpha.path(made[1].path).write_bytes(b"precious")
    with pytest.raises(HostError, match="exist"):
        await host.create_overlays(uuid, made)
    with pytest.raises(NotFound, match="'vdz'"):
        await host.create_overlays(uuid, [Overlay("vdz", "/x", "/y", "qcow2")])
    with pytest.raises(HostError, match="stands on"):
        await host.create_overlays(uuid, [Overlay("vda", "/x", "/y", "qcow2")])
    assert [disk.chain for disk in (await facts_of(host, uuid)).disks] == before
    assert alpha.path(made[1].path).read_bytes() == b"precious"
    assert not alpha.path(made[0].path).exists()


async def test_an_overlay_is_known_to_be_used_whatever_name_the_image_has_for_its_template(
    alpha: LabHost, host: Host
) -> None:
    """QEMU shows no path of an image whose header names the one below by another than the one it opened.

    An overlay that counted as unused would be removed while the guest writes to it.
    """
    image(alpha, f"{IMAGES}/template.qcow2")
    create = "qemu-img create -q -f qcow2 -b template.qcow2 -F qcow2"
    alpha.run([*create.split(), f"{IMAGES}/on.qcow2"])
    uuid = define(alpha, "on", {"vda": f"{IMAGES}/on.qcow2"})
    try:
        (overlay,) = await overlays(host, uuid)
        assert await host.uses(uuid, overlay.base)
        assert not await host.uses(uuid, overlay.path)
        await host.create_overlays(uuid, [overlay])
        assert await host.uses(uuid, overlay.base)
        assert await host.uses(uuid, overlay.path)
        assert not await host.uses(uuid, f"{IMAGES}/another.qcow2")
    finally:
        remove(alpha, "on")
        for path in alpha.path(IMAGES).iterdir():
            path.unlink()


async def test_commit_and_pivot(alpha: LabHost, host: Host, uuid: str) -> None:
    take(alpha, "s1")
    made = await overlays(host, uuid)
    with pytest.raises(NotFound, match="no block job"):
        await host.pivot(uuid, "vda")
    await host.create_overlays(uuid, made)
    watch = host.watch(uuid)
    for overlay in made:
        await host.start_commit(uuid, overlay, 5)
        await host.start_commit(uuid, overlay)
    assert await watch.changed(5)
    for overlay in made:
        await until_ready(host, uuid, overlay.target)
        facts = await facts_of(host, uuid)
        disk = next(disk for disk in facts.disks if disk.target == overlay.target)
        assert disk.block_job is not None
        assert disk.block_job.kind == "active-commit"
        await host.start_commit(uuid, overlay)
        await host.pivot(uuid, overlay.target)
        with pytest.raises(NotFound, match="no block job"):
            await host.pivot(uuid, overlay.target)
        await host.start_commit(uuid, overlay)  # there is nothing left to commit
    facts = await facts_of(host, uuid)
    assert [disk.chain for disk in facts.disks[:2]] == [(made[0].base,), (made[1].base,)]
    assert all(disk.block_job is None for disk in facts.disks)
    watch.close()
    alpha.virsh("snapshot-revert", "--domain", NAME, "--snapshotname", "s1", "--paused")


async def test_cancelled_commits(host: Host, uuid: str) -> None:
    made = await overlays(host, uuid)
    await host.cancel_block_job(uuid, "vda")
    await host.create_overlays(uuid, made)
    await host.start_commit(uuid, made[0])
    await until_ready(host, uuid, "vda")
    await host.cancel_block_job(uuid, "vda")
    await host.cancel_block_job(uuid, "vda")
    disk = (await facts_of(host, uuid)).disks[0]
    assert disk.chain == (made[0].path, made[0].base)
    assert disk.block_job is None
    await host.start_commit(uuid, made[0])
    await until_ready(host, uuid, "vda")
    await host.pivot(uuid, "vda")


async def test_commits_that_are_refused(host: Host, uuid: str) -> None:
    made = await overlays(host, uuid)
    await host.create_overlays(uuid, made)
    with pytest.raises(HostError, match="stands on"):
        await host.start_commit(uuid, Overlay("vda", made[0].path, "/other", "qcow2"))
    with pytest.raises(NotFound, match="'vdz'"):
        await host.start_commit(uuid, Overlay("vdz", "/x", "/y", "qcow2"))
    await host.destroy(uuid)
    with pytest.raises(HostError, match="is not active"):
        await host.start_commit(uuid, made[0])
    await host.cancel_block_job(uuid, "vda")
    facts = await facts_of(host, uuid)
    assert [disk.chain for disk in facts.disks[:2]] == [(made[0].path,), (made[1].path,)]


async def test_a_commit_that_is_not_ready_is_not_pivoted(alpha: LabHost, host: Host, uuid: str) -> None:
    (vda, _) = await overlays(host, uuid)
    await host.create_overlays(uuid, [vda])
    await host.destroy(uuid)
    alpha.run(["qemu-io", "-c", "write -P 9 0 12M", vda.path])
    await host.start_paused(uuid)
    await host.start_commit(uuid, vda, 1)
    job = (await facts_of(host, uuid)).disks[0].block_job
    assert job is not None
    assert not job.ready
    assert job.end_bytes > 0
    with pytest.raises(HostError, match="not ready"):
        await host.pivot(uuid, "vda")
    await host.cancel_block_job(uuid, "vda")
    before = digest(alpha.path(vda.path))
    assert (await facts_of(host, uuid)).disks[0].chain == (vda.path, vda.base)
    assert digest(alpha.path(vda.path)) == before
