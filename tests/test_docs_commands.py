"""Every command line of fsm in the documentation is one that fsm takes, and every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from fsm.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = {"api.md", "events.md", "exit-codes.md", "machine.md", "permissions.md", "virsh-migrate.md"}
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of its code blocks that begin with ``fsm``, continued ones joined."""
    lines = "".join(BLOCK.findall(page.read_text("utf-8"))).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("fsm ") and "|" not in line and "[" not in line]


EVERY = [
    pytest.param(line, id=f"{page.name}: {line[:60]}")
    for page in PAGES
    if page.name not in GENERATED
    for line in commands(page)
]


def parse(command: click.Command, name: str, words: list[str], parent: click.Context | None = None) -> None:
    """Raise ``UsageError`` for what the command does not take; nothing is run."""
    with command.make_context(name, list(words), parent=parent) as context:
        if isinstance(command, click.Group):
            rest = [*context._protected_args, *context.args]
            found, subcommand, more = command.resolve_command(context, rest)
            assert subcommand is not None
            parse(subcommand, found or "", more, context)


@pytest.mark.parametrize("line", EVERY)
def test_a_documented_command_is_one_that_fsm_takes(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("new-states.yaml", "fsm.log", "states.yaml"):  # what options may have to exist
        (tmp_path / name).touch()
    parse(main, "fsm", shlex.split(line, comments=True)[1:])


def test_there_are_some_on_the_pages_for_operators() -> None:
    assert len(EVERY) > 20
    assert len(commands(ROOT / "docs" / "stuck.md")) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_is_listed() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
