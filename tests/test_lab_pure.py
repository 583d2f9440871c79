"""The lab's parts that need no host: parsing, addresses, the state file, proofs on made-up images."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import zlib
from pathlib import Path

import attrs
import pytest
from lxml import etree

from fsm.lab import state
from fsm.lab.errors import LabError
from fsm.lab.guest import DEFAULT_GUEST, _check_order
from fsm.lab.initramfs import cpio
from fsm.lab.network import RANGE, choose_subnet
from fsm.lab.process import ProcessId, kill, run, wait_until
from fsm.lab.proof import (
    Block,
    active_digest,
    content_digest,
    missing,
    missing_writes,
    parse_block,
    ring_blocks,
    snapshot_digests,
    snapshot_table,
)
from fsm.lab.serial import Ack, Arrival, SerialWatch, acknowledged, last_run, longest_gap, parse_line
from fsm.lab.spec import DiskSpec, GuestSpec, Ring, SnapshotSpec, domain_xml

RING = Ring(offset_kib=1024, slots=8)
SUBNET = ("10.213.0.8/29", "10.213.0.9", "10.213.0.10", "10.213.0.11")


def block(sequence: int, *, disk: str = "vda", boot: int = 1) -> bytes:
    raw = struct.pack("<8s24sQQQ", b"FSMRING1", disk.encode(), boot, sequence, 10 * sequence).ljust(
        4092, b"x"
    )
    return raw + zlib.crc32(raw).to_bytes(4, "little")


def write_ring(path: Path, sequences: range, *, skip: int | None = None) -> None:
    """Write blocks into a raw or qcow2 image, one of them not."""
    data = bytearray(RING.slots * 4096)
    for sequence in sequences:
        if sequence != skip:
            slot = sequence % RING.slots
            data[slot * 4096 : slot * 4096 + 4096] = block(sequence)
    source = path.parent / "ring"  # qemu-io splits its commands at spaces
    source.write_bytes(data)
    run(["qemu-io", "-f", "qcow2", "-c", f"write -s {source} 1M {len(data)}", str(path)])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a b, 'c'.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"])
    return path


# Serial port


def test_ack_lines_are_read_and_torn_ones_are_not() -> None:
    assert parse_line(b"ack vda 1 17 2900 ok\r") == Ack("vda", 1, 17, 2900)
    for torn in (
        b"ack vda 1 17 29",
        b"k vda 1 17 2900 ok",
        b"vda 1 17 2900 ok",
        b"ack vda 1 1[ 0.1] x 7 1 ok",
        b"",
    ):
        assert parse_line(torn) is None
    assert parse_line(b"fail vda 1 17 28 ok") is None


def test_a_revert_undoes_the_acks_of_its_own_disk_only() -> None:
    before = [Ack("vda", 1, number, number) for number in range(1, 9)] + [Ack("vdb", 1, 1, 1)]
    after = [Ack("vda", 2, 5, 90), Ack("vda", 2, 6, 91)]
    assert last_run([*before, *after]) == [*after, Ack("vdb", 1, 1, 1)]


def test_acks_of_both_hosts_are_joined_and_an_unfinished_line_waits(tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.write_bytes(b"boot vda 1 1 8 ok\nack vda 1 1 10 ok\nack vda 1 2")
    destination.write_bytes(b" 20 ok\nack vda 1 3 30 ok\n")
    assert acknowledged(source, destination, tmp_path / "missing") == [
        Ack("vda", 1, 1, 10),
        Ack("vda", 1, 3, 30),
    ]


def test_the_longest_gap_counts_a_single_silent_disk_and_the_ends() -> None:
    arrivals = [Arrival(at, Ack("vda", 1, int(at), 0)) for at in (10.0, 20.0, 95.0)]
    other = [Arrival(at, Ack("vdb", 1, int(at), 0)) for at in (5.0, 50.0, 99.0)]
    gap = longest_gap([*arrivals, *other], ["vda", "vdb"], 0.0, 100.0)
    assert (gap.disk, gap.ms) == ("vda", 75.0)
    assert longest_gap(other, ["vda", "vdb"], 0.0, 100.0).ms == 100.0
    assert longest_gap(other, ["vdb"], 0.0, 300.0).ms == 201.0


def test_a_watch_sees_what_arrives_and_not_what_was_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"ack vda 1 1 1 ok\n")
    with SerialWatch(old, new) as watch:
        with old.open("ab") as file:
            file.write(b"ack vda 1 2 2 ok\nack vda 1 ")
        new.write_bytes(b"ack vda 1 3 3 ok\n")
        wait_until(lambda: len(watch.arrivals) == 2, timeout=5, what="two acks")
    assert {ack.sequence for ack in watch.acks} == {2, 3}


# Addresses and state


def test_the_only_free_network_is_found_and_none_is_an_error() -> None:
    free = "10.213.7.16/29"
    used = [str(net) for net in RANGE.subnets(new_prefix=29) if str(net) != free]
    assert choose_subnet(used) == (free, "10.213.7.17", "10.213.7.18", "10.213.7.19")
    with pytest.raises(LabError, match="no free network"):
        choose_subnet(["10.0.0.0/8"])
    with pytest.raises(LabError, match="no free network"):
        choose_subnet([*used, "10.213.7.20/32"])


def test_other_networks_do_not_matter() -> None:
    assert choose_subnet(["192.168.1.1/24", "fd00::/8", "10.214.0.0/16"])[0].endswith("/29")


def test_state_is_saved_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSM_LAB_DIR", str(tmp_path / "labs"))
    made = state.new_state("demo", SUBNET, ("alpha", "beta"))
    host = attrs.evolve(made.hosts[0], holder=ProcessId.of(os.getpid()))
    made = attrs.evolve(made, hosts=(host, made.hosts[1]))
    state.directory("demo").mkdir(parents=True)
    state.save(made)
    assert state.names() == ["demo"]
    assert state.load("demo") == made
    assert all(len(host.link) <= 15 for host in made.hosts)
    with pytest.raises(LabError, match="no lab named 'other'; there are: demo"):
        state.load("other")
    (state.directory("demo") / "state.json").write_text('{"name": "demo"}')
    with pytest.raises(LabError, match="damaged"):
        state.load("demo")


@pytest.mark.parametrize("name", ["", "../x", "A", "-x", "a/b", "x" * 32, "a b", "a\n"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="can't be the name"):
        state.directory(name)


def test_the_lock_goes_on_when_the_directory_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSM_LAB_DIR", str(tmp_path / "labs"))
    with state.locked():
        state.remove_base_if_empty()
    assert not (tmp_path / "labs").exists()
    with state.locked():
        assert (tmp_path / "labs").is_dir()


# Processes


def test_only_the_very_process_is_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = ProcessId.of(process.pid)
        assert identity.alive()
        assert not attrs.evolve(identity, start_time=identity.start_time + 1).alive()
        assert not kill(process.pid, lambda _: False)
        assert process.poll() is None
        assert kill(process.pid, lambda _: identity.alive())
        assert process.wait() == -signal.SIGKILL
    assert not identity.alive()
    assert not kill(process.pid, lambda _: True)


def test_a_failing_command_says_what_it_printed() -> None:
    with pytest.raises(LabError, match=r"no-such-file.*No such file"):
        run(["ls", "/no-such-file"])
    with pytest.raises(LabError, match="no-such-command: no such command"):
        run(["no-such-command"])
    with pytest.raises(LabError, match=r"no answer within 0\.1 s"):
        run(["sleep", "60"], timeout=0.1)


# Guests


def test_odd_names_and_paths_survive_in_the_xml() -> None:
    path = "/var/lib/libvirt/images/a b'\"&<x>.qcow2"
    disks = (
        DiskSpec(target="vda", path=path),
        DiskSpec(target="hda", device="cdrom", empty=True),
        DiskSpec(target="vdb", format="raw", readonly=True),
    )
    spec = GuestSpec(name="g & <h>", disks=disks, extra_devices="<rng model='virtio'/>")
    domain = etree.fromstring(domain_xml(spec, "/boot/k", direct_io=True))
    assert domain.get("type") == "qemu"
    assert domain.findtext("name") == "g & <h>"
    assert domain.find("devices/disk/source").get("file") == path
    assert domain.find("devices/disk[@device='cdrom']/source") is None
    assert domain.find("devices/rng") is not None
    assert spec.written_targets == ("vda",)
    assert [disk.on_both_hosts for disk in disks] == [False, True, True]


def test_impossible_snapshot_trees_are_refused() -> None:
    _check_order(DEFAULT_GUEST)
    for snapshots in (
        (SnapshotSpec("a", "b"),),
        (SnapshotSpec("a"), SnapshotSpec("b")),
        (SnapshotSpec("a"), SnapshotSpec("b", "c")),
    ):
        with pytest.raises(LabError, match="can't be its parent"):
            _check_order(GuestSpec(snapshots=snapshots))
    with pytest.raises(LabError, match="no snapshot 'x'"):
        _check_order(GuestSpec(snapshots=(SnapshotSpec("a"),), current="x"))


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_the_archive_is_one_that_cpio_reads(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(cpio([("d", 0o040755, b"", (0, 0)), ("d/file", 0o100644, b"content", (0, 0))]))
    with archive.open("rb") as file:
        listed = subprocess.run(
            ["cpio", "--extract", "--make-directories", "--verbose"],
            stdin=file,
            cwd=tmp_path,
            capture_output=True,
            check=True,
            text=True,
        )
    assert listed.stderr.split() == ["d", "d/file", "1", "block"]
    assert (tmp_path / "d/file").read_bytes() == b"content"


# Proofs: each also shown to fail


def test_a_block_is_read_and_a_damaged_one_is_not() -> None:
    raw = block(7)
    assert parse_block(raw) == Block("vda", 1, 7, 70)
    assert parse_block(raw[:100] + b"y" + raw[101:]) is None
    assert parse_block(bytes(4096)) is None
    assert parse_block(raw[:-1]) is None


def test_every_acknowledged_write_is_demanded(image: Path) -> None:
    write_ring(image, range(5, 13))
    acks = [Ack("vda", 1, number, 0) for number in range(1, 13)]
    assert missing_writes(image, acks, "vda", RING) == []
    too_many = [*acks, Ack("vda", 1, 13, 0)]
    assert [lost.ack.sequence for lost in missing_writes(image, too_many, "vda", RING)] == [13]


def test_a_lost_write_is_found(image: Path) -> None:
    write_ring(image, range(5, 13), skip=9)
    lost = missing_writes(image, [Ack("vda", 1, number, 0) for number in range(1, 13)], "vda", RING)
    assert [(one.ack.sequence, one.slot, one.found) for one in lost] == [(1, 1, None), (9, 1, None)]


def test_writes_of_another_disk_boot_or_slot_do_not_count() -> None:
    ack = Ack("vda", 1, 9, 0)
    for found in (Block("vdb", 1, 9, 0), Block("vda", 2, 9, 0), Block("vda", 1, 1, 0)):
        assert [one.found for one in missing({1: found}, [ack], 8)] == [found]
    for found in (Block("vda", 1, 9, 0), Block("vda", 2, 17, 0)):
        assert missing({1: found}, [ack], 8) == []


def test_a_chain_is_read_through(image: Path, tmp_path: Path) -> None:
    write_ring(image, range(5, 13))
    overlay = tmp_path / "overlay"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(overlay)])
    write_ring(overlay, range(8, 16))
    assert sorted(found.sequence for found in ring_blocks(overlay, RING).values()) == list(range(8, 16))
    assert active_digest(overlay) != active_digest(image)


def test_a_changed_snapshot_is_found(image: Path, tmp_path: Path) -> None:
    write_ring(image, range(8))
    for name in ("s1", "name, with = and 'quotes'"):
        run(["qemu-img", "snapshot", "-c", name, str(image)])
        write_ring(image, range(8, 16))
    before = snapshot_digests(image)
    assert list(before) == ["s1", "name, with = and 'quotes'"]
    assert len(set(before.values())) == 2
    assert [entry.vm_state_bytes for entry in snapshot_table(image)] == [0, 0]
    write_ring(image, range(16, 24))
    assert snapshot_digests(image) == before, "the active layer is none of a snapshot's business"

    run(["qemu-img", "snapshot", "-a", "s1", str(image)])
    run(["qemu-img", "snapshot", "-d", "s1", str(image)])
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 1 4M 512", str(image)])
    run(["qemu-img", "snapshot", "-c", "s1", str(image)])
    after = snapshot_digests(image)
    assert after["s1"] != before["s1"]
    assert after["name, with = and 'quotes'"] == before["name, with = and 'quotes'"]


def test_a_digest_depends_on_content_and_not_on_allocation(tmp_path: Path) -> None:
    size = 1024 * 1024 + 512
    sparse, full, other, longer = (tmp_path / name for name in ("sparse", "full", "other", "longer"))
    content = bytearray(size)
    content[300_000:300_010] = b"0123456789"
    full.write_bytes(content)
    with sparse.open("wb") as file:
        file.seek(300_000)
        file.write(b"0123456789")
        file.truncate(size)
    longer.write_bytes(content + b"\0")
    content[-1] = 1
    other.write_bytes(content)
    assert content_digest(sparse) == content_digest(full)
    assert len({content_digest(path) for path in (full, other, longer)}) == 3
