"""The ``fsm`` command on two real hosts: domains of every make arrive whole, or stay as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from lxml import etree

from fsm.lab import IMAGES, DiskSpec, GuestSpec, Ring, SnapshotSpec, evidence, revert
from fsm.lab.guest import Guest, start
from tests.lab_definitions import disk_of, part_of, redefine
from tests.lab_rig import NEEDS_LAB, Rig, check_kept, look, watched

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK, REFUSED = 0, 3, 5
EIGHT_BLOCKS = Ring(offset_kib=256, slots=64)


@pytest.fixture
def present(rig: Rig) -> Iterator[Callable[..., Guest]]:
    """Makes guests on the first host, and removes them at the end."""
    made: list[GuestSpec] = []

    def make(spec: GuestSpec) -> Guest:
        made.append(spec)
        return rig.lab.define_guest(rig.alpha, spec)

    yield make
    for spec in made:
        rig.destroy(spec)


ODD = GuestSpec(
    name="odd é & <x> 'q'",
    disks=(
        DiskSpec(
            target="vda",
            size_mib=32,
            data_mib=4,
            path=f'{IMAGES}/a b/it\'s "q" & <x>,y=1:é.qcow2',
            cluster_size=4096,
        ),
        DiskSpec(target="vdb", size_mib=16, data_mib=2, format="raw", path=f"{IMAGES}/stopped/r,aw.img"),
        DiskSpec(target="vdc", size_mib=16, options=("compat=0.10",), path=f"{IMAGES}/active/c.img"),
        DiskSpec(
            target="sda", size_mib=1, bus="sata", options=("lazy_refcounts=on",), path=f"{IMAGES}/none/s.img"
        ),
        DiskSpec(target="sdb", size_mib=33, bus="scsi", format="raw", path=f"{IMAGES}/none/odd.raw"),
        DiskSpec(target="vdr", size_mib=8, data_mib=1, readonly=True),
        DiskSpec(target="hda", device="cdrom", size_mib=1, format="raw"),
        DiskSpec(target="hdb", device="cdrom", empty=True),
    ),
    state="shut off",
)
ODD_BYTES = (33 << 20) + 512
NAMES = ("root", "with space", "é ✓", "<&>\"'", "a,b=c", "x" * 60, "last")


def _odd_details(root: etree._Element) -> None:
    """Make the domain's definition hold more than the lab's guests have."""
    part_of(disk_of(root, "vda"), "driver").set("detect_zeroes", "unmap")
    part_of(disk_of(root, "sdb"), "driver").attrib.pop("cache")  # its length suits no O_DIRECT
    disk_of(root, "sda").append(etree.fromstring("<serial>A_B-1</serial>"))
    disk_of(root, "sda").append(etree.fromstring("<alias name='ua-mine'/>"))
    limits = etree.SubElement(disk_of(root, "vdc"), "iotune")
    etree.SubElement(limits, "total_iops_sec").text = "5000"
    root.insert(2, etree.fromstring("<title>a &lt;title&gt;</title>"))
    root.insert(3, etree.fromstring("<metadata><m:x xmlns:m='urn:m'>1 &lt; 2</m:x></metadata>"))
    part_of(root, "devices").append(etree.fromstring("<graphics type='vnc' autoport='yes' passwd='secret'/>"))


def _without_raw(root: etree._Element) -> None:
    for target in ("vdb", "sdb"):
        part_of(root, "devices").remove(disk_of(root, target))


def _prepare_odd(rig: Rig, guest: Guest) -> None:
    """Snapshots while shut off, of the qcow2 disks alone: libvirt takes none beside a writable raw disk."""
    host, name, first = rig.alpha, ODD.name, ODD.disks[0].image(ODD.name)
    with host.path(f"{IMAGES}/none/odd.raw").open("r+b") as file:
        file.truncate(ODD_BYTES)
    host.run(["qemu-img", "resize", "-q", "-f", "qcow2", first, str((32 << 20) + 512)])
    redefine(host, name, _odd_details)
    whole = host.virsh("dumpxml", "--domain", name, "--inactive", "--security-info")
    redefine(host, name, _without_raw)
    for snapshot in NAMES:
        words = ["--name", snapshot, "--description", f"<{snapshot}> & \"'"]
        host.virsh("snapshot-create-as", "--domain", name, *words)
    host.virsh("define", "/dev/stdin", stdin=whole)
    # Two that libvirt forgets and the image keeps: the current one, and one between a parent and its child.
    for snapshot in ("last", "with space"):
        host.virsh("snapshot-delete", "--domain", name, "--snapshotname", snapshot, "--metadata")
    host.run(["qemu-img", "snapshot", "-c", "of qemu-img", first])
    for one in rig.lab.hosts:
        for directory in ("a b", "stopped", "active", "none"):
            one.path(f"{IMAGES}/{directory}").mkdir(exist_ok=True)
        for pool in ("stopped", "active"):
            path = f"<target><path>{IMAGES}/{pool}/</path></target>"
            xml = f"<pool type='dir'><name>of-user-{pool}</name>{path}</pool>"
            one.virsh("pool-define", "/dev/stdin", stdin=xml)
        one.virsh("pool-start", "--pool", "of-user-active")
    start(guest)


def test_disks_snapshots_paths_and_pools_of_every_make_move_there_and_back(
    rig: Rig, present: Callable[[GuestSpec], Guest]
) -> None:
    _prepare_odd(rig, present(ODD))
    journeys = (
        (rig.alpha, ("--verify", "full", "--merge", "commit")),
        (rig.beta, ("--bandwidth", "64", "--merge", "commit")),
        (rig.alpha, ("--merge", "mirror")),
    )
    for source, options in journeys:
        destination = rig.other(source)
        rig.remove_images(destination, ODD)
        before = look(rig, source, ODD)
        with watched(rig, ODD) as watch:
            finished = rig.migrate(ODD.name, source, *options)
        assert (finished.returncode, finished.stderr) == (COMMITTED, "")
        check_kept(rig, ODD, before, destination, watch.acks)
        assert destination.path(f"{IMAGES}/none/odd.raw").stat().st_size == ODD_BYTES
    for host in rig.lab.hosts:
        for pool in ("stopped", "active"):
            if pool == "active":
                host.virsh("pool-destroy", "--pool", "of-user-active")
            host.virsh("pool-undefine", "--pool", f"of-user-{pool}")


TREE = GuestSpec(
    name="tree",
    disks=(
        DiskSpec(target="vda", size_mib=24, data_mib=2, cluster_size=2 << 20),
        DiskSpec(target="vdb", size_mib=8, cluster_size=512),
    ),
    snapshots=(
        SnapshotSpec("s 1", None, "<&> \"'"),
        SnapshotSpec("s2", "s 1"),
        SnapshotSpec("é ✓", "s2"),
        SnapshotSpec("s4", "s 1"),
        SnapshotSpec("s5", "s4"),
        SnapshotSpec("s6", "s4"),
    ),
    current="s2",
)


def test_every_snapshot_of_a_live_tree_can_be_reverted_at_the_destination(
    rig: Rig, present: Callable[[GuestSpec], Guest]
) -> None:
    present(TREE)
    before = look(rig, rig.alpha, TREE)
    with watched(rig, TREE) as watch:
        finished = rig.migrate(TREE.name, rig.alpha)
    assert finished.returncode == COMMITTED, finished.stderr
    check_kept(rig, TREE, before, rig.beta, watch.acks)
    moved = Guest(rig.beta, TREE.name, TREE)
    for snapshot in TREE.snapshots:
        revert(moved, snapshot.name)  # waits until the guest writes again
        info = rig.beta.virsh("snapshot-current", "--domain", TREE.name, "--name")
        assert info.strip() == snapshot.name
    rig.beta.virsh("snapshot-create-as", "--domain", TREE.name, "--name", "new")
    rig.beta.virsh("snapshot-delete", "--domain", TREE.name, "--snapshotname", "s4")
    # Taking and deleting one has changed neither of the others.
    after = evidence.collect(rig.beta, TREE)
    for target, digests in before.evidence.digests.items():
        kept = {name: digest for name, digest in digests.items() if name != "s4"}
        assert {name: after.digests[target][name] for name in kept} == kept


def test_a_guest_paused_by_its_user_stays_paused(rig: Rig, present: Callable[[GuestSpec], Guest]) -> None:
    spec = GuestSpec(name="paused", snapshots=(SnapshotSpec("a"), SnapshotSpec("b", "a")), state="paused")
    guest = present(spec)
    before = look(rig, rig.alpha, spec)
    assert rig.migrate(spec.name, rig.alpha).returncode == COMMITTED
    moved = Guest(rig.beta, spec.name, spec)
    assert moved.state == "paused"
    check_kept(rig, spec, before, rig.beta, guest.acknowledged())
    rig.beta.virsh("resume", "--domain", spec.name)
    moved.wait_for_writes()


STRANGE = GuestSpec(
    name="-strange",
    disks=(
        DiskSpec(target="vda", size_mib=16, path=f"{IMAGES}/bitmap.img"),
        DiskSpec(target="sda", size_mib=16, bus="sata", format="raw", path=f"{IMAGES}/nested.img"),
        DiskSpec(target="sdb", size_mib=8, bus="sata", path=f"{IMAGES}/link.img"),
        DiskSpec(
            target="sdc",
            size_mib=8,
            bus="sata",
            path=f"{IMAGES}/ext.img",
            options=("extended_l2=on", "cluster_size=65536", "compression_type=zstd"),
        ),
    ),
    state="shut off",
)


def test_images_that_look_like_something_else(rig: Rig, present: Callable[[GuestSpec], Guest]) -> None:
    """A bitmap in an image, an image inside a raw disk, an image behind a symbolic link."""
    guest = present(STRANGE)
    bitmap, nested, link, _ = (disk.image(STRANGE.name) for disk in STRANGE.disks)
    alpha = rig.alpha
    alpha.run(["qemu-img", "bitmap", "--add", "--enable", bitmap, "bitmap0"])
    inner = f"{IMAGES}/inner.tmp"
    alpha.run(["qemu-img", "create", "-q", "-f", "qcow2", inner, "100T"])
    alpha.run(["dd", f"if={inner}", f"of={nested}", "conv=notrunc", "status=none"])
    alpha.run(["rm", inner])
    alpha.run(["mv", link, f"{IMAGES}/really.img"])
    alpha.run(["ln", "-s", f"{IMAGES}/really.img", link])
    start(guest)
    before = look(rig, alpha, STRANGE)
    # QEMU does not accept a bitmap that comes with the migration and is in the copy as well.
    refused = rig.migrate(STRANGE.name, alpha, "--merge", "mirror")
    assert refused.returncode == REFUSED
    assert "bitmaps" in refused.stderr
    check_kept(rig, STRANGE, before, alpha, [])
    with watched(rig, STRANGE) as watch:
        finished = rig.migrate(STRANGE.name, alpha, "--verify", "full")
    assert finished.returncode == COMMITTED, finished.stderr
    assert "note: " in finished.stdout  # why it is merged by commit
    check_kept(rig, STRANGE, before, rig.beta, watch.acks)
    assert "bitmap0" in rig.beta.run(["qemu-img", "info", "-U", bitmap])
    alpha.path(f"{IMAGES}/really.img").unlink()


def test_a_disk_that_both_hosts_see_is_left_alone(rig: Rig, present: Callable[[GuestSpec], Guest]) -> None:
    shared = DiskSpec(target="sda", size_mib=8, bus="sata", format="raw", shareable=True, everywhere=True)
    apart = DiskSpec(target="sdb", size_mib=8, bus="sata", everywhere=True)
    spec = GuestSpec(name="shared", disks=(DiskSpec(target="vda", size_mib=16), shared, apart))
    present(spec)
    before = look(rig, rig.alpha, spec)
    # libvirt can't know that both hosts see the same file, so without --accept it refuses.
    refused = rig.migrate(spec.name, rig.alpha, "--exclude-disk", "sdb")
    assert refused.returncode == 3
    assert "--accept unsafe" in refused.stderr
    check_kept(rig, spec, before, rig.alpha, [])
    with watched(rig, spec) as watch:
        finished = rig.migrate(spec.name, rig.alpha, "--exclude-disk", "sdb", "--accept", "unsafe")
    assert finished.returncode == COMMITTED, finished.stderr
    check_kept(rig, spec, before, rig.beta, watch.acks)


# Two processes share the directory's transient pool: once, under load, preflight refused one of them.
@pytest.mark.race
def test_two_at_once_with_images_in_one_directory(rig: Rig, present: Callable[[GuestSpec], Guest]) -> None:
    specs = [GuestSpec(name=name, disks=(DiskSpec(target="vda", size_mib=48, data_mib=32),)) for name in "ab"]
    for spec in specs:
        present(spec)
    before = [look(rig, rig.alpha, spec) for spec in specs]
    with (
        watched(rig, specs[0]) as first,
        watched(rig, specs[1]) as second,
        rig.migrating("a", rig.alpha) as one,
        rig.migrating("b", rig.alpha) as two,
    ):
        results = [one.finish(), two.finish()]
    assert [(code, result["state"]) for code, result in results] == [(COMMITTED, "committed")] * 2, results
    for spec, was, watch in zip(specs, before, (first, second), strict=True):
        check_kept(rig, spec, was, rig.beta, watch.acks)
