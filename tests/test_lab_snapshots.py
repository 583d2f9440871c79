"""Internal snapshots of every kind between two real hosts: many, deep, oddly named, and half of them only."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec, evidence
from fsm.lab.guest import Guest, revert
from tests.lab_rig import LONG_LAB, Rig, check_kept, domains, failed, files, look, still, watched

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED = 0
DEEP, MANY = 30, 200
ODD = ("with spaces", "näher → ✓", "a&b<c>\"d'", "-dash", "per%cent", "x" * 100)


def tree() -> Iterator[SnapshotSpec]:
    """A line of thirty, with a side branch at its end and many leaves on its first; odd names among them."""
    parent = None
    for number in range(DEEP):
        yield SnapshotSpec(f"deep-{number}", parent, f"level {number}: <&> é")
        parent = f"deep-{number}"
    for name in ODD:
        yield SnapshotSpec(name, parent, f"odd: {name}")
    leaves = MANY - DEEP - len(ODD)
    yield from (SnapshotSpec(f"leaf-{number}", "deep-0") for number in range(leaves))


GROVE = GuestSpec(
    name="grove",
    disks=(DiskSpec(target="vda", size_mib=16, data_mib=4),),
    state="shut off",
)
MIXED = GuestSpec(
    name="mixed",
    disks=(DiskSpec(target="vda", size_mib=32, data_mib=8), DiskSpec(target="vdb", size_mib=16, data_mib=4)),
    snapshots=(SnapshotSpec("running", None, "with memory"), SnapshotSpec("later", "running")),
)


def plant(host: LabHost, spec: GuestSpec, snapshots: list[SnapshotSpec]) -> None:
    """Take them by one process of virsh: a parent is whichever was current, so it is reverted to first."""
    commands, current = [], None
    for one in snapshots:
        if one.parent != current and one.parent is not None:
            commands.append(f"snapshot-revert --domain {spec.name} --snapshotname {quoted(one.parent)}")
        commands.append(
            f"snapshot-create-as --domain {spec.name} --name {quoted(one.name)} "
            f"--description {quoted(one.description or 'none')}"
        )
        current = one.name
    host.virsh(stdin="\n".join([*commands, "quit"]), timeout=280)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def names_of(host: LabHost, spec: GuestSpec) -> list[str]:
    listed = host.virsh("snapshot-list", "--domain", spec.name, "--name").split("\n")
    return [name for name in listed if name]


def test_two_hundred_of_them_thirty_deep(rig: Rig) -> None:
    rig.lab.define_guest(rig.alpha, GROVE)
    wanted = list(tree())
    plant(rig.alpha, GROVE, wanted)
    assert sorted(names_of(rig.alpha, GROVE)) == sorted(one.name for one in wanted)
    before, contents = evidence.collect(rig.alpha, GROVE), still(rig.alpha, GROVE)
    finished = rig.migrate(GROVE.name, rig.alpha)
    assert finished.returncode == COMMITTED, finished.stderr
    assert failed(evidence.compare(before, evidence.collect(rig.beta, GROVE))) == []
    assert still(rig.beta, GROVE) == contents
    guest = Guest(rig.beta, GROVE.name, GROVE)
    for name in ("deep-29", "leaf-7", *ODD):
        revert(guest, name)
        current = rig.beta.virsh("snapshot-current", "--domain", GROVE.name)
        assert etree.fromstring(current).findtext("name") == name
    rig.destroy(GROVE)


def test_what_only_an_image_or_only_libvirt_knows_is_kept_and_told(rig: Rig) -> None:
    rig.lab.define_guest(rig.alpha, MIXED)
    rig.alpha.virsh("snapshot-create-as", "--domain", MIXED.name, "--name", "unknown-to-libvirt")
    rig.alpha.virsh("snapshot-delete", "--domain", MIXED.name, "unknown-to-libvirt", "--metadata")
    described = rig.alpha.virsh("snapshot-dumpxml", "--domain", MIXED.name, "later")
    rig.alpha.virsh(
        "snapshot-create",
        "--domain",
        MIXED.name,
        "--redefine",
        "/dev/stdin",
        stdin=described.replace("<name>later</name>", "<name>without-data</name>"),
    )
    before = look(rig, rig.alpha, MIXED)
    with watched(rig, MIXED) as watch:
        finished = rig.migrate(MIXED.name, rig.alpha)
    assert finished.returncode == COMMITTED, finished.stderr
    told = " ".join((finished.stdout + finished.stderr).split())
    assert "'unknown-to-libvirt'" in told
    assert "no image has data: 'without-data'" in told
    check_kept(rig, MIXED, before, rig.beta, watch.acks)
    assert "without-data" in names_of(rig.beta, MIXED)
    listed = rig.beta.run(["qemu-img", "snapshot", "-l", "-U", MIXED.disks[0].image(MIXED.name)])
    assert "unknown-to-libvirt" in listed
    for name in ("running", "later"):
        revert(Guest(rig.beta, MIXED.name, MIXED), name)
        assert Guest(rig.beta, MIXED.name).state == "running"
    rig.destroy(MIXED)
    assert [name for host in rig.lab.hosts for name in domains(host)] == []
    assert [path for host in rig.lab.hosts for path in files(host) if "mixed-vd" in path] == []
