"""Reading qcow2 headers and snapshot tables: QEMU's own images, and every way of being damaged."""

from __future__ import annotations

import json
import struct
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fsm.errors import ImageCorrupt
from fsm.images.qcow2 import Image, Read, Snapshot, read_header, read_image

MIB = 1024 * 1024
NAMES = ("plain", "two words", "größer 日本 😀", "q'\"&<x>,y\\z", "x" * 255)


def qemu_img(*arguments: str | Path) -> str:
    return subprocess.run(
        ["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def create(path: Path, *options: str, size: str = "64M", names: tuple[str, ...] = ()) -> Path:
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    for name in names:
        qemu_img("snapshot", "-c", name, path)
    return path


def reader(content: bytes) -> Read:
    return lambda offset, length: content[offset : offset + length]


def read(path: Path) -> Image:
    return read_image(reader(path.read_bytes()))


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("names", [(), ("only",), NAMES, tuple(f"s{n}" for n in range(30))], ids=len)
@pytest.mark.parametrize("cluster_bytes", [512, 65536, 2 * MIB])
def test_qemus_own_images(tmp_path: Path, compat: str, names: tuple[str, ...], cluster_bytes: int) -> None:
    began_s = int(time.time())
    options = f"compat={compat},cluster_size={cluster_bytes}"
    path = create(tmp_path / "a.qcow2", "-o", options, names=names)
    image = read(path)
    assert (image.header.version, image.header.size_bytes) == (2 if compat == "0.10" else 3, 64 * MIB)
    assert image.header.cluster_bytes == cluster_bytes
    assert (image.header.dirty, image.header.marked_corrupt, image.header.backing_file) == (
        False,
        False,
        None,
    )
    told = json.loads(qemu_img("info", "--output=json", path)).get("snapshots", [])
    assert [(one.id, one.name) for one in image.snapshots] == [(one["id"], one["name"]) for one in told]
    assert [(one.date_s, one.date_ns, one.vm_state_bytes) for one in image.snapshots] == [
        (one["date-sec"], one["date-nsec"], one["vm-state-size"]) for one in told
    ]
    assert [one.name for one in image.snapshots] == list(names)
    assert all(began_s <= one.date_s <= time.time() for one in image.snapshots)
    assert {one.disk_size_bytes for one in image.snapshots} <= {64 * MIB}
    assert {one.icount for one in image.snapshots} <= {None, 0}


def test_a_backing_file_and_a_disk_that_grew(tmp_path: Path) -> None:
    create(tmp_path / "ba se.qcow2")
    path = tmp_path / "over.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "ba se.qcow2", "-F", "qcow2", path)
    qemu_img("snapshot", "-c", "small", path)
    qemu_img("resize", "-q", path, "+64M")
    image = read(path)
    assert image.header.backing_file == "ba se.qcow2"
    assert image.header.size_bytes == 128 * MIB
    assert image.snapshots[0].disk_size_bytes == 64 * MIB


def test_saved_memory_of_a_real_qemu(tmp_path: Path) -> None:
    path = create(tmp_path / "a.qcow2")
    subprocess.run(
        ["qemu-system-x86_64", "-accel", "tcg", "-m", "16", "-S", "-nodefaults", "-display", "none",
         "-drive", f"file={path},if=virtio", "-monitor", "stdio"],
        input='savevm "with memory"\nquit\n', text=True, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    told = json.loads(qemu_img("info", "--output=json", path))["snapshots"]
    (snapshot,) = read(path).snapshots
    assert snapshot.vm_state_bytes == told[0]["vm-state-size"] > 10_000
    assert snapshot.vm_clock_ns == told[0]["vm-clock-sec"] * 10**9 + told[0]["vm-clock-nsec"]


def test_little_is_read_of_a_huge_image(tmp_path: Path) -> None:
    path = create(tmp_path / "a.qcow2", size="10T", names=NAMES)
    total = 0

    def counting(offset: int, length: int) -> bytes:
        nonlocal total
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(length)
        total += len(content)
        return content

    assert len(read_image(counting).snapshots) == len(NAMES)
    assert total < 200_000


def header(version: int = 3, *, count: int = 0, **changes: int) -> bytes:
    """A header that is right but for ``changes``."""
    fields = {
        "magic": 0x514649FB, "version": version, "backing_offset": 0, "backing_bytes": 0, "cluster_bits": 16,
        "size": MIB, "crypt": 0, "l1_entries": 1, "l1_offset": 3 << 16, "refcount_offset": 1 << 16,
        "refcount_clusters": 1, "count": count, "snapshots_offset": 1 << 16, "incompatible": 0,
        "compatible": 0, "autoclear": 0, "refcount_order": 4, "header_bytes": 104,
    }  # fmt: skip
    assert changes.keys() <= fields.keys()
    packed = struct.pack(">IIQIIQIIQQIIQQQQII", *(fields | changes).values())
    return packed if version >= 3 else packed[:72]


def entry(name: bytes = b"n", identity: bytes = b"1", extra: bytes = b"", **changes: int) -> bytes:
    fields = {
        "l1_offset": 2 << 16, "l1_entries": 1, "id_bytes": len(identity), "name_bytes": len(name),
        "date_s": 5, "date_ns": 6, "clock": 7, "vm_state": 8, "extra_bytes": len(extra),
    }  # fmt: skip
    assert changes.keys() <= fields.keys()
    made = struct.pack(">QIHHIIQII", *(fields | changes).values()) + extra + identity + name
    return made.ljust(-(-len(made) // 8) * 8, b"\0")


def image(*entries: bytes, version: int = 3, **changes: int) -> bytes:
    return header(version, **{"count": len(entries)} | changes).ljust(1 << 16, b"\0") + b"".join(entries)


def quads(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}Q", *numbers)


@pytest.mark.parametrize(
    ("extra", "vm_state_bytes", "disk_size_bytes", "icount", "unknown"),
    [
        (b"", 8, MIB, None, b""),
        (b"1234567", 8, MIB, None, b"1234567"),
        (quads(2**40), 2**40, MIB, None, b""),
        (quads(0, 512), 0, 512, None, b""),
        (quads(9, 512) + b"abc", 9, 512, None, b"abc"),
        (quads(9, 512, 77), 9, 512, 77, b""),
        (quads(9, 512, 2**64 - 1, 42), 9, 512, None, quads(42)),
    ],
)
def test_each_field_of_the_extra_data_counts_when_it_is_there(
    extra: bytes, vm_state_bytes: int, disk_size_bytes: int, icount: int | None, unknown: bytes
) -> None:
    (snapshot,) = read_image(reader(image(entry(extra=extra), version=2))).snapshots
    assert snapshot == Snapshot(
        "1", "n", 5, 6, 7, vm_state_bytes, disk_size_bytes, 2 << 16, 1, icount, unknown
    )


def test_a_name_that_is_no_utf8_stays_what_it_is() -> None:
    (snapshot,) = read_image(reader(image(entry(b"a\xff\xfeb")))).snapshots
    assert snapshot.name.encode("utf-8", "surrogateescape") == b"a\xff\xfeb"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"magic": 0}, "no qcow2 image"),
        ({"version": 1}, "version 1"),
        ({"version": 4}, "version 4"),
        ({"cluster_bits": 8}, "clusters of 2\\^8"),
        ({"cluster_bits": 22}, "clusters of 2\\^22"),
        ({"cluster_bits": 2**32 - 1}, "clusters of"),
        ({"size": 2**63}, "a disk of"),
        ({"crypt": 3}, "encryption method 3"),
        ({"l1_entries": 4 * MIB + 1}, "active L1 table of 33554440 bytes"),
        ({"l1_offset": 1}, "active L1 table lies at 1"),
        ({"l1_offset": 2**64 - 65536}, "active L1 table lies at"),
        ({"refcount_clusters": 0}, "no refcount table"),
        ({"refcount_clusters": 129}, "refcount table of"),
        ({"refcount_offset": 512}, "refcount table lies at 512"),
        ({"refcount_order": 7}, "refcounts of 2\\^7"),
        ({"count": 65537}, "65537 snapshots"),
        ({"count": 1, "snapshots_offset": 1}, "snapshot table lies at 1"),
        ({"count": 1, "snapshots_offset": 1 << 40}, "the file ends within snapshot 1"),
        ({"incompatible": 1 << 5}, "unknown here \\(bits 0x20\\)"),
        ({"header_bytes": 103}, "header of 103 bytes"),
        ({"header_bytes": 65537}, "header of 65537 bytes"),
        ({"backing_offset": 200, "backing_bytes": 1024}, "name of 1024 bytes"),
        ({"backing_offset": 65530, "backing_bytes": 7}, "name of 7 bytes at 65530"),
        ({"backing_offset": 2**63, "backing_bytes": 1}, "name of 1 bytes"),
    ],
)
def test_a_header_that_no_image_has(changes: dict[str, int], why: str) -> None:
    with pytest.raises(ImageCorrupt, match=why):
        read_image(reader(image(**changes)))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"extra_bytes": 1025}, "snapshot 2 has 1025 bytes of extra data"),
        ({"extra_bytes": 2**32 - 1}, "extra data"),
        ({"l1_entries": 2**32 - 1}, "snapshot 2's L1 table of"),
        ({"l1_offset": 77}, "snapshot 2's L1 table lies at 77"),
        ({"name_bytes": 65535}, "the file ends within snapshot 2"),
        ({"id_bytes": 65535}, "the file ends within snapshot 2"),
    ],
)
def test_an_entry_that_no_table_has(changes: dict[str, int], why: str) -> None:
    with pytest.raises(ImageCorrupt, match=why):
        read_image(reader(image(entry(), entry(**changes))))


