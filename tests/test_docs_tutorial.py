"""docs/tutorial.md, as it stands there, on a lab of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fsm.lab import Lab
from tests.lab_rig import LONG_LAB
from tests.pages import Names, run_page

pytestmark = LONG_LAB

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
LABS = "/var/lib/fsm-lab"


def test_the_tutorial(tmp_path: Path) -> None:
    labs, work = tmp_path / "labs", tmp_path / "work"
    work.mkdir()
    commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": commands, "FSM_LAB_DIR": str(labs), "LC_ALL": "C.UTF-8"}
    try:
        run_page(PAGE, {"$": ()}, work, environment, Names({LABS: str(labs)}))
    finally:
        take_down(labs)
    assert list(work.iterdir()) == []


def take_down(labs: Path) -> None:
    """Take down what a session that broke off has left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSM_LAB_DIR", str(labs))
        for name in Lab.names():
            Lab.load(name).down()
