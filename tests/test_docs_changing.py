"""docs/changing-the-machine.md, as it stands there, in a clone of what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.machine_helpers import TESTS
from tests.pages import Names, run_page

ROOT = TESTS.parent
LOGS = "tests/testdata/logs"


def test_the_page(tmp_path: Path) -> None:
    shutil.copy(ROOT / "states.yaml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / LOGS, tmp_path / LOGS)
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "machine"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)
    commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": commands, "LC_ALL": "C.UTF-8", "FSM_JOURNAL": "none.db"}
    run_page(ROOT / "docs" / "changing-the-machine.md", {"$": ()}, tmp_path, environment, Names())
