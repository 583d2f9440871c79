"""Disks with drivers and images of every make, between two real hosts: each arrives as it was described."""

from __future__ import annotations

import pytest
from lxml import etree

from fsm.lab import DiskSpec, GuestSpec
from fsm.lab.guest import Guest, start
from tests.lab_definitions import disk_of, part_of, redefine
from tests.lab_rig import LONG_LAB, Rig, check_kept, look, watched

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED = 0
DRIVERS = {
    "vda": {"cache": "none", "io": "native", "iothread": "1", "discard": "unmap", "detect_zeroes": "unmap"},
    "vdb": {"cache": "writeback", "io": "threads", "error_policy": "stop", "rerror_policy": "report"},
    "vdc": {"cache": "writethrough", "queues": "2", "discard": "ignore", "copy_on_read": "on"},
    "vdd": {"cache": "directsync", "event_idx": "on", "iothread": "2"},
}
MAKES = GuestSpec(
    name="makes",
    disks=(
        DiskSpec(target="vda", size_mib=32, data_mib=4, cluster_size=2 << 20, options=("extended_l2=on",)),
        DiskSpec(target="vdb", size_mib=16, data_mib=4, options=("compression_type=zstd",)),
        DiskSpec(target="vdc", size_mib=16, cluster_size=512),
        DiskSpec(target="vdd", size_mib=16, options=("lazy_refcounts=on", "refcount_bits=64")),
    ),
    state="shut off",
)


def describe(root: etree._Element) -> None:
    """Give each disk its driver, and what goes with it."""
    iothreads = etree.Element("iothreads")
    iothreads.text = "2"
    root.insert(root.index(part_of(root, "vcpu")) + 1, iothreads)
    for target, driver in DRIVERS.items():
        part_of(disk_of(root, target), "driver").attrib.update(driver)
    disk_of(root, "vda").append(etree.fromstring("<alias name='ua-first'/>"))
    disk_of(root, "vdc").append(
        etree.fromstring("<blockio logical_block_size='512' physical_block_size='4096'/>")
    )


@pytest.mark.parametrize("merge", ["mirror", "commit"])
def test_drivers_and_images_of_every_make_arrive_as_they_were(rig: Rig, merge: str) -> None:
    rig.lab.define_guest(rig.alpha, MAKES)
    redefine(rig.alpha, MAKES.name, describe)
    guest = Guest(rig.alpha, MAKES.name, MAKES)
    start(guest)
    for name in ("s1", "s2"):
        rig.alpha.virsh("snapshot-create-as", "--domain", MAKES.name, "--name", name)
        guest.wait_for_writes()
    before = look(rig, rig.alpha, MAKES)
    with watched(rig, MAKES) as watch:
        finished = rig.migrate(MAKES.name, rig.alpha, "--merge", merge, "--verify", "full")
    assert finished.returncode == COMMITTED, finished.stderr
    check_kept(rig, MAKES, before, rig.beta, watch.acks)
    root = etree.fromstring(rig.beta.virsh("dumpxml", "--domain", MAKES.name))
    for target, driver in DRIVERS.items():
        assert driver.items() <= dict(part_of(disk_of(root, target), "driver").attrib).items(), target
    rig.destroy(MAKES)
