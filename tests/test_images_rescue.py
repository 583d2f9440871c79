"""A snapshot in an overlay becomes an image of its own: compared with what qemu-img makes of both."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from fsm.errors import HostError, ImageCorrupt
from fsm.hypervisor.port import DataSink
from fsm.hypervisor.values import Overlay
from fsm.images.rescue import save_snapshot
from fsm.images.standalone import CLUSTER, PER_L2, runs_of

MIB = 1 << 20


@define
class LocalHost:
    """The files of this machine as a host's."""

    removed: list[str] = field(factory=list)
    fail_at: int | None = None

    @property
    def storage(self) -> LocalHost:
        return self

    async def connect(self, _uri: str) -> LocalHost:
        return self

    def open_channel(self, _uri: str) -> LocalHost:
        return self

    async def create_sparse(self, path: str, size_bytes: int) -> None:
        make_file(path, size_bytes)

    async def make_durable(self, _path: str) -> bool:
        return True

    async def remove(self, path: str) -> None:
        self.removed.append(path)
        remove_files(path)

    def read(self, path: str, offset: int, length: int, sink: DataSink) -> None:
        """In pieces that begin nowhere in particular, with the holes that the file has."""
        with Path(path).open("rb") as file:
            end = min(offset + length, os.fstat(file.fileno()).st_size)
            while offset < end:
                file.seek(offset)
                chunk = file.read(min(100_003, end - offset))
                if any(chunk):
                    sink.data(offset, chunk)
                else:
                    sink.hole(offset, len(chunk))
                offset += len(chunk)

    def writer(self, path: str) -> LocalWriter:
        return LocalWriter(Path(path), self)

    def close(self) -> Any:
        """Of a channel and of a host alike."""
        return _Done()


class _Done:
    def __await__(self) -> Any:
        return iter(())


@define
class LocalWriter:
    path: Path
    host: LocalHost

    def data(self, offset: int, chunk: bytes) -> None:
        if self.host.fail_at is not None and offset >= self.host.fail_at:
            raise HostError("no space", host="here")
        with self.path.open("r+b") as file:
            assert offset + len(chunk) <= os.fstat(file.fileno()).st_size, (
                "the file was made as long as it is"
            )
            file.seek(offset)
            file.write(chunk)

    def hole(self, offset: int, length: int) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


def make_file(path: str, size_bytes: int) -> None:
    with Path(path).open("xb") as file:
        file.truncate(size_bytes)


def remove_files(*paths: str) -> None:
    for path in paths:
        Path(path).unlink()


def run(*words: object) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def write(image: Path, *commands: str) -> None:
    run(
        "qemu-io",
        "-f",
        "qcow2" if image.suffix == ".qcow2" else "raw",
        *(w for c in commands for w in ("-c", c)),
        image,
    )


def make(directory: Path, size: str, base_format: str, cluster: str, *, compressed: bool = False) -> Overlay:
    """A base with data, an overlay on it with a snapshot, and changes behind the snapshot."""
    base, overlay = directory / f"base.{base_format}", directory / "overlay.qcow2"
    options = ["-o", f"cluster_size={cluster}"] if base_format == "qcow2" else []
    run("qemu-img", "create", "-f", base_format, *options, base, size)
    write(base, "write -P 1 0 300k", "write -P 2 5M 64k", "write -P 3 11M 1M")
    if compressed:
        run("qemu-img", "convert", "-c", "-O", "qcow2", *options, base, directory / "small.qcow2")
        (directory / "small.qcow2").rename(base)
    if base_format == "qcow2":
        run("qemu-img", "snapshot", "-c", "own", base)
    run("qemu-img", "create", "-f", "qcow2", "-b", base, "-F", base_format, overlay)
    write(overlay, "write -P 4 100k 10k", "write -z 5M 4k", "write -z 11M 128k", "write -P 5 7M 200k")
    run("qemu-img", "snapshot", "-c", "a 'b' & ü", overlay)
    write(overlay, "write -P 6 0 12M", "discard 7M 64k")
    run("qemu-img", "snapshot", "-c", "later", overlay)
    return Overlay("vda", str(overlay), str(base), base_format)


def content(image: str | Path, snapshot: str | None = None) -> bytes:
    out = Path(image).with_suffix(".out")
    which = ["-l", f"snapshot.name={snapshot}"] if snapshot else []
    run("qemu-img", "convert", *which, "-O", "raw", image, out)
    found = out.read_bytes()
    out.unlink()
    return found


