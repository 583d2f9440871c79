"""The ``fsm`` command: help, bad input, where the journal is, the description of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click import Context
from click.testing import CliRunner

from fsm.cli import app, main
from fsm.journal.sql import open_journal
from tests.cli_rig import Cli, cli, world
from tests.simulation import DESTINATION, SOURCE

COMMANDS = {
    (): "Usage:",
    ("migrate",): "--exclude-disk",
    ("resume",): "MIGRATION",
    ("abort",): "MIGRATION",
    ("doctor",): "--adopt",
    ("retry",): "--accept-loss",
    ("rescue",): "MIGRATION",
    ("list",): "--unfinished",
    ("show",): "MIGRATION",
    ("guard",): "OPERATION",
    ("guard", "polkit"): "--exempt",
    ("check",): "FILE",
    ("diagram",): "--format",
    ("replay",): "--against",
    ("lab",): "demo",
    ("lab", "up"): "NAME",
    ("lab", "down"): "NAME",
    ("lab", "status"): "NAME",
    ("lab", "demo"): "prove",
}
__all__ = ["cli", "world"]  # fixtures


# Help and usage


@pytest.mark.parametrize(("words", "told"), COMMANDS.items())
def test_every_command_has_help(words: tuple[str, ...], told: str) -> None:
    for option in ("--help", "-h"):
        result = CliRunner().invoke(main, [*words, option])
        assert result.exit_code == 0
        assert told in result.stdout


def test_no_command_is_left_out_of_the_test_of_the_help() -> None:
    assert {words[0] for words in COMMANDS if words} == set(main.list_commands(Context(main)))


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["migrate"],
        ["migrate", "web"],
        ["migrate", "web", "--to"],
        ["migrate", "web", "--to", "nonsense"],
        ["migrate", "web", "--to", DESTINATION, "--from", "nonsense"],
        ["migrate", "web", "--to", "sim://[::1/system"],
        ["migrate", "", "--to", DESTINATION],
        ["migrate", "a\nb", "--to", DESTINATION],
        ["migrate", "\udcff", "--to", DESTINATION],
        ["migrate", "web", "--to", DESTINATION, "--bandwidth", "-1"],
        ["migrate", "web", "--to", DESTINATION, "--bandwidth", "fast"],
        ["migrate", "web", "--to", DESTINATION, "--connections", "0"],
        ["migrate", "web", "--to", DESTINATION, "--verify", "some"],
        ["migrate", "web", "--to", DESTINATION, "--merge", "magic"],
        ["migrate", "web", "--to", DESTINATION, "--postcopy"],
        ["migrate", "web", "--to", DESTINATION, "--max-downtime", "-1"],
        ["migrate", "web", "--to", DESTINATION, "--parallel-connections", "2"],
        ["migrate", "web", "--to", DESTINATION, "--parallel", "--compress"],
        ["migrate", "web", "--to", DESTINATION, "--comp-methods", "mt"],
        ["migrate", "web", "--to", DESTINATION, "--compress", "--comp-methods", "mt,magic"],
        ["show"],
        ["show", "unknown"],
        ["resume", "unknown"],
        ["abort", "unknown"],
        ["retry", "unknown"],
        ["check", "missing.yaml"],
        ["diagram", "missing.yaml"],
        ["diagram", "--format", "jpeg"],
        ["diagram", "--format", "text"],
        ["diagram", "--migration", "unknown"],
        ["diagram", "--diff", "no-such-revision"],
        ["diagram", "--diff", "--help"],
        ["diagram", "--diff", "HEAD", "--migration", "unknown"],
        ["lab", "nonsense"],
    ],
)
def test_bad_input_is_exit_code_2_and_touches_nothing(cli: Cli, words: list[str]) -> None:
    result = cli(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr
    assert "Traceback" not in result.stderr
    assert cli.world.calls == []


@pytest.mark.parametrize(
    "words",
    [
        *(
            [command, "\udcff"]
            for command in ("show", "abort", "resume", "retry", "rescue", "replay", "guard")
        ),
        ["--journal", "\udcff", "list"],
        ["--states", "\udcff", "check"],
        ["diagram", "--migration", "\udcff"],
        ["doctor", "--host", "qemu+tcp://\udcff/system"],
        ["migrate", "web", "--to", DESTINATION, "--from", SOURCE, "--migrate-uri", "tcp://\udcff"],
        ["migrate", "web", "--to", DESTINATION, "--from", SOURCE, "--listen-address=\udcff"],
        ["migrate", "web", "--to", DESTINATION, "--from", SOURCE, "--seed", "vda=/\udcff"],
    ],
)
def test_bytes_that_are_no_utf8_are_bad_input(cli: Cli, words: list[str]) -> None:
    open_journal(cli.journal).close()
    result = cli(*words)
    assert result.exit_code == 2, result.output
    assert "is no UTF-8" in result.stderr
    assert "\\xff" in result.stderr
    assert cli.world.calls == []


def test_bad_input_names_the_thing_and_the_remedy(cli: Cli) -> None:
    result = cli("migrate", "web", "--to", "host.example")
    assert "'host.example'" in result.stderr
    assert "what to do: " in result.stderr
    assert "unknown" in cli("show", "unknown").stderr
    assert "`fsm list`" in cli("show", "unknown").stderr


# Where the journal is


@pytest.mark.parametrize(
    ("user", "environment", "expected"),
    [
        (0, {}, "/var/lib/fsm/journal.db"),
        (0, {"XDG_STATE_HOME": "/state"}, "/var/lib/fsm/journal.db"),
        (0, {"FSM_JOURNAL": "/named.db"}, "/named.db"),
        (1000, {}, "/home/x/.local/state/fsm/journal.db"),
        (1000, {"XDG_STATE_HOME": ""}, "/home/x/.local/state/fsm/journal.db"),
        (1000, {"XDG_STATE_HOME": "/state"}, "/state/fsm/journal.db"),
        (1000, {"XDG_STATE_HOME": "/state", "FSM_JOURNAL": "/named.db"}, "/named.db"),
        (1000, {"FSM_JOURNAL": ""}, "/home/x/.local/state/fsm/journal.db"),
    ],
)
def test_the_journals_place(
    monkeypatch: pytest.MonkeyPatch, user: int, environment: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    for name in ("XDG_STATE_HOME", "FSM_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert app.default_journal() == Path(expected)


def test_a_user_without_a_home_is_asked_for_the_journals_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "home", home)
    for name in ("XDG_STATE_HOME", "FSM_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 2
    assert "--journal" in result.stderr


def test_the_option_goes_before_the_environment(cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    result = CliRunner().invoke(
        main, ["--journal", str(cli.journal), "show", "unknown"], env={"FSM_JOURNAL": str(other)}
    )
    assert result.exit_code == 2
    assert not other.exists()


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["show", "unknown"]])
def test_looking_makes_no_journal(tmp_path: Path, words: list[str]) -> None:
    journal = tmp_path / "directory/journal.db"
    result = CliRunner().invoke(main, ["--journal", str(journal), *words])
    assert result.exit_code == (2 if words[0] == "show" else 0)
    assert not journal.parent.exists()


def test_a_file_that_is_no_journal(cli: Cli) -> None:
    cli.journal.write_text("this is no database, whatever its name may be\n" * 100)
    for words in (["list"], ["show", "x"]):
        result = cli(*words)
        assert result.exit_code == 1
        assert str(cli.journal) in result.stderr
        assert "what to do: " in result.stderr


@pytest.mark.parametrize(
    "words", [["list"], ["show", "x"], ["guard", "web"], ["diagram", "--migration", "x"], ["replay"]]
)
def test_a_journal_that_can_not_be_looked_at(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there is one is unknown then: that of another user, for example."""

    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    result = CliRunner().invoke(main, ["--journal", str(tmp_path / "journal.db"), *words])
    assert result.exit_code == 2
    assert "journal.db can't be looked at: Permission denied" in result.stderr


