"""Devices are followed down to hardware that has one name everywhere, and have no name where that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fsm.engine import hardware
from fsm.engine.hardware import named
from fsm.hypervisor.shell import Shell

WWID = "naa.6001405aa0b1c2d3e4f5061728394a5b"
OTHER = "naa.600140500000000000000000000000ff"
PATHS = ["253:1 paths 8:16 8:32", f"8:16 wwid {WWID}", f"8:32 wwid {WWID.upper().replace('NAA', 'naa')}"]


def linear(offset: int) -> list[str]:
    """A logical volume over two paths to one LUN."""
    return ["253:4", f"253:4 table 0 409600 linear 253:1 {offset}", *PATHS]


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (["8:16", f"8:16 wwid {WWID}"], WWID),
        (["259:1", "259:1 wwid eui.0025385b21404b77"], "eui.0025385b21404b77"),
        (
            ["259:1", "259:1 wwid uuid.7dcbd5ae-1a07-4b25-8a3a-5f0b3f1f4a11"],
            "uuid.7dcbd5ae-1a07-4b25-8a3a-5f0b3f1f4a11",
        ),
        (["253:1", *PATHS], WWID),
        (["8:17", "8:17 part 2048 8:16", f"8:16 wwid {WWID}"], f"{WWID} from 2048"),
        (linear(2048), f"0 409600 linear ({WWID}) 2048"),
        (
            [
                "253:5",
                "253:5 table 0 8192 striped 2 128 8:16 0 8:48 64",
                f"8:16 wwid {WWID}",
                f"8:48 wwid {OTHER}",
            ],
            f"0 8192 striped 2 128 ({WWID}) 0 ({OTHER}) 64",
        ),
    ],
)
def test_what_has_a_name(told: list[str], name: str) -> None:
    assert (named(told).name, named(told).why) == (name, "")


def test_a_volume_that_was_moved_on_one_host_alone_has_another_name() -> None:
    assert named(linear(2048)).name != named(linear(4096)).name


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([], "no such block device"),
        (["7:0", "7:0 wwid "], "disk 7:0 has no WWID"),
        (["8:0", "8:0 wwid t10.ATA     QEMU HARDDISK   QM00001"], "may be another disk's as well"),
        (["8:0", "8:0 wwid naa.0000000000000000"], "may be another disk's as well"),
        (["259:0", "259:0 wwid nvme.1b36-31-51454d55-00000001"], "may be another disk's as well"),
        (["253:2", "253:2 table 0 8192 thin 253:1 7", *PATHS], "device 253:2"),
        (["253:2", "253:2 table 0 8 linear 253:1 0", "253:2 table 8 8 crypt x", *PATHS], "device 253:2"),
        (["253:2", "253:2 table 0 8192 linear 253:3 0"], "device 253:3"),
        (["253:2"], "device 253:2"),
        (["253:1", "253:1 paths"], "device 253:1"),
        (["253:1", "253:1 paths 8:16 8:48", f"8:16 wwid {WWID}", f"8:48 wwid {OTHER}"], "device 253:1"),
        (["253:4", "253:4 table 0 8192 linear 9:0 0", "9:0 wwid"], "disk 9:0 has no WWID"),
    ],
)
def test_what_has_none(told: list[str], why: str) -> None:
    assert named(told).name == ""
    assert why in named(told).why


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree such as the kernel shows, in the place of its own; ``dmsetup`` tells of one mapping."""
    for number, below in (("253:4", "253:1"), ("253:1", "8:16")):
        (tmp_path / number / "slaves").mkdir(parents=True)
        (tmp_path / number / "slaves" / "below").symlink_to(tmp_path / below)
    (tmp_path / "8:16" / "device").mkdir(parents=True)
    (tmp_path / "8:16" / "device" / "wwid").write_text(f"{WWID}\n")
    for number, uuid in (("253:4", "LVM-abc"), ("253:1", f"mpath-3{WWID[4:]}")):
        (tmp_path / number / "dm").mkdir()
        (tmp_path / number / "dm" / "uuid").write_text(f"{uuid}\n")
    part = tmp_path / "8:16" / "sdb1"
    part.mkdir()
    for name, text in (("partition", "1"), ("start", "2048"), ("dev", "8:17")):
        (part / name).write_text(f"{text}\n")
    (tmp_path / "8:17").symlink_to(part)
    for number in ("253:4", "253:1", "8:16"):
        (tmp_path / number / "dev").write_text(f"{number}\n")
    tools = tmp_path / "bin"
    tools.mkdir()
    dmsetup = tools / "dmsetup"
    dmsetup.write_text(
        '#!/bin/sh\n[ "$*" = "table --major 253 --minor 4" ] && echo 0 409600 linear 253:1 2048\n'
    )
    dmsetup.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    script = hardware._WALK.replace("/sys/dev/block", str(tmp_path))
    script = script.replace('[ -b "$p" ] || exit 0', ":")
    script = script.replace("stat -L --format='%t %T' --", "echo")
    monkeypatch.setattr(hardware, "_WALK", script)
    return tmp_path


async def test_the_kernels_tree_is_walked_down(kernel: Path) -> None:
    """With files that stand for it, from "major minor": the kernel at hand may have no mappings."""
    shell, volume = Shell("qemu:///system"), f"0 409600 linear ({WWID}) 2048"
    for path, name in (("fd 4", volume), ("fd 1", WWID), ("8 10", WWID), ("8 11", f"{WWID} from 2048")):
        assert (await hardware.hardware_of(shell, path)).name == name
    (kernel / "bin" / "dmsetup").write_text("#!/bin/sh\nexit 1\n")
    assert (await hardware.hardware_of(shell, "fd 4")).name == ""


async def test_what_is_no_device_has_none() -> None:
    assert "no such" in (await hardware.hardware_of(Shell("qemu:///system"), "/dev/null")).why
