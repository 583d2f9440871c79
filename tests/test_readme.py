"""The README's Python is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fsm.lab import DiskSpec, GuestSpec, SnapshotSpec
from tests.lab_rig import NEEDS_LAB, Rig, check_kept, lab_in, look, watched

README = Path(__file__).parent.parent / "README.md"
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(block: str, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a block as a script, with words behind its name."""
    script = directory / "example.py"
    script.write_text(block, "utf-8")
    return subprocess.run(
        [sys.executable, str(script), *words],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def embedding() -> str:
    """The example that migrates: the one script that takes words."""
    (block,) = [block for block in BLOCKS if "sys.argv" in block]
    return block


@pytest.mark.parametrize("block", [block for block in BLOCKS if "sys.argv" not in block])
def test_the_other_examples_run(block: str, tmp_path: Path) -> None:
    finished = run(block, tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_the_embedding_example_is_short() -> None:
    body = [line for line in embedding().splitlines() if line and not line.startswith(("import", "from"))]
    assert len(body) <= 10


class TestOnTwoHosts:
    """With a guest that writes."""

    pytestmark = NEEDS_LAB

    def test_the_embedding_example_migrates(self, tmp_path: Path) -> None:
        spec = GuestSpec(
            disks=(DiskSpec(target="vda", size_mib=16),),
            snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
        )
        with lab_in(tmp_path / "labs") as lab:
            alpha, beta = lab.hosts
            lab.define_guest(alpha, spec)
            rig = Rig(lab, tmp_path / "journal.db")
            before = look(rig, alpha, spec)
            with watched(rig, spec) as watch:
                finished = run(embedding(), tmp_path, spec.name, alpha.uri, beta.uri)
            assert (finished.returncode, finished.stderr) == (0, "")
            assert finished.stdout.split() == ["committed"]
            check_kept(rig, spec, before, beta, watch.acks)
