"""The lab itself: hosts that can migrate, that can be cut off, and that leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from fsm.lab import (
    DiskSpec,
    Guest,
    GuestSpec,
    Lab,
    LabError,
    SerialWatch,
    SnapshotSpec,
    acknowledged,
    missing_writes,
    revert,
    snapshot_digests,
    snapshot_table,
)
from fsm.lab.network import exists
from fsm.lab.process import ProcessId, wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces"),
]

ODD = "/var/lib/libvirt/images/a b/q'\"&<x>,y:é.qcow2"
PLAIN = GuestSpec(
    name='it\'s <plain> & "odd"',
    disks=(
        DiskSpec(target="vdb", size_mib=32, data_mib=8, path=ODD, cluster_size=131072),
        DiskSpec(target="vda", size_mib=32, data_mib=4, format="raw"),
        DiskSpec(target="vdc", size_mib=8, data_mib=1, readonly=True),
        DiskSpec(target="hda", device="cdrom", size_mib=1),
        DiskSpec(target="hdb", device="cdrom", empty=True),
    ),
)


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSM_LAB_DIR", str(tmp_path / "labs"))
    return tmp_path / "labs"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.up(guest=False) as made:
        yield made


def traces(directory: Path, links: set[str], processes: list[ProcessId]) -> list[object]:
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    loops = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [
        *(process for process in processes if process.alive()),
        *(link for link in links if exists(link)),
        *(text for text in [mounts, *loops] if str(directory) in text),
        *([directory] if directory.exists() else []),
    ]


def everything(lab: Lab) -> tuple[set[str], list[ProcessId]]:
    status = lab.status()
    links = {status.bridge, f"{status.bridge}-0", f"{status.bridge}-1"}
    return links, [ProcessId.of(pid) for host in lab.hosts for pid in host.pids()]


def test_a_guest_migrates_with_virsh_and_keeps_its_writes(lab: Lab) -> None:
    alpha, beta = lab.hosts
    guest = lab.define_guest(alpha, PLAIN)
    beta.path(ODD).parent.mkdir()
    beta.run(["qemu-img", "create", "-q", "-f", "qcow2", ODD, "32M"])
    beta.run(["qemu-img", "create", "-q", "-f", "raw", PLAIN.disks[1].image(PLAIN.name), "32M"])
    assert "skip vdc read-only ok" in guest.serial_log.read_text()
    with SerialWatch(*lab.serial_logs(PLAIN.name)) as watch:
        alpha.virsh(
            *(
                "migrate",
                "--live",
                "--p2p",
                "--copy-storage-all",
                "--migrate-disks",
                "vda,vdb",
                "--persistent",
            ),
            *("--undefinesource", "--domain", PLAIN.name, "--desturi", beta.uri),
        )
        moved = Guest(beta, PLAIN.name, PLAIN)
        moved.wait_for_writes()
    assert alpha.virsh("list", "--all", "--name").strip() == ""
    assert 0 < watch.longest_gap("vda", "vdb").ms < 5000
    beta.virsh("suspend", "--domain", PLAIN.name)
    acks = acknowledged(*lab.serial_logs(PLAIN.name))
    for disk in PLAIN.disks[:2]:
        image = disk.image(PLAIN.name)
        assert missing_writes(image, acks, disk.target, enter=beta.enter) == []
        assert missing_writes(image, acks, disk.target, enter=alpha.enter), (
            "the image left behind lacks the newest"
        )


def test_snapshots_differ_and_a_revert_goes_back(lab: Lab) -> None:
    alpha = lab.hosts[0]
    tree = (SnapshotSpec("a"), SnapshotSpec("b", "a"), SnapshotSpec("c", "a", "<&>\"' é"))
    spec = GuestSpec(name="tree", snapshots=tree, current="b", state="paused")
    guest = lab.define_guest(alpha, spec)
    image = spec.disks[0].image("tree")
    assert guest.state == "paused"
    assert [one.name for one in snapshot_table(image, enter=alpha.enter)] == ["a", "b", "c"]
    assert all(one.vm_state_bytes > 0 for one in snapshot_table(image, enter=alpha.enter))
    assert len(set(snapshot_digests(image, enter=alpha.enter).values())) == 3
    assert alpha.virsh("snapshot-current", "--domain", "tree", "--name").strip() == "b"
    assert alpha.virsh("snapshot-parent", "--domain", "tree", "--snapshotname", "c").strip() == "a"
    xml = alpha.virsh("snapshot-dumpxml", "--domain", "tree", "--snapshotname", "c")
    assert etree.fromstring(xml).findtext("description") == "<&>\"' é"
    revert(guest, "c")
    alpha.virsh("suspend", "--domain", "tree")
    assert missing_writes(image, guest.acknowledged(), "vda", enter=alpha.enter) == []
    with pytest.raises(LabError, match="exists already"):
        lab.define_guest(alpha, spec)


def test_snapshots_of_a_shut_off_domain(lab: Lab) -> None:
    tree = (SnapshotSpec("x y"), SnapshotSpec("z", "x y"))
    guest = lab.define_guest(
        lab.hosts[1], GuestSpec(snapshots=tree, live_snapshots=False, current="x y", state="shut off")
    )
    assert guest.state == "shut off"
    assert guest.host.virsh("snapshot-current", "--domain", "guest", "--name").strip() == "x y"


def test_faults(lab: Lab) -> None:
    alpha, beta = lab.hosts
    guest = lab.define_guest(alpha, GuestSpec())
    reach = ["timeout", "10", "bash", "-c", f"exec 3<>/dev/tcp/{beta.address}/16509"]
    fail_to_reach = ["timeout", "1", *reach[2:]]
    alpha.run(reach)
    lab.cut()
    assert lab.status().isolated
    with pytest.raises(LabError):
        alpha.run(fail_to_reach)
    assert [host.virsh("list", "--name").strip() for host in lab.hosts] == ["guest", ""]
    lab.mend()
    alpha.run(reach)
    lab.cut(beta)
    assert [host.link_up for host in lab.status().hosts] == [True, False]
    with pytest.raises(LabError):
        alpha.run(fail_to_reach)
    lab.mend()
    alpha.run(reach)
    assert alpha.run(["cat", "/proc/sys/net/ipv4/tcp_retries2"]) == "5\n"

    (qemu,) = alpha.qemu_pids("guest")
    alpha.kill_libvirtd()
    assert alpha.libvirtd_pid() is None
    with pytest.raises(LabError):
        alpha.virsh("list")
    alpha.start_libvirtd()
    assert (guest.state, alpha.qemu_pids("guest")) == ("running", [qemu])
    guest.wait_for_writes("vda")
    alpha.kill_qemu("guest")
    assert alpha.qemu_pids("guest") == []
    wait_until(lambda: guest.state == "shut off", timeout=10, what="libvirtd to see the end of QEMU")
    with pytest.raises(LabError, match="no QEMU of domain 'guest'"):
        alpha.kill_qemu("guest")
    alpha.mount_small("/var/lib/libvirt/images/small", 16)
    with pytest.raises(LabError, match="No space left"):
        alpha.run(["dd", "if=/dev/zero", "of=/var/lib/libvirt/images/small/full", "bs=1M", "count=32"])
    assert alpha.path("/var/lib/libvirt/images/small/full").stat().st_size > 0


def test_two_labs_side_by_side_and_no_trace_of_either(own_directory: Path) -> None:
    with Lab.up("one", guest=PLAIN) as one, Lab.up("two", guest=False) as two:
        assert Lab.names() == ["one", "two"]
        assert one.status().subnet != two.status().subnet
        assert (
            len({host.run(["cat", "/etc/libvirt/libvirtd.conf"]) for lab in (one, two) for host in lab.hosts})
            == 4
        )
        assert [host.run(["hostname"]).strip() for host in one.hosts] == ["alpha", "beta"]
        one.hosts[0].mount_small("/var/lib/libvirt/images/small", 16)
        with pytest.raises(LabError, match="a lab named 'two' exists already"):
            Lab.up("two")
        links, processes = everything(one)
        other_links, other_processes = everything(two)
        assert len(processes) >= 5  # a holder and a libvirtd each, and the guest's QEMU
        Lab.load("one").down()
        assert traces(own_directory / "one", links, processes) == []
        assert all(process.alive() for process in other_processes)
        assert two.hosts[0].virsh("list").strip() == ""
    assert traces(own_directory, links | other_links, processes + other_processes) == []


def test_down_of_an_up_that_was_killed(own_directory: Path) -> None:
    """Killed at every step it reports, ``up`` leaves only what ``down`` from another process finds."""
    script = (
        "import sys; from fsm.lab import Lab\n"
        "def step(text): print(text, flush=True); sys.stdin.readline()\n"
        "Lab.up('broken', guest=True, progress=step)"
    )
    for steps in range(1, 5):
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for _ in range(steps - 1):
                process.stdout.readline()
                process.stdin.write("\n")
            process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert Lab.names() == ["broken"]
        links, processes = everything(Lab.load("broken"))
        assert Lab.load("broken").status().name == "broken"
        Lab.load("broken").down()
        assert traces(own_directory, links, processes) == []


def test_a_failing_up_cleans_up_after_itself(own_directory: Path) -> None:
    with pytest.raises(LabError, match="internal snapshot"):
        Lab.up(guest=GuestSpec(disks=(DiskSpec(target="vda", format="raw"),), snapshots=(SnapshotSpec("a"),)))
    assert not own_directory.exists()


def test_a_stale_handle_leaves_a_new_lab_of_the_same_name_alone() -> None:
    old = Lab.up("same", guest=False)
    Lab.load("same").down()
    with Lab.up("same", guest=False) as new:
        old.down()
        assert all(host.up and host.libvirtd_pid for host in new.status().hosts)


def test_hosts_that_ask_polkit_leave_no_trace(own_directory: Path) -> None:
    with Lab.up(guest=False, access_control=True) as lab:
        assert [host.virsh("list").strip() for host in Lab.load(lab.name).hosts] == ["", ""]
        links, processes = everything(lab)
        assert len(processes) >= 8  # a holder, a message bus, a polkitd and a libvirtd each
    assert traces(own_directory, links, processes) == []
