"""The measurement of many migrations at once: it counts what the journal is given, and runs."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from bench import crowd


def test_a_crowd_runs_to_its_end_and_its_journal_is_removed(tmp_path: Path) -> None:
    done = crowd.run(3, tmp_path)
    assert done.migrations == 3
    assert 0 < done.decided_s < done.done_s
    assert 0 < done.commits <= done.records
    assert done.records % 3 == 0  # nothing happens to any: each writes the same records
    assert done.threads >= 1
    assert list(tmp_path.iterdir()) == []


def test_every_size_is_told(tmp_path: Path) -> None:
    words = ["--migrations", "1", "--migrations", "2", "--directory", str(tmp_path)]
    told = CliRunner().invoke(crowd.crowd, words)
    assert told.exit_code == 0, told.output
    rows = [line.split() for line in told.output.splitlines()]
    assert [row[0] for row in rows if len(row) == 9 and row[0].isdigit()] == ["1", "2"]
