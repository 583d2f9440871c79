"""Every command of docs/replay.md, as it stands there."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.log_helpers import golden
from tests.machine_helpers import STATES_YAML, TESTS
from tests.simulation import simulate

PAGE = (TESTS.parent / "docs" / "replay.md").read_text("utf-8")
BLOCKS: list[str] = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 15
    assert all(re.match(r"(fsm|zcat) ", command) for command in COMMANDS)


async def _migrate(directory: Path) -> None:
    simulation = await simulate()
    result = await simulation.migrate()
    simulation.journal.close()
    (directory / "id").write_text(result.migration)
    shutil.copy(simulation.journal_path, directory / "journal.db")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with states.yaml, a log with a rotated file, another machine, and a journal."""
    tmp_path = tmp_path_factory.mktemp("clone")
    asyncio.run(_migrate(tmp_path))
    for name in ("states.yaml", "new-states.yaml"):
        shutil.copy(STATES_YAML, tmp_path / name)
    lines = golden("committed").read_bytes().splitlines(keepends=True)
    (tmp_path / "fsm.log").write_bytes(b"".join(lines[9:]))
    (tmp_path / "fsm.log.1").write_bytes(b"".join(lines[:9]))
    (tmp_path / "fsm.log.gz").write_bytes(gzip.compress(b"".join(lines)))
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "machine"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_does_as_the_page_says(command: str, directory: Path) -> None:
    bin_directory = Path(sys.executable).parent
    shown = re.sub(r"\bID\b", (directory / "id").read_text(), command)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shown],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "FSM_JOURNAL": str(directory / "journal.db"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    output = re.search(r"--(?:output|html) (\S+)", command)
    if output:
        assert (directory / output[1]).stat().st_size > 1000
    else:
        assert done.stdout


def test_the_page_names_every_key_that_joins_events() -> None:
    schema = (TESTS.parent / "docs" / "event.schema.json").read_text("utf-8")
    table = PAGE.split("| key | joins |")[1].split("\n\n")[0]
    keys = re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))
    assert len(keys) >= 6
    assert all(f'"{key}": {{' in schema for key in keys)