@pytest.mark.parametrize("name", ["a 'b' & ü", "later"])
@pytest.mark.parametrize(
    ("size", "base_format", "cluster", "compressed"),
    [
        ("12M", "qcow2", "64k", False),
        ("12M", "qcow2", "4k", False),
        ("12M", "qcow2", "2M", False),
        ("12M", "qcow2", "64k", True),
        ("12M", "qcow2", "512k", True),
        ("12M", "raw", "", False),
        ("12289k", "qcow2", "64k", False),
        ("700M", "qcow2", "64k", False),
    ],
)
async def test_the_image_holds_the_snapshot_and_needs_nothing_else(
    tmp_path: Path,
    size: str,
    base_format: str,
    cluster: str,
    compressed: bool,  # noqa: FBT001
    name: str,
) -> None:
    overlay = make(tmp_path, size, base_format, cluster, compressed=compressed)
    expected = content(overlay.path, name)
    (tmp_path / "apart").mkdir()
    saved = tmp_path / "apart" / "saved.qcow2"
    told: list[int] = []
    await save_snapshot(
        LocalHost(), "here", overlay, name, str(saved), progress=lambda data, _hole: told.append(data)
    )
    remove_files(overlay.path, overlay.base)
    assert "No errors were found" in run("qemu-img", "check", saved)
    info = json.loads(run("qemu-img", "info", "--output=json", saved))
    assert [one["name"] for one in info["snapshots"]] == [name]
    assert "backing-filename" not in info
    assert content(saved, name) == expected
    assert content(saved) == expected
    assert told[-1] > 0
    # It can be used like any other image.
    run("qemu-img", "snapshot", "-a", name, saved)
    write(saved, "write -P 9 0 1M")
    assert "No errors were found" in run("qemu-img", "check", saved)
    assert content(saved, name) == expected
    run("qemu-img", "snapshot", "-d", name, saved)
    assert "No errors were found" in run("qemu-img", "check", saved)


async def test_an_image_that_could_not_be_finished_is_removed(tmp_path: Path) -> None:
    overlay = make(tmp_path, "12M", "qcow2", "64k")
    saved, host = tmp_path / "saved.qcow2", LocalHost(fail_at=MIB)
    with pytest.raises(HostError, match="no space"):
        await save_snapshot(host, "here", overlay, "later", str(saved))
    assert host.removed == [str(saved)]
    assert not saved.exists()


async def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    overlay = make(tmp_path, "12M", "qcow2", "64k")
    saved, host = tmp_path / "saved.qcow2", LocalHost()
    saved.write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        await save_snapshot(host, "here", overlay, "later", str(saved))
    assert saved.read_bytes() == b"somebody's"


async def test_a_snapshot_that_is_not_there(tmp_path: Path) -> None:
    overlay = make(tmp_path, "12M", "qcow2", "64k")
    with pytest.raises(ImageCorrupt, match="'own'"):  # it lies in the base
        await save_snapshot(LocalHost(), "here", overlay, "own", str(tmp_path / "saved.qcow2"))


async def test_what_can_not_be_taken_apart_is_refused(tmp_path: Path) -> None:
    overlay = make(tmp_path, "12M", "qcow2", "64k")
    run("qemu-img", "create", "-f", "qcow2", "-o", "extended_l2=on", overlay.base, "12M")
    with pytest.raises(ImageCorrupt, match="subclusters"):
        await save_snapshot(LocalHost(), "here", overlay, "later", str(tmp_path / "saved.qcow2"))


def test_clusters_that_ranges_touch() -> None:
    assert runs_of([]) == ()
    assert runs_of([(0, 1), (10, CLUSTER), (5 * CLUSTER, 1)]) == ((0, 2), (5, 1))
    assert runs_of([(PER_L2 * CLUSTER - 1, 2)]) == ((PER_L2 - 1, 2),)


async def test_what_is_below_the_base_is_in_the_image_too(tmp_path: Path) -> None:
    overlay = make(tmp_path, "12M", "qcow2", "64k")
    raw, middle = tmp_path / "golden.raw", tmp_path / "middle.qcow2"
    run("qemu-img", "create", "-f", "raw", raw, "11M")  # shorter than the disk
    write(raw, "write -P 7 1M 1M", "write -P 8 10M 1M")
    run("qemu-img", "create", "-f", "qcow2", "-b", "golden.raw", "-F", "raw", middle, "12M")
    write(middle, "write -P 9 2M 64k", "write -z 10M 64k")
    # As a template below an image that knew of none: what that image does not hold shows through.
    run("qemu-img", "rebase", "-u", "-b", middle, "-F", "qcow2", overlay.base)
    name = "a 'b' & \u00fc"
    expected = content(overlay.path, name)
    assert expected[1 << 20] == 7
    saved = tmp_path / "saved.qcow2"
    await save_snapshot(LocalHost(), "here", overlay, name, str(saved))
    remove_files(overlay.path, overlay.base, str(middle), str(raw))
    assert content(saved, name) == expected


async def test_a_chain_without_an_end_is_given_up(tmp_path: Path) -> None:
    overlay = make(tmp_path, "12M", "qcow2", "64k")
    run("qemu-img", "rebase", "-u", "-b", overlay.base, "-F", "qcow2", overlay.base)
    with pytest.raises(ImageCorrupt, match="does not end"):
        await save_snapshot(LocalHost(), "here", overlay, "later", str(tmp_path / "saved.qcow2"))
