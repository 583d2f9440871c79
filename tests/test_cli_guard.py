"""``fsm guard``: what it permits, and what it says against the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from fsm.cli import guard as guard_command
from fsm.cli import main
from fsm.cli.machine import check
from fsm.errors import HostUnreachable
from fsm.hypervisor.values import Marker
from fsm.journal.sql import open_journal
from fsm.machine.operations import HARM, Operation
from tests.cli_rig import Cli, cli, world
from tests.simulation import DESTINATION, SOURCE

__all__ = ["cli", "world"]  # fixtures
BLOCKED, UNEXPECTED, BAD_INPUT = 6, 1, 2
MARKED = Marker("f00d", owner="me", overlays=())


@pytest.fixture
def asking(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(guard_command, "LibvirtConnector", lambda: cli.world)
    return cli


def marked(cli: Cli, name: str = "web") -> None:
    async def mark() -> None:
        host = await cli.world.connect(SOURCE)
        await host.mark(await host.resolve(name), MARKED)

    asyncio.run(mark())


def test_the_command_says_yes_and_no(asking: Cli) -> None:
    free = asking("guard", "web", "block-resize", "--from", SOURCE)
    assert (free.exit_code, free.stdout) == (0, "block-resize is permitted\n")
    marked(asking)
    held = asking("guard", "--from", SOURCE, "web", "block-resize")
    assert held.exit_code == BLOCKED
    assert HARM[Operation.BLOCK_RESIZE] in held.stderr
    assert "f00d" in held.stderr
    assert asking("guard", "web", "reboot", "--from", SOURCE).exit_code == 0
    assert not asking.journal.exists(), "a question makes no journal"


def test_the_command_shows_the_whole_table(asking: Cli) -> None:
    marked(asking)
    shown = asking("guard", "web", "--from", SOURCE)
    assert shown.exit_code == 0
    for operation in Operation:
        (line,) = [line for line in shown.stdout.splitlines() if line.split()[:1] == [operation.value]]
        assert ("blocked" if operation in HARM else "permitted") in line
        assert HARM.get(operation, "") in line


def test_what_the_command_does_not_know_it_does_not_permit(asking: Cli) -> None:
    assert asking("guard", "web", "nonsense", "--from", SOURCE).exit_code == BAD_INPUT
    assert asking("guard", "nobody", "save", "--from", SOURCE).exit_code == UNEXPECTED
    error = HostUnreachable("gone", host=SOURCE, call="connect")
    asking.world.fail("connect", times=None, error=error)
    assert asking("guard", "web", "save", "--from", SOURCE).exit_code == UNEXPECTED
    assert asking("guard", "web", "save").exit_code == UNEXPECTED
    open_journal(asking.journal).close()
    by_journal = asking("guard", "web", "save")
    assert (by_journal.exit_code, by_journal.stdout) == (0, "save is permitted\n")
    assert "by the journal alone" in by_journal.stderr


@pytest.mark.parametrize("name", ["polkit", "ask", "-h"])
def test_a_domain_of_any_name_can_be_asked_for(
    asking: Cli, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(guard_command.guard.commands, "polkit", check)
    uuid = asking.world.add_domain(SOURCE, name)
    marked(asking, name)
    assert asking("guard", "--from", SOURCE, "--", name, "save").exit_code == BLOCKED
    assert asking("guard", uuid, "save", "--from", SOURCE).exit_code == BLOCKED
    assert "Usage" in CliRunner().invoke(main, ["guard", "-h"]).stdout


def test_the_command_needs_a_domain(tmp_path: Path) -> None:
    words = ["--journal", str(tmp_path / "journal.db"), "guard"]
    assert CliRunner().invoke(main, [*words, "--from", DESTINATION]).exit_code == BAD_INPUT
