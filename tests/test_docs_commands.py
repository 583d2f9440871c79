"""Every command in the documentation is one that there is, and is run by a test; every link leads somewhere.

Sessions (blocks marked ``console``) are run as they stand, on the hosts of a lab. What operators do with a
migration that waits is run here, on simulated hosts. The rest is run as ``RUN`` says, or as a test says that
takes its commands from a page.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from bench.__main__ import main as bench
from bench.replay import main as bench_replay
from fsm.cli import guard as guard_command
from fsm.cli import main
from fsm.hypervisor.simulated import SimulatedWorld
from tests.cli_rig import Cli, cli, world
from tests.documented import (
    DOCS,
    PAGES,
    ROOT,
    blocks,
    calls,
    commands,
    form,
    inline,
    named_options,
    options,
    parse,
    sessions,
)
from tests.faults.__main__ import main as faults
from tests.simulation import DESTINATION, SNAPSHOTS, SOURCE
from tests.test_docs_changing import RENEWALS
from tests.test_docs_evacuate import COMMAND as OF_EVACUATION
from tests.test_docs_hosts import BY_HAND
from tests.test_docs_replay import COMMANDS as OF_REPLAY
from tests.test_lab_dev import SMALLEST
from tests.versions.__main__ import main as versions

__all__ = ["cli", "world"]  # fixtures

PROGRAMS = {
    "fsm": main,
    "./dev faults": faults,
    "./dev matrix": versions,
    "./dev bench": bench,
    "python -m bench.replay": bench_replay,
}
"""What takes options that a page may show, and its real parser."""

SESSIONS = {
    "changing-the-machine.md": "test_docs_changing.py",
    "hosts-ssh.md": "test_docs_hosts.py",
    "hosts-tls.md": "test_docs_hosts.py",
    "tutorial.md": "test_docs_tutorial.py",
}
"""The pages with sessions, and what runs them."""

RUN = {
    # What must pass before a change lands.
    "./dev check": (".ci/run", "./dev check"),
    "./dev demo": (".ci/run", "./dev demo"),
    "./dev test": (".ci/run", "./dev test"),
    "./dev hosts": (".ci/run", "./dev hosts"),
    # Hours. The tests call the same module with small images; the script also installs what it compares with.
    "./dev bench": ("tests/test_bench_hosts.py", "def test_a_small_bench"),
    "./dev bench holes": ("tests/test_bench_hosts.py", "measure_holes("),
    "./dev bench crowd": ("tests/test_bench_crowd.py", "crowd.crowd, words"),
    "./dev bench recovery": ("tests/test_bench_recovery.py", '"recovery", "--migrations"'),
    "python -m bench.replay": ("tests/test_bench_recovery.py", '"bench.replay", "--migrations"'),
    # The same with other words, or on hosts of another kind.
    ".venv/bin/python docs/generate.py": ("docs/changing-the-machine.md", "\n$ python docs/generate.py\n"),
    "fsm guard polkit --install": ("tests/test_lab_polkit.py", '"guard", "polkit", "--install"'),
    "fsm migrate --correlation ID": ("tests/test_cli_replay.py", '"--correlation", "req-7"'),
    "fsm -v": ("tests/test_cli_migrate.py", 'cli("-v", "show", migration)'),
    "fsm COMMAND --help": ("tests/test_cli.py", "def test_every_command_has_help"),
    "virsh blockjob DOMAIN TARGET": ("tests/test_lab_flatten.py", '"blockjob", SPEC.name, "vda"'),
    "virsh snapshot-create-as web before-lunch": ("tests/test_lab_polkit.py", '"snapshot-create-as", "web"'),
    "virsh vol-list fsm-guard": ("tests/test_lab_polkit.py", '"vol-list", POOL'),
    "virsh vol-delete --pool fsm-guard domain-UUID": (
        "tests/test_lab_polkit.py",
        '"vol-delete", "--pool", POOL',
    ),
    "virsh migrate --copy-storage-all": ("docs/tutorial.md", "migrate guest $beta --live --copy-storage-all"),
}
"""Commands whose smallest form, or the same in other words, is run by that file; and its words for it."""

NOT_RUN = {
    ". .venv/bin/activate": "the environment that the tests run in",
    "ss -K dst DESTINATION": "needs a link that is cut for minutes, and a kernel that has it; tried by hand",
    "virsh undefine --remove-all-storage": "told of as what `--delete-source` is likened to",
    "virsh migrate --postcopy-resume": "told of as not tried",
    "virsh qemu-monitor-command ... savevm": "told of as what asks nobody; tried by hand",
    "virsh -r metadata": "told of as a way that was weighed and not taken",
}
ADVICE = [ROOT / "README.md", DOCS / "stuck.md", DOCS / "doctor.md"]
ABOUT_ONE = {"abort", "diagram", "doctor", "guard", "list", "replay", "rescue", "resume", "retry", "show"}
THEIRS = "theirs"
OTHERS_OPTIONS = {"--archive", "--flush", "--help", "--remove-all-storage", "--target-is-zero"}
"""Of other programs, and the one that all have."""

EVERY = [(page, line) for page in PAGES for line in commands(page)]
ids = [f"{page.name}: {line[:60]}" for page, line in EVERY]


def words_of(line: str) -> tuple[str, list[list[str]]]:
    """The program of ``PROGRAMS`` that a line calls, and the words of each call."""
    for name in PROGRAMS:
        first, *rest = name.split()
        found = [words[len(rest) :] for words in calls(line, first) if words[: len(rest)] == rest]
        if found:
            return name, found
    return "", []


@pytest.mark.parametrize(("page", "line"), EVERY, ids=ids)
def test_a_documented_command_is_one_that_there_is(
    page: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("new-states.yaml", "fsm.log", "states.yaml", "trace.log", "FILE"):  # what may have to exist
        (tmp_path / name).touch()
    name, found = words_of(line)
    for words in found:
        try:
            parse(PROGRAMS[name], name, ["check" if word == "COMMAND" else word for word in words])
        except (click.MissingParameter, click.exceptions.Exit):
            assert line in inline(page), "in its text alone a page leaves away what is the same everywhere"
    for words in calls(line, "./dev"):
        assert re.search(rf"^  {words[0]}\) ", (ROOT / "dev").read_text("utf-8"), re.MULTILINE), line


def advice(page: Path) -> list[str]:
    """All that a page tells to type about a migration, in blocks and in its text."""
    found = [(line, words) for line in [*blocks(page), *inline(page)] for words in calls(line)]
    names = [(line, words, form(words, main).command) for line, words in found]
    in_full = [
        line
        for line, words, command in names
        if ABOUT_ONE & {*command} and (len(words) > len(command) or line in blocks(page))
    ]
    return list(dict.fromkeys(in_full))


AS_THEY_STAND = [
    *(line for page in ADVICE for line in advice(page)),
    *(line for page in SESSIONS for line in sessions(DOCS / page)),
    *OF_REPLAY,
    *BY_HAND,
    *RENEWALS,
    OF_EVACUATION,
]
"""The lines that a test runs as a page shows them, but for names and addresses."""

FORMS = [form(words, main) for line in AS_THEY_STAND for words in calls(line)]


def is_run(line: str) -> bool:
    """Whether a test runs it, or ``fsm`` with the same command and options and perhaps more."""
    shown = [form(words, main) for words in calls(line)]
    return (
        line in AS_THEY_STAND
        or line in RUN
        or " ".join(line.split()[:2]) in SMALLEST
        or bool(shown and all(any(one.is_part_of(other) for other in FORMS) for one in shown))
    )


def test_every_command_of_every_page_is_run_or_named_with_the_reason() -> None:
    missing = {line: page.name for page, line in EVERY if not is_run(line) and line not in NOT_RUN}
    assert not missing, "run them in a test, or say in NOT_RUN why not"


def test_nothing_is_named_that_no_page_shows_or_that_is_run() -> None:
    lines = {line for _page, line in EVERY}
    assert lines >= {*RUN, *NOT_RUN}
    assert not [line for line in NOT_RUN if is_run(line)]
    assert all(any(line.startswith(name) for line in lines) for name in SMALLEST)
    assert set.union(*map(named_options, PAGES)) >= OTHERS_OPTIONS


@pytest.mark.parametrize(("file", "words"), RUN.values(), ids=RUN)
def test_what_runs_a_command_has_it(file: str, words: str) -> None:
    assert words in (ROOT / file).read_text("utf-8")


def test_every_page_with_sessions_has_a_test_that_runs_them() -> None:
    assert {page.name for page in PAGES if sessions(page)} == set(SESSIONS)
    for page, file in SESSIONS.items():
        text = (ROOT / "tests" / file).read_text("utf-8")
        assert f'"{page}"' in text
        assert "run_page(" in text


# Options that a page names without their command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_names_is_one_that_there_is(page: Path) -> None:
    known = {option for program in PROGRAMS.values() for option in options(program)}
    if page.name != "virsh-migrate.md":  # which names those of `virsh migrate`
        assert named_options(page) - known - OTHERS_OPTIONS == set()


# What operators are told to do with a migration that waits


@pytest.fixture
def stuck(cli: Cli, world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migration that is stuck, as somebody has taken a snapshot into the overlay; its id."""
    monkeypatch.setattr(guard_command, "LibvirtConnector", lambda: world)
    uuid = world.add_domain(SOURCE, "shop", disks=("vda",), snapshots=SNAPSHOTS)
    world.at("make_durable", lambda: world.take_snapshot(SOURCE, uuid, THEIRS))
    result = cli.migrate(domain="shop")
    assert result.exit_code == 4, result.output
    return result.stdout.splitlines()[-1].partition(":")[0]


