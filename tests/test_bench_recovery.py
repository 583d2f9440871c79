"""Small runs of the measurements that need no hosts: of a take-over of many, and of a replay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from bench.__main__ import main
from tests.documented import ROOT


def test_a_few_are_taken_over_and_what_it_took_is_told(tmp_path: Path) -> None:
    words = ["recovery", "--migrations", "3", "--rounds", "2", "--directory", str(tmp_path)]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 0, told.output
    assert "3 unfinished migrations" in told.stdout
    rows = [line.split() for line in told.stdout.splitlines()]
    assert len([row for row in rows if row[:1] == ["│"] and row[1][:1].isdigit()]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_small_log_is_replayed() -> None:
    # In a process of its own, as it has structlog write to it.
    words = [sys.executable, "-m", "bench.replay", "--migrations", "3"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["migrations"] for row in rows] == [1, 3, 3]
    assert all(row["records"] >= row["decisions"] > 0 for row in rows)
