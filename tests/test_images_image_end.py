"""Where an image ends, as qemu-img sees it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import cast

import pytest

from fsm.errors import ImageCorrupt
from fsm.hypervisor.port import Storage
from fsm.images.image_end import end_in_file, image_end

MIB = 1 << 20


class Files:
    """This machine's files, as far as the question needs them."""

    async def peek(self, path: str, offset: int, length: int) -> bytes:
        """See ``Storage``."""
        return read(path, offset, length)


def read(path: str, offset: int, length: int) -> bytes:
    with Path(path).open("rb") as file:
        file.seek(offset)
        return file.read(length)


FILES = cast(Storage, Files())


def qemu_img(*words: str) -> str:
    return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True).stdout


def write(path: str, offset: int) -> None:
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -q {offset} 100k", path]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("bits", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("cluster", ["512", "64k", "2M"])
async def test_it_ends_where_qemu_says(tmp_path: Path, bits: int, cluster: str) -> None:
    path = str(tmp_path / "a.qcow2")
    options = f"cluster_size={cluster},refcount_bits={bits}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "64M")
    seen = []
    for offset in (0, 40 * MIB, 63 * MIB):
        write(path, offset)
        told = json.loads(qemu_img("check", "--output=json", path))
        seen.append(await image_end(FILES, path))
        assert seen[-1] == told["image-end-offset"]
    assert seen == sorted(seen)
    os.truncate(path, seen[-1] + 8 * MIB)  # as on a device
    assert await image_end(FILES, path) == seen[-1]


async def test_tables_that_can_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", str(path), "64M")
    whole = path.read_bytes()
    path.write_bytes(whole[: 64 * 1024 + 100])
    with pytest.raises(ImageCorrupt, match="ends within"):
        await image_end(FILES, str(path))
    path.write_bytes(whole[: 64 * 1024] + bytes(len(whole)))
    with pytest.raises(ImageCorrupt, match="no cluster"):
        await image_end(FILES, str(path))
    assert await end_in_file(FILES, str(path), 12345) == 12345
