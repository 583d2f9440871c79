"""Storage pools, volumes and streams on a real libvirtd."""

from __future__ import annotations

import asyncio
import os

import pytest

from fsm.errors import HostError, NotFound
from fsm.hypervisor.libvirt import LibvirtConnector, pools
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Overlay, PoolState
from fsm.lab import Lab, LabHost
from tests.lab_rig import NEEDS_LAB
from tests.libvirt_helpers import digest, image

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.libvirt_fixtures"]

MIB = 1 << 20
ROOT = "/var/lib/libvirt"


def all_pools(lab: Lab) -> list[str]:
    return lab.hosts[0].virsh("pool-list", "--all", "--name").split()


def user_pool(alpha: LabHost, directory: str, *, active: bool) -> None:
    path = directory.replace("&", "&amp;").replace("<", "&lt;")
    xml = f"<pool type='dir'><name>users</name><target><path>{path}/</path></target></pool>"
    alpha.virsh("pool-define", "--file", "/dev/stdin", stdin=xml)
    if active:
        alpha.virsh("pool-start", "users")


# Pools


async def test_a_directory_without_pool_gets_a_transient_one(lab: Lab, host: Host, box: str) -> None:
    assert await host.storage.pool_state(box) is PoolState.NONE
    assert all_pools(lab) == []
    assert await host.storage.stat(f"{box}/none") is None
    assert all_pools(lab) == [pools.our_name(box)]
    assert await host.storage.pool_state(f"{box}/") is PoolState.NONE  # ours does not count
    await host.storage.release(box, PoolState.NONE)
    await host.storage.release(box, PoolState.NONE)


async def test_a_pool_left_by_a_crash_is_found_again(lab: Lab, host: Host, box: str) -> None:
    await host.storage.free_bytes(box)
    other = await LibvirtConnector().connect(lab.hosts[0].uri)
    await other.storage.free_bytes(f"{box}/")
    await other.storage.release(box, PoolState.NONE)
    await other.close()


@pytest.mark.parametrize("active", [True, False])
async def test_a_users_pool_is_used_and_put_back(
    alpha: LabHost,
    host: Host,
    box: str,
    active: bool,  # noqa: FBT001
) -> None:
    user_pool(alpha, box, active=active)
    try:
        was = await host.storage.pool_state(box)
        assert was is (PoolState.ACTIVE if active else PoolState.INACTIVE)
        await host.storage.create_sparse(f"{box}/a", 1000)
        assert await host.storage.pool_state(box) is PoolState.ACTIVE
        await host.storage.release(box, was)
        assert await host.storage.pool_state(box) is was
        assert "users" in alpha.virsh("pool-list", "--all", "--persistent", "--name").split()
        await host.storage.remove(f"{box}/a")
        await host.storage.release(box, was)
    finally:
        if "users" in alpha.virsh("pool-list", "--name").split():
            alpha.virsh("pool-destroy", "users")
        alpha.virsh("pool-undefine", "users")


async def test_a_missing_directory_is_named(lab: Lab, host: Host) -> None:
    for question in (host.storage.free_bytes("/no/such"), host.storage.stat("/no/such/file")):
        with pytest.raises(NotFound, match=r"alpha|10\.213.*'/no/such'"):
            await question
    with pytest.raises(NotFound):
        await host.storage.create_sparse("/no/such/file", 1)
    await host.storage.remove("/no/such/file")
    await host.storage.release("/no/such", PoolState.NONE)
    assert all_pools(lab) == []


async def test_a_file_in_the_place_of_a_directory(alpha: LabHost, host: Host, box: str) -> None:
    alpha.path(f"{box}/file").write_bytes(b"x")
    with pytest.raises(NotFound, match="there is no directory"):
        await host.storage.stat(f"{box}/file/a")


async def test_a_directory_that_vanishes_under_its_pool(alpha: LabHost, host: Host, box: str) -> None:
    await host.storage.free_bytes(box)
    alpha.path(box).rmdir()
    with pytest.raises(NotFound, match="there is no directory"):
        await host.storage.stat(f"{box}/a")