def test_a_table_longer_than_qemu_takes() -> None:
    long = entry(b"x" * 65535, b"1" * 65535)

    def endless(offset: int, length: int) -> bytes:
        if offset < 1 << 16:
            return header(count=65536)[offset : offset + length]
        begin = (offset - (1 << 16)) % len(long)
        return (long * (2 + length // len(long)))[begin : begin + length]

    with pytest.raises(ImageCorrupt, match="longer than the 64 MiB"):
        read_image(endless)


def test_marks_of_damage_are_told() -> None:
    assert read_header(reader(image(incompatible=3))).marked_corrupt
    assert read_header(reader(image(incompatible=1))).dirty


@given(st.binary(max_size=400))
@example(b"")
def test_random_bytes_are_an_image_or_corrupt(content: bytes) -> None:
    try:
        read_image(reader(b"QFI\xfb" + content))
        read_image(reader(content))
    except ImageCorrupt:
        pass


@given(st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_changed_bytes_are_an_image_or_corrupt(data: st.DataObject) -> None:
    content = bytearray(image(entry(), entry(b"second", extra=quads(1, 2, 3)), entry(b"third")))
    places = [*range(104), *range(1 << 16, len(content))]
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    try:
        found = read_image(reader(bytes(content)))
    except ImageCorrupt:
        return
    assert len(found.snapshots) == found.header.snapshot_count


@given(st.integers(0, (1 << 16) + 200), st.sampled_from([2, 3]))
def test_a_table_cut_off_anywhere_is_corrupt(length: int, version: int) -> None:
    whole = image(entry(), entry(b"a long name " * 10), version=version).rstrip(b"\0")
    cut = whole[:length]
    if len(cut) == len(whole):
        assert len(read_image(reader(cut)).snapshots) == 2
    else:
        with pytest.raises(ImageCorrupt):
            read_image(reader(cut))


def test_an_error_of_the_reader_is_let_through() -> None:
    def broken(offset: int, length: int) -> bytes:
        raise OSError(offset, length)

    with pytest.raises(OSError):  # noqa: PT011 - whatever the reader raises
        read_image(broken)
