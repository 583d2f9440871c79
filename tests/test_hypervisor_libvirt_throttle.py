"""Throttling writes beside the limits that a domain's user has set, on a real libvirtd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.port import Host
from fsm.lab import Lab
from tests.lab_rig import NEEDS_LAB
from tests.libvirt_helpers import IMAGES, NAME, define, image, remove

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.libvirt_fixtures"]

MIB = 1 << 20


@pytest.fixture
def uuid(lab: Lab) -> Iterator[str]:
    image(lab.hosts[0], f"{IMAGES}/a.qcow2")
    yield define(lab.hosts[0], NAME, {"vda": f"{IMAGES}/a.qcow2"})
    remove(lab.hosts[0], NAME)
    lab.hosts[0].path(f"{IMAGES}/a.qcow2").unlink()


@pytest.fixture
async def host(lab: Lab) -> AsyncIterator[Host]:
    opened = await LibvirtConnector().connect(lab.hosts[0].uri)
    yield opened
    await opened.close()


def limits(lab: Lab) -> dict[str, str]:
    """libvirt asks QEMU for those of a running domain."""
    shown = lab.hosts[0].virsh("blkdeviotune", NAME, "vda").splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in shown)}


@pytest.mark.parametrize(
    ("own", "throttled"),
    [
        ((), {"write_bytes_sec": MIB, "write_iops_sec": 16}),
        (
            (
                "--write-bytes-sec",
                "50000000",
                "--write-bytes-sec-max",
                "60000000",
                "--write-bytes-sec-max-length",
                "5",
            ),
            {"write_bytes_sec": MIB, "write_bytes_sec_max": 0, "write_iops_sec": 16},
        ),
        (
            ("--total-bytes-sec", "50000000", "--total-bytes-sec-max", "60000000"),
            {"total_bytes_sec": MIB, "total_bytes_sec_max": 0, "write_iops_sec": 16},
        ),
        (
            ("--total-iops-sec", "500", "--size-iops-sec", "8192"),
            {"write_bytes_sec": MIB, "total_iops_sec": 16, "size_iops_sec": 8192},
        ),
        (
            ("--read-bytes-sec", "40000000", "--group-name", "theirs"),
            {"read_bytes_sec": 40_000_000, "write_bytes_sec": MIB, "write_iops_sec": 16},
        ),
        (
            ("--write-bytes-sec", "1000", "--write-iops-sec", "2"),
            {"write_bytes_sec": 1000, "write_iops_sec": 2},
        ),
    ],
)
async def test_a_users_limits_are_there_again(
    lab: Lab, host: Host, uuid: str, own: tuple[str, ...], throttled: dict[str, int]
) -> None:
    if own:
        lab.hosts[0].virsh("blkdeviotune", NAME, "vda", *own, "--live")
    before, described = limits(lab), lab.hosts[0].virsh("dumpxml", NAME)
    await host.throttle_writes(uuid, "vda", MIB, 16)
    found = limits(lab)
    assert {name: int(found[name]) for name in throttled} == throttled
    assert lab.hosts[0].virsh("dumpxml", NAME) == described
    await host.lift_throttle(uuid, "vda")
    assert limits(lab) == before
    assert lab.hosts[0].virsh("dumpxml", NAME) == described