async def test_many_at_once(alpha: LabHost, host: Host, box: str) -> None:
    image(alpha, f"{box}/base.qcow2")
    another = await LibvirtConnector().connect(host.uri)  # whose locks are not ours

    async def one(number: int) -> None:
        storage = (host, another)[number % 2].storage
        path = f"{box}/{number}"
        await storage.create_overlay(Overlay("vda", path, f"{box}/base.qcow2", "qcow2"), 16 * MIB)
        assert await storage.stat(path) is not None
        await storage.remove(path)
        assert await storage.stat(path) is None

    await asyncio.gather(*(one(number) for number in range(20)))
    await another.close()
    await host.storage.release(box, PoolState.NONE)


# Files


@pytest.mark.parametrize("size", [0, 5, 4096, 4097, 3 * MIB + 511])
async def test_stat_tells_the_exact_length(alpha: LabHost, host: Host, box: str, size: int) -> None:
    alpha.path(f"{box}/file").write_bytes(b"x" * size)
    found = await host.storage.stat(f"{box}/file")
    assert found is not None
    assert (found.size_bytes, found.format, found.backing) == (size, "raw", None)
    await host.storage.release(box, PoolState.NONE)


@pytest.mark.parametrize("second", ["1700000000", "1700000000.000000001", "1700000000.500000000"])
async def test_stat_tells_the_time_of_the_last_write(
    alpha: LabHost, host: Host, box: str, second: str
) -> None:
    """Of a whole second without a fraction; of a link its file's."""
    path = alpha.path(f"{box}/a")
    path.write_bytes(b"x")
    whole, _, fraction = second.partition(".")
    ns = int(whole) * 10**9 + int(fraction or 0)
    os.utime(path, ns=(ns, ns))
    alpha.path(f"{box}/link").symlink_to("a")
    for name in ("a", "link"):
        found = await host.storage.stat(f"{box}/{name}")
        assert found is not None
        assert (found.size_bytes, found.modified) == (1, second)
    await host.storage.release(box, PoolState.NONE)


async def test_stat_of_images(alpha: LabHost, host: Host, box: str) -> None:
    image(alpha, f"{box}/base.qcow2", "10M")
    alpha.run(
        ["qemu-img", "create", "-qf", "qcow2", "-b", f"{box}/base.qcow2", "-F", "qcow2", f"{box}/top.qcow2"]
    )
    found = await host.storage.stat(f"{box}/top.qcow2")
    assert found is not None
    assert (found.capacity_bytes, found.format, found.backing) == (10 * MIB, "qcow2", f"{box}/base.qcow2")
    assert found.size_bytes == alpha.path(f"{box}/top.qcow2").stat().st_size
    assert found.allocated_bytes == alpha.path(f"{box}/top.qcow2").stat().st_blocks * 512
    await host.storage.release(box, PoolState.NONE)


@pytest.mark.parametrize("name", ["a b", "a&b<c>", "q'\"u", "ünï ✓", "%41", "--help", "a,b:c"])
async def test_odd_names(alpha: LabHost, host: Host, box: str, name: str) -> None:
    path = f"{box}/{name}"
    await host.storage.create_sparse(path, 70_000)
    await host.storage.create_overlay(Overlay("vda", f"{path}.ov", path, "raw"), 70_000)
    found = await host.storage.stat(f"{path}.ov")
    assert found is not None
    assert found.backing == path
    await host.storage.remove(path)
    await host.storage.remove(f"{path}.ov")
    await host.storage.remove(path)
    assert list(alpha.path(box).iterdir()) == []
    await host.storage.release(box, PoolState.NONE)


@pytest.mark.parametrize("path", ["a\nb", "a\tb", "a\x7f", "a\udcff", ""])
async def test_names_that_pools_do_not_show(host: Host, box: str, path: str) -> None:
    with pytest.raises(HostError, match=r"control characters|no absolute path"):
        await host.storage.stat(f"{box}/{path}")


async def test_relative_paths_are_refused(host: Host) -> None:
    with pytest.raises(HostError, match="absolute"):
        await host.storage.stat("file")


@pytest.mark.parametrize("size", [1, 512, 100_000, 5 * MIB + 3])
async def test_create_sparse(alpha: LabHost, host: Host, box: str, size: int) -> None:
    await host.storage.create_sparse(f"{box}/a", size)
    made = alpha.path(f"{box}/a").stat()
    assert (made.st_size, made.st_blocks, made.st_mode & 0o777) == (size, 0, 0o600)
    await host.storage.release(box, PoolState.NONE)


