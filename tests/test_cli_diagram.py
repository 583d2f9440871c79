"""``fsm diagram``: every format, differences from files and revisions, the path of a migration."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fsm.cli import graphviz
from fsm.journal.journey import journey_of
from fsm.journal.logfile import LogReader
from fsm.machine.diagram import dot, mermaid
from fsm.machine.journey import picture
from fsm.machine.loader import load_default
from fsm.machine.picture import Look
from fsm.machine.reference import markdown
from tests.cli_rig import Cli, cli, lines_of, world
from tests.log_helpers import golden
from tests.machine_helpers import STATES_YAML

__all__ = ["cli", "world"]  # fixtures
SPEC = load_default()


@pytest.mark.parametrize(
    ("language", "begins"),
    [
        ("mermaid", b"flowchart TB"),
        ("dot", b"digraph machine {"),
        ("svg", b"<?xml"),
        ("png", b"\x89PNG\r\n"),
        ("md", b"# The migration machine"),
    ],
)
def test_every_format_on_stdout_and_in_a_file(cli: Cli, tmp_path: Path, language: str, begins: bytes) -> None:
    file = tmp_path / "picture"
    printed = cli("diagram", "--format", language)
    written = cli("diagram", "--format", language, "--output", str(file))
    assert (printed.exit_code, written.exit_code, written.output) == (0, 0, "")
    assert printed.stdout_bytes == file.read_bytes()
    assert file.read_bytes().startswith(begins)


def test_the_page_has_the_table_with_conditions_actions_and_blocked_operations(cli: Cli) -> None:
    assert cli("diagram", "--format", "md").stdout == markdown(SPEC)


def test_without_graphviz_the_remedy_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    result = cli("diagram", "--format", "svg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "apt-get install graphviz" in result.stderr


def test_what_graphviz_can_not_draw_is_an_error() -> None:
    with pytest.raises(graphviz.FsmError, match="syntax error"):
        graphviz.draw("digraph {", "svg")


def test_a_file_that_can_not_be_written(cli: Cli, tmp_path: Path) -> None:
    result = cli("diagram", "--output", str(tmp_path / "missing" / "x"))
    assert result.exit_code == 2
    assert "missing" in result.stderr


# Differences


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with two versions of the machine; the file in it is a third."""

    def git(*words: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    text = STATES_YAML.read_text("utf-8")
    states = tmp_path / "conf" / "states.yaml"
    states.parent.mkdir()
    git("init", "--quiet", "--initial-branch", "main")
    for timeout_s in (70, 80, 100):
        states.write_text(text.replace("timeout_s: 90\n", f"timeout_s: {timeout_s}\n"), "utf-8")
        if timeout_s < 100:
            git("add", ".")
            git("commit", "--quiet", "--message", f"timeout {timeout_s}")
    return tmp_path


def test_differences_from_revisions_and_files(cli: Cli, repository: Path) -> None:
    states = repository / "conf" / "states.yaml"
    for old, was in (("HEAD", 80), ("HEAD~1", 70), ("main:conf/states.yaml", 80), (str(STATES_YAML), 90)):
        result = cli("diagram", "--diff", old, str(states))
        assert result.exit_code == 0, result.output
        assert f"-    timeout_s: {was}.0\n+    timeout_s: 100.0\n" in result.stdout
        assert "\x1b" not in result.stdout
    assert cli("diagram", "--diff", "HEAD~2", str(states)).exit_code == 2
    page = cli("diagram", "--diff", "HEAD", "--format", "md", str(states)).stdout
    assert page.startswith("```diff\n--- HEAD:states.yaml")
    assert "```mermaid\nflowchart" in page
    assert cli("diagram", "--diff", "HEAD", "--format", "svg", str(states)).stdout_bytes.startswith(b"<?xml")


def test_no_difference_is_told(cli: Cli) -> None:
    assert "the machines do the same" in cli("diagram", "--diff", str(STATES_YAML)).stdout


# The path of a migration


def test_the_path_of_a_migration_in_the_journal(cli: Cli) -> None:
    cli.world.fail("migrate", host="sim://alpha/system")
    migration = str(lines_of(cli.migrate("--json"))[-1]["migration"])
    result = cli("diagram", "--migration", migration, "--format", "dot")
    assert result.exit_code == 0
    assert f"Migration {migration}" in result.stdout
    for words in ("1. start", "2. transfer", "3. fail-migration", "4. finish-rollback", "PRESENT STATE"):
        assert words in result.stdout
    assert "1 failed try:" in result.stdout
    assert cli("diagram", "--migration", migration, "--format", "png").stdout_bytes.startswith(b"\x89PNG")
    assert cli("diagram", "--migration", migration, "--format", "md").stdout.startswith("## Migration")


def test_failed_tries_are_counted_where_they_failed() -> None:
    journey = journey_of(LogReader([golden("commit-failed-twice")]))
    stays = {stay.state: stay for stay in journey.stays}
    assert len(stays["committing-dest"].failures) == 2
    assert all(not stay.failures for name, stay in stays.items() if name != "committing-dest")
    box = next(box for box in picture(SPEC, journey).boxes if box.name == "committing-dest")
    assert "2 failed tries:" in box.lines
    assert box.lines[0].startswith("from 00:00:00.")


def test_a_path_that_comes_back_and_one_that_is_under_way() -> None:
    events = list(LogReader([golden("stuck-and-retried")]))
    cut = next(i for i, e in enumerate(events) if (e.event, e.name) == ("transition-intent", "retry")) + 1
    journey = journey_of(events[:cut])
    assert journey.present == "stuck"
    shown = picture(SPEC, journey)
    looks = {box.name: box.look for box in shown.boxes}
    assert looks["stuck"] is Look.PRESENT
    assert looks["rolling-back-source"] is Look.FADED
    (under_way,) = [a for a in shown.arrows if any(t.words == "under way" for t in a.texts)]
    assert (under_way.source, under_way.dest) == ("stuck", "rolling-back-source")
    numbers = [t.words for a in shown.arrows if a.look is Look.TAKEN for t in a.texts if t.bold]
    assert sorted(numbers) == ["1. start", "2. transfer", "3. lose-sight", "4. retry"]
    for written in (dot(shown), mermaid(shown)):
        assert "4. retry" in written