def expected(words: list[str]) -> set[int]:
    """The exit codes that the page promises for such a migration."""
    command, *_ = form(words, main).command
    if command in ("list", "show", "replay", "diagram"):
        return {0}
    if command == "guard":
        return {6}
    return {3} if "--accept-loss" in words or command == "rescue" else {4}


@pytest.mark.parametrize(("page", "line"), [(page.name, line) for page in ADVICE for line in advice(page)])
def test_advice_about_a_migration_that_waits(page: str, line: str, cli: Cli, stuck: str) -> None:
    values = {
        "ID": [stuck],
        "NAME": [THEIRS],
        "FILE": [str(cli.journal)],
        "DOMAIN": ["shop", "--from", SOURCE],
        "OPERATION": ["block-commit"],
        "URI": [SOURCE],
        "qemu+ssh://root@host-a/system": [SOURCE],
        "qemu+ssh://root@host-b/system": [DESTINATION],
    }
    (words,) = calls(line)
    result = cli(*(value for word in words for value in values.get(word, [word])))
    assert result.exit_code in expected(words), (page, result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if line.startswith(("fsm list", "fsm show ID", "fsm doctor")) and "xml" not in line:
        assert stuck in result.stdout


# Links, and what is there at all


def test_there_are_some_on_the_pages_for_operators() -> None:
    assert len(EVERY) > 150
    assert len(advice(DOCS / "stuck.md")) >= 10


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