@pytest.mark.parametrize("known", [True, False])
async def test_nothing_is_overwritten(alpha: LabHost, host: Host, box: str, known: bool) -> None:  # noqa: FBT001
    await host.storage.free_bytes(box)  # the pool has seen the empty directory
    alpha.path(f"{box}/a").write_bytes(b"precious")
    if known:
        await host.storage.stat(f"{box}/a")
    with pytest.raises(HostError, match="exist"):
        await host.storage.create_sparse(f"{box}/a", 100)
    with pytest.raises(HostError, match="exist"):
        await host.storage.create_overlay(Overlay("vda", f"{box}/a", f"{box}/b", "raw"), MIB)
    assert alpha.path(f"{box}/a").read_bytes() == b"precious"
    await host.storage.release(box, PoolState.NONE)


@pytest.mark.parametrize("capacity", [MIB, MIB + 512, MIB + 100])
async def test_an_overlay_has_its_bases_size(alpha: LabHost, host: Host, box: str, capacity: int) -> None:
    with alpha.path(f"{box}/base").open("wb") as file:
        file.truncate(capacity)
    await host.storage.create_overlay(Overlay("vda", f"{box}/top", f"{box}/base", "raw"), capacity)
    told = alpha.run(["qemu-img", "info", f"{box}/top"])
    assert f"({-(-capacity // 512) * 512} bytes)" in told
    assert "compat: 1.1" in told
    assert "backing file format: raw" in told
    assert alpha.path(f"{box}/top").stat().st_mode & 0o777 == 0o600
    await host.storage.release(box, PoolState.NONE)


async def test_an_overlay_of_another_size_is_not_left(alpha: LabHost, host: Host, box: str) -> None:
    image(alpha, f"{box}/base", "2M")
    with pytest.raises(HostError, match="removed again"):
        await host.storage.create_overlay(Overlay("vda", f"{box}/top", f"{box}/base", "qcow2"), MIB + 512)
    assert not alpha.path(f"{box}/top").exists()
    await host.storage.release(box, PoolState.NONE)


async def test_make_durable(alpha: LabHost, host: Host, box: str) -> None:
    for name, compat in (("new", "1.1"), ("old", "0.10")):
        image(alpha, f"{box}/{name}", compat=compat)
        alpha.run(["qemu-io", "-c", "write -P 7 0 1M", f"{box}/{name}"])
        alpha.run(["qemu-img", "snapshot", "-c", "s1", f"{box}/{name}"])
    alpha.path(f"{box}/raw").write_bytes(b"x" * 1000)
    before = {name: digest(alpha.path(f"{box}/{name}")) for name in ("new", "old", "raw")}
    assert await host.storage.make_durable(f"{box}/new")
    assert not await host.storage.make_durable(f"{box}/old")
    assert not await host.storage.make_durable(f"{box}/raw")
    assert before == {name: digest(alpha.path(f"{box}/{name}")) for name in before}
    with pytest.raises(NotFound):
        await host.storage.make_durable(f"{box}/none")
    await host.storage.release(box, PoolState.NONE)


async def test_an_image_larger_than_its_disk_is_not_made_durable(
    alpha: LabHost, host: Host, box: str
) -> None:
    image(alpha, f"{box}/a", "1M")
    for number in range(3):
        alpha.run(["qemu-io", "-c", f"write -P {number} 0 1M", f"{box}/a"])
        alpha.run(["qemu-img", "snapshot", "-c", f"s{number}", f"{box}/a"])
    before = digest(alpha.path(f"{box}/a"))
    assert not await host.storage.make_durable(f"{box}/a")
    assert digest(alpha.path(f"{box}/a")) == before
    await host.storage.release(box, PoolState.NONE)


async def test_remove_leaves_directories(alpha: LabHost, host: Host, box: str) -> None:
    alpha.path(f"{box}/sub").mkdir()
    with pytest.raises(HostError, match="is a directory"):
        await host.storage.remove(f"{box}/sub")
    await host.storage.release(box, PoolState.NONE)