# The machine's description


def test_check_says_what_is_wrong_and_where(cli: Cli, tmp_path: Path) -> None:
    shipped = cli("check")
    assert shipped.exit_code == 0
    assert "valid" in shipped.stdout
    text = Path(shipped.stdout.partition(": valid")[0]).read_text("utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(text, "utf-8")
    assert cli("check", str(mine)).exit_code == 0
    assert cli("--states", str(mine), "check").stdout.startswith(f"{mine}: valid")
    for old, new, says in (
        ("kind: initial", "kind: first", f"{mine}:"),
        ("    blocks: [migrate]\n", "", "blocks"),
        ("preflight-not-passed", "preflight-not-past", "preflight-not-past"),
        ("dest: refused", "dest: nowhere", "nowhere"),
    ):
        mine.write_text(text.replace(old, new), "utf-8")
        for words in (["check", str(mine)], ["--states", str(mine), "check"]):
            result = cli(*words)
            assert result.exit_code == 2, result.output
            assert says in result.stderr
            assert result.stdout == ""


@pytest.mark.parametrize("words", [["check"], ["diagram"]])
def test_a_missing_description_is_named(cli: Cli, words: list[str]) -> None:
    result = cli("--states", "/nowhere/states.yaml", *words)
    assert result.exit_code == 2
    assert "/nowhere/states.yaml" in result.stderr


def test_a_missing_description_stops_a_migration(tmp_path: Path) -> None:
    words = ["--journal", str(tmp_path / "j.db"), "--states", "/nowhere/states.yaml", "migrate", "web"]
    result = CliRunner().invoke(main, [*words, "--to", "qemu+tcp://127.0.0.1:1/system"])
    assert result.exit_code == 2
    assert "/nowhere/states.yaml" in result.stderr


def test_diagrams(cli: Cli) -> None:
    assert cli("diagram").stdout.startswith(("stateDiagram", "flowchart"))
    dot = cli("diagram", "--format", "dot").stdout
    assert dot.startswith("digraph")
    assert "committing-dest" in dot


# As a process


def test_as_a_module_and_in_a_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fsm", "--journal", str(tmp_path / "journal.db")]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=False)

    assert run("--version").stdout.startswith("fsm, version ")
    assert run("check").returncode == 0
    assert run("nonsense").returncode == 2


def test_an_output_that_can_not_hold_a_name_shows_it_all_the_same(cli: Cli, tmp_path: Path) -> None:
    """What a terminal is able to show is no reason to end with another exit code."""
    cli.world.add_domain(SOURCE, "wéb", disks=("vda",))
    assert cli.migrate(domain="wéb").exit_code == 0
    command = [sys.executable, "-m", "fsm", "--journal", str(cli.journal), "list"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "w\\xe9b" in done.stdout


def test_a_migration_that_nobody_watches_waits_for_no_rich() -> None:
    """Rich, which structlog imports as well, took a fifth of the time until a command begins."""
    program = """
import sys
import fsm.cli.migrate, fsm.engine.engine, fsm.hypervisor.libvirt
print(*{name.partition(".")[0] for name in sys.modules} & {"rich", "pygments", "structlog"})
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout.split() == []


@pytest.mark.parametrize(
    "uri",
    ["xen://host/system", "qemu+carrier://host/system", "qemu+ssh://[::1/system", "qemu+ssh://host", "://x"],
)
def test_a_uri_that_no_libvirt_has_is_bad_input(tmp_path: Path, uri: str) -> None:
    good = "qemu+tcp://127.0.0.1:1/system"
    for words in (["--from", good, "--to", uri], ["--from", uri, "--to", good]):
        journal = str(tmp_path / "journal.db")
        result = CliRunner().invoke(main, ["--journal", journal, "migrate", "web", *words])
        assert result.exit_code == 2, result.output
        assert uri in result.stderr
        assert "what to do: " in result.stderr
