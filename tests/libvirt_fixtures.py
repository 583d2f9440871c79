"""Two hosts for a module, and on the first of them a connection and a small domain for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.port import Host
from fsm.lab import Lab, LabHost
from tests.libvirt_helpers import IMAGES, NAME, define, image, remove, two_hosts


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from two_hosts(tmp_path_factory.mktemp("labs"))


@pytest.fixture
def alpha(lab: Lab) -> LabHost:
    return lab.hosts[0]


@pytest.fixture
async def host(alpha: LabHost) -> AsyncIterator[Host]:
    opened = await LibvirtConnector().connect(alpha.uri)
    yield opened
    await opened.close()


@pytest.fixture
def uuid(alpha: LabHost) -> Iterator[str]:
    """A paused domain of two disks, a cdrom with a medium and one without."""
    disks = {"vda": f"{IMAGES}/a b & <c>.qcow2", "vdb": f"{IMAGES}/it's.qcow2"}
    for path in disks.values():
        image(alpha, path)
    image(alpha, f"{IMAGES}/cd.iso", "1M", image_format="raw")
    drives = (
        f"<disk type='file' device='cdrom'><source file='{IMAGES}/cd.iso'/><target dev='hda'/></disk>"
        "<disk type='file' device='cdrom'><target dev='hdb'/></disk>"
    )
    yield define(alpha, NAME, disks, devices=drives)
    remove(alpha, NAME)
    for path in alpha.path(IMAGES).iterdir():
        path.unlink()


@pytest.fixture
def box(alpha: LabHost, request: pytest.FixtureRequest) -> Iterator[str]:
    """A directory of the test's own, without a pool at its end."""
    directory = f"/var/lib/libvirt/it's & <{abs(hash(request.node.name))}>"
    alpha.path(directory).mkdir()
    yield directory
    assert alpha.virsh("pool-list", "--all", "--name").split() == []
