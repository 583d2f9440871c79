"""Every command in the documentation is one that there is, and is run by a test; every link leads somewhere.

Sessions (blocks marked ``console``) are run as they stand, on the hosts of a lab. What operators do with a
migration that waits is run here, on simulated hosts. Other pages have tests of their own.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from fsm.cli import main
from fsm.hypervisor.simulated import SimulatedWorld
from tests.cli_rig import Cli, cli, world
from tests.faults import __main__ as faults
from tests.pages import steps
from tests.simulation import DESTINATION, SNAPSHOTS, SOURCE
from tests.versions import __main__ as versions

__all__ = ["cli", "world"]  # fixtures

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
GENERATED = {"api.md", "events.md", "exit-codes.md", "machine.md", "permissions.md", "virsh-migrate.md"}
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(fsm [^`]+)`")
DEV = {"faults": faults.main, "matrix": versions.main}
ELSEWHERE = {
    "replay.md": "tests/test_docs_replay.py",
    "polkit.md": "tests/test_lab_polkit.py, and what is done by hand: tests/test_docs_hosts.py",
    "embedding.md": "tests/test_docs_embedding.py, tests/test_docs_evacuate.py",
}
ADVICE = ("stuck.md", "doctor.md")
THEIRS = "theirs"


def plain(page: Path) -> list[str]:
    """The lines of a page's blocks without a language, continued ones joined, comments left away."""
    blocks = [body for language, body in BLOCK.findall(page.read_text("utf-8")) if not language]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def commands(page: Path) -> list[str]:
    """What such lines have of ``fsm``, but for its own descriptions."""
    return [line for line in plain(page) if line.startswith("fsm ") and not re.search(r"[|\[>]|: ", line)]


def sessions(page: Path) -> list[str]:
    """The commands of its sessions."""
    return [step.text for step in steps(page.read_text("utf-8"))]


EVERY = [
    pytest.param(line, id=f"{page.name}: {line[:60]}")
    for page in PAGES
    if page.name not in GENERATED
    for line in commands(page)
]
DEV_LINES = [line for page in PAGES for line in plain(page) if line.startswith("./dev ")]


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


@pytest.mark.parametrize("line", DEV_LINES)
def test_a_documented_command_of_the_one_script_is_one_that_it_has(line: str) -> None:
    _, name, *words = re.split(r"\s{3,}", line)[0].split()
    script = (ROOT / "dev").read_text("utf-8")
    assert re.search(rf"^  {name}\) ", script, re.MULTILINE), line
    if name in DEV:
        parse(DEV[name], name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_run_somewhere(page: Path) -> None:
    shown = {line for one in PAGES for line in sessions(one)}
    if page.name not in (*ELSEWHERE, *ADVICE):
        synopsis = "fsm migrate DOMAIN --to URI [--from URI]"
        assert {line for line in commands(page) if line != synopsis} <= shown


# What operators are told to do with a migration that waits


def advice(page: Path) -> list[str]:
    """All that a page tells to type about a migration, in blocks and in its text."""
    inline = INLINE.findall(page.read_text("utf-8"))
    found = dict.fromkeys([*commands(page), *(line for line in inline if " " in line.removeprefix("fsm "))])
    return [line for line in found if line.split()[1] != "guard" and "DOMAIN" not in line]


@pytest.fixture
def stuck(cli: Cli, world: SimulatedWorld) -> str:
    """A migration that is stuck, as somebody has taken a snapshot into the overlay; its id."""
    uuid = world.add_domain(SOURCE, "shop", disks=("vda",), snapshots=SNAPSHOTS)
    world.at("make_durable", lambda: world.take_snapshot(SOURCE, uuid, THEIRS))
    result = cli.migrate(domain="shop")
    assert result.exit_code == 4, result.output
    return result.stdout.splitlines()[-1].partition(":")[0]


def expected(line: str) -> set[int]:
    """The exit codes that the page promises for such a migration."""
    if line.split()[1] in ("list", "show", "replay", "diagram"):
        return {0}
    return {3} if "--accept-loss" in line or line.startswith("fsm rescue") else {4}


@pytest.mark.parametrize(
    ("page", "line"),
    [(page, line) for page in ADVICE for line in advice(DOCS / page)],
)
def test_advice_about_a_migration_that_waits(page: str, line: str, cli: Cli, stuck: str) -> None:
    words = {
        "ID": stuck,
        "NAME": THEIRS,
        "FILE": str(cli.journal),
        "qemu+ssh://root@host-a/system": SOURCE,
        "qemu+ssh://root@host-b/system": DESTINATION,
    }
    result = cli(*(words.get(word, word) for word in shlex.split(line)[1:]))
    assert result.exit_code in expected(line), (page, result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if line.startswith(("fsm list", "fsm show ID", "fsm doctor")) and "xml" not in line:
        assert stuck in result.stdout


# Links, and what is there at all


def test_there_are_some_on_the_pages_for_operators() -> None:
    assert len(EVERY) > 20
    assert len(advice(DOCS / "stuck.md")) >= 10
    assert all(
        (ROOT / path).exists() for why in ELSEWHERE.values() for path in re.findall(r"tests/\w+\.py", why)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text("utf-8")):
        found = page.parent / target if target else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_listed() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
