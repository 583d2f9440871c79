"""What virsh's users are told, and that nothing of virsh's is forgotten."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from fsm.cli import main
from fsm.cli.exit_codes import ExitCode
from fsm.cli.handed_through import take
from fsm.cli.migrate import migrate
from fsm.cli.virsh_words import WORDS, Answer, Word, markdown
from fsm.hypervisor.values import Tuning, Wiring

NOWHERE = ("--from", "test:///nowhere", "--to", "test:///elsewhere")
VISIBLE = {
    option
    for parameter in migrate.params
    for option in parameter.opts
    if not getattr(parameter, "hidden", False)
}


@pytest.mark.skipif(shutil.which("virsh") is None, reason="virsh is not installed")
def test_every_option_of_virsh_is_answered() -> None:
    text = subprocess.run(["virsh", "help", "migrate"], capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"^ +--([a-z0-9-]+)", text, re.MULTILINE))
    assert len(names) > 40
    assert names <= {word.option for word in WORDS}


def test_each_is_answered_once_and_as_the_command_has_it() -> None:
    options = [word.option for word in WORDS]
    assert len(set(options)) == len(options)
    for word in WORDS:
        assert (f"--{word.option}" in VISIBLE) == (word.answer is Answer.SAME), word
        assert word.told or word.answer in (Answer.SAME, Answer.ANYWAY), word
    for word in WORDS:
        if word.answer is Answer.OTHERWISE:
            assert word.told.split()[0] in VISIBLE, word


@pytest.mark.parametrize(
    "word",
    [word for word in WORDS if word.answer in (Answer.REFUSED, Answer.OTHERWISE)],
    ids=lambda w: w.option,
)
def test_what_is_not_possible_is_refused_by_name(word: Word) -> None:
    words = [f"--{word.option}", *(["1"] if word.takes else [])]
    result = CliRunner().invoke(main, ["migrate", "web", *NOWHERE, *words])
    assert result.exit_code == ExitCode.BAD_INPUT
    assert f"--{word.option}" in result.stderr
    assert word.told.split(";")[0] in " ".join(result.stderr.split())


def test_what_is_always_so_is_taken_without_effect() -> None:
    always = [f"--{word.option}" for word in WORDS if word.answer is Answer.ANYWAY]
    with migrate.make_context("migrate", ["web", *NOWHERE, *always], resilient_parsing=False) as context:
        given = context.params
    with migrate.make_context("migrate", ["web", *NOWHERE]) as context:
        assert given == context.params


def test_libvirts_options_become_those_of_a_request() -> None:
    words = [
        "--tls",
        "--tls-destination",
        "b",
        "--disks-port",
        "7",
        "--compress",
        "--comp-methods",
        "mt,xbzrle",
    ]
    words += ["--comp-mt-level", "3", "--abort-on-error", "--listen-address", "::"]
    with migrate.make_context("migrate", ["web", *NOWHERE, *words]) as context:
        libvirts = take(dict(context.params))
    assert libvirts == {
        "tuning": Tuning(compress=True, comp_methods=("mt", "xbzrle"), comp_mt_level=3, abort_on_error=True),
        "wiring": Wiring(tls=True, tls_destination="b", disks_port=7, listen_address="::"),
    }


def test_the_page_has_them_all() -> None:
    assert [line.split("`")[1] for line in markdown().splitlines() if line.startswith("| `--")] == [
        f"--{word.option}" for word in WORDS
    ]
