"""docs/changing-the-machine.md, as it stands there, in a clone of what it needs; and golden files renewed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import PAGES, ROOT, commands
from tests.pages import Names, run_page

LOGS = "tests/testdata/logs"
RENEWALS = list(
    dict.fromkeys(line for page in PAGES for line in commands(page) if line.startswith("UPDATE_GOLDEN="))
)
GOLDEN = [LOGS, *(f"tests/testdata/{name}.txt" for name in ("operations", "recovery", "triggers"))]
# What of all the tests renews them; the rest would only take long.
RENEWING = [
    "tests/test_replay_golden.py",
    *(
        f"tests/test_machine_matrix.py::test_{table}_is_the_reviewed_one"
        for table in ("trigger_matrix", "operation_matrix", "recovery_table")
    ),
]


def commit_all(directory: Path) -> None:
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "machine"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(directory), *identity, *words], check=True)


def test_the_page(tmp_path: Path) -> None:
    shutil.copy(ROOT / "states.yaml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / LOGS, tmp_path / LOGS)
    commit_all(tmp_path)
    commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": commands, "LC_ALL": "C.UTF-8", "FSM_JOURNAL": "none.db"}
    run_page(ROOT / "docs" / "changing-the-machine.md", {"$": ()}, tmp_path, environment, Names())


@pytest.mark.parametrize("line", RENEWALS)
def test_golden_files_are_renewed_and_are_those_that_are_kept(line: str, tmp_path: Path) -> None:
    for name in ("states.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("fsm", "tests", "docs"):
        shutil.copytree(
            ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    commit_all(tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for kept in GOLDEN:
        path = tmp_path / kept
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    part = " ".join([line, "-p no:cacheprovider", *RENEWING])
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "yes"}
    done = subprocess.run(
        ["bash", "-c", part], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    changed = ["git", "-C", str(tmp_path), "status", "--porcelain", "--", "tests"]
    assert subprocess.run(changed, capture_output=True, text=True, check=True).stdout == ""
