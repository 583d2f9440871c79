"""A disk is flattened behind its migration between two real hosts, beside one that keeps its snapshots."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lxml import etree

from fsm.lab import DiskSpec, GuestSpec, LabHost, evidence
from fsm.lab.guest import Guest, start
from fsm.lab.host import IMAGES
from fsm.lab.process import wait_until
from tests.lab_definitions import definition
from tests.lab_rig import LONG_LAB, Rig, failed, files, look, picture, watched
from tests.libvirt_helpers import digest

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, REFUSED = 0, 5
FLATTEN = ("--flatten", "vda", "--accept", "flatten-flush")
GOLDEN = f"{IMAGES}/golden.qcow2"
SPEC = GuestSpec(
    name="flat",
    disks=(DiskSpec(target="vda", size_mib=96, data_mib=64), DiskSpec(target="vdb", size_mib=32, data_mib=8)),
    state="shut off",
)
VDA, VDB = (disk.image(SPEC.name) for disk in SPEC.disks)


@pytest.fixture
def guest(rig: Rig) -> Iterator[Guest]:
    """A guest whose first disk stands on a compressed template, and whose second one has a snapshot."""
    alpha = rig.alpha
    guest = rig.lab.define_guest(alpha, SPEC)
    alpha.run(["qemu-img", "convert", "-c", "-O", "qcow2", VDA, GOLDEN])
    alpha.run(["rm", VDA])
    alpha.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "golden.qcow2", "-F", "qcow2", VDA])
    alpha.run(["qemu-img", "snapshot", "-c", "kept", VDB])
    start(guest)
    yield guest
    rig.destroy(SPEC)
    for host in rig.lab.hosts:
        host.path(GOLDEN).unlink(missing_ok=True)


def chain(host: LabHost, target: str) -> list[str]:
    """What a disk stands on, active layer first."""
    root = etree.fromstring(host.virsh("dumpxml", "--domain", SPEC.name).encode())
    (disk,) = [
        one for one in root.iterfind("devices/disk") if one.find(f"target[@dev='{target}']") is not None
    ]
    return [source.get("file", "") for source in disk.iter("source")]


def behind_ring(host: LabHost, path: str) -> bytes:
    """What a disk holds where its guest does not write."""
    raw = f"{IMAGES}/content.raw"
    host.run(["qemu-img", "convert", "-O", "raw", path, raw])
    content = host.path(raw).read_bytes()[SPEC.ring.end_kib * 1024 :]
    host.path(raw).unlink()
    return content


@pytest.mark.parametrize("merge", ["mirror", "commit"])
def test_the_chain_is_gone_and_every_write_is_there(rig: Rig, guest: Guest, merge: str) -> None:
    before = look(rig, rig.alpha, SPEC)
    with watched(rig, SPEC) as watch:
        finished = rig.migrate(SPEC.name, rig.alpha, "--merge", merge, *FLATTEN, "--delete-source")
        assert finished.returncode == COMMITTED, finished.stderr
        command = f"virsh -c {rig.beta.uri} blockjob {SPEC.name} vda"
        assert f"a block pull has begun, and goes on by itself; disk vda: {command}" in finished.stdout
        assert "not flattened" not in finished.stderr
        shown = rig.beta.virsh("blockjob", SPEC.name, "vda")
        assert not shown.strip() or "Block Pull" in shown  # it may be over
        wait_until(lambda: chain(rig.beta, "vda") == [VDA], timeout=60, what="the block pull's end")
    assert definition(rig.beta, SPEC.name) == before.definition
    assert {VDA, VDB}.isdisjoint(files(rig.alpha))
    assert "backing file" not in rig.beta.run(["qemu-img", "info", "-U", VDA])
    # Nothing that it reads comes from what was below it.
    rig.beta.path(GOLDEN).unlink()
    assert failed(evidence.compare(before.evidence, evidence.collect(rig.beta, SPEC))) == []
    assert [one.name for one in before.evidence.tables["vdb"]] == ["kept"]
    assert failed(evidence.writes(rig.beta, SPEC, watch.acks)) == []
    rig.beta.virsh("destroy", "--domain", SPEC.name)
    assert behind_ring(rig.beta, VDA) == behind_ring(rig.alpha, GOLDEN)
    start(Guest(rig.beta, SPEC.name, SPEC))


def test_an_image_with_snapshots_is_refused(rig: Rig, guest: Guest) -> None:
    before, golden = picture(rig.beta), digest(rig.alpha.path(GOLDEN))
    rig.alpha.virsh("snapshot-create-as", "--domain", SPEC.name, "--name", "s1")
    finished = rig.migrate(SPEC.name, rig.alpha, *FLATTEN)
    assert finished.returncode == REFUSED
    assert "it holds the snapshots s1, which would read zeros" in finished.stderr
    assert picture(rig.beta) == before
    assert digest(rig.alpha.path(GOLDEN)) == golden
    assert guest.state == "running"
