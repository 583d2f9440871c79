"""What ``./dev`` has that takes an hour, in its smallest form: the whole of it is a command of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fsm.lab import suite
from tests.documented import ROOT
from tests.faults.run import RIGHT
from tests.lab_rig import LONG_LAB

pytestmark = LONG_LAB

SMALLEST = {
    "./dev setup": "./dev setup",
    "./dev test": './dev test -m "not lab" tests/test_pages.py',
    "./dev mutants": "./dev mutants -k the_list",
    "./dev faults": "./dev faults --state planned --fault engine-transition-after-intent --json results.json",
    "./dev matrix": "./dev matrix --pair {suite}:{suite} --merge commit --storage copy --json results.json",
    "./dev nfs": "./dev nfs --collect-only",
}
"""Of each command that is not called by what must pass before a change lands."""


def run(name: str, directory: Path) -> Any:
    """Run it; what it has written as JSON, if anything."""
    line = SMALLEST[name].format(suite=suite.native())
    results = directory / "results.json"
    done = subprocess.run(
        ["bash", "-c", line.replace(results.name, str(results))],
        cwd=ROOT,
        env={**os.environ, "FSM_LAB_DIR": str(directory / "labs")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(results.read_text("utf-8")) if results.exists() else None


@pytest.mark.parametrize("name", ["./dev setup", "./dev test", "./dev mutants"])
def test_what_needs_no_hosts(name: str, tmp_path: Path) -> None:
    run(name, tmp_path)


def test_one_fault_in_one_state(tmp_path: Path) -> None:
    (row,) = run("./dev faults", tmp_path)["rows"]
    assert (row["verdict"], row["ended"]) == (RIGHT, "committed")


@pytest.mark.skipif(not shutil.which("debootstrap"), reason="./dev matrix would install debootstrap first")
def test_one_migration_between_hosts_of_one_version(tmp_path: Path) -> None:
    (row,) = run("./dev matrix", tmp_path)
    assert (row["verdict"], row["ended"]) == (RIGHT, "committed")


@pytest.mark.skipif(not shutil.which("linux.uml"), reason="./dev nfs would install User-Mode Linux first")
def test_the_machine_that_has_nfs_comes_up(tmp_path: Path) -> None:
    run("./dev nfs", tmp_path)
