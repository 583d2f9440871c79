"""``fsm replay``: what it reads, what it says, and its exit codes."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fsm.cli import replay as command
from tests.cli_rig import Cli, cli, lines_of, world
from tests.log_helpers import SCENARIOS, golden, text_of
from tests.machine_helpers import STATES_YAML
from tests.simulation import SOURCE

__all__ = ["cli", "world"]  # fixtures
# A machine that would give up where the shipped one goes on.
SWITCH_OVER = "owned-by-destination, destination-untangled, transfer-begun"
STRICTER = (f"      - {{when: [{SWITCH_OVER}], do: switch-over}}\n", "")


def migrated(cli: Cli, *words: str) -> str:
    return str(lines_of(cli.migrate("--json", "--merge", "commit", *words))[-1]["migration"])


@pytest.fixture
def changed_machine(tmp_path: Path) -> Path:
    path = tmp_path / "new.yaml"
    text = STATES_YAML.read_text("utf-8")
    assert STRICTER[0] in text
    path.write_text(text.replace(*STRICTER), "utf-8")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """All golden logs in one, their lines mixed."""
    path = tmp_path / "fsm.log"
    logs = [golden(name).read_bytes().splitlines(keepends=True) for name in SCENARIOS]
    path.write_bytes(b"".join(one[i] for i in range(max(map(len, logs))) for one in logs if i < len(one)))
    return path


def test_a_migration_of_the_journal(cli: Cli) -> None:
    migration = migrated(cli)
    result = cli("replay", migration)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "fire 'switch-over' to 'committing-dest', on owned-by-destination" in result.stdout
    assert "in the end in state committed" in result.stdout
    assert re.search("1 migrations, [0-9]+ records, 8 decisions: .* decides as recorded", result.stdout)
    (summary,) = lines_of(cli("replay", migration, "--json"))
    assert (summary["decisions"], summary["kinds"]) == (8, [])
    until = cli("replay", migration, "--until", "12").stdout
    assert "switch-over" not in until
    assert "in the end in state snapshotted" in until


def test_the_whole_journal_in_all_ways_of_naming_it(cli: Cli) -> None:
    cli.world.fail("migrate", host=SOURCE)
    first, second = migrated(cli, "--bandwidth", "1"), migrated(cli)
    for words in ((), ("journal",), (str(cli.journal),)):
        result = cli("replay", "--json", *words)
        (summary,) = lines_of(result)
        assert (result.exit_code, summary["migrations"], summary["divergences"]) == (0, 2, 0)
        assert (
            summary["records"]
            == len(lines_of(cli("show", "--json", first)))
            - 1
            + len(lines_of(cli("show", "--json", second)))
            - 1
        )


def test_what_the_command_logs_can_be_replayed(cli: Cli, tmp_path: Path) -> None:
    """``fsm -v`` as it stands, with its progress and other lines around it."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from fsm.cli import drive, main\n"
        "from fsm.engine.engine import Engine\n"
        "from fsm.hypervisor.simulated import SimulatedWorld\n"
        "from fsm.journal.sql import open_journal\n"
        "world = SimulatedWorld()\n"
        "world.add_host('sim://a/system')\n"
        "world.add_host('sim://b/system')\n"
        "world.add_domain('sim://a/system', 'web', disks=('vda',))\n"
        "drive.open_engine = lambda c: Engine(open_journal(c.obj['journal']), world, clock=world.clock)\n"
        "main()\n"
    )
    words = ["--journal", str(cli.journal), "-v", "migrate", "web", "--from", "sim://a/system"]
    done = subprocess.run(
        [sys.executable, str(script), *words, "--to", "sim://b/system", "--correlation", "req-7"],
        capture_output=True,
        timeout=120,
        check=True,
    )
    log = tmp_path / "fsm.log"
    log.write_bytes(done.stderr)
    assert done.stderr.count(b'"correlation": "req-7"') > 20
    result = cli("replay", str(log))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 migrations" in result.stdout


def test_logs_rotated_compressed_and_from_stdin(cli: Cli, log: Path) -> None:
    whole = cli("replay", str(log))
    assert whole.exit_code == 0, whole.output
    assert f"{len(SCENARIOS)} migrations" in whole.stdout
    lines = log.read_bytes().splitlines(keepends=True)
    Path(f"{log}.1.gz").write_bytes(gzip.compress(b"".join(lines[:50])))
    log.write_bytes(b"noise\n".join(lines[50:]) + lines[-1][:300])
    rotated = cli("replay", str(log))
    assert rotated.exit_code == 0, rotated.output
    assert rotated.stdout == whole.stdout
    assert "the last line is cut off" in rotated.stderr
    one = cli("replay", str(log), "--migration", "aborted")
    assert one.exit_code == 0
    assert "abort asked for" in one.stdout


def test_the_first_divergence_ends_it(cli: Cli, log: Path) -> None:
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    number, line = next(
        (i, line)
        for i, line in enumerate(lines)
        if (line["event"], line.get("name")) == ("transition-intent", "abort")
    )
    line["observation"]["engine"]["abort_requested"] = False
    log.write_bytes(text_of(lines))
    result = cli("replay", str(log))
    assert result.exit_code == 1
    assert f"{log}:{number + 1}: " in result.stderr
    assert f"record {line['sequence']} of migration aborted" in result.stderr
    assert "fire 'abort' to 'rolling-back-source'" in result.stderr
    assert "abort-requested" in result.stderr
    assert result.stdout == ""
    passed = cli("replay", str(log), "--until", str(line["sequence"] - 1))
    assert passed.exit_code == 0


def test_another_machine_is_told_apart_with_a_summary(cli: Cli, log: Path, changed_machine: Path) -> None:
    result = cli("replay", str(log), "--against", str(changed_machine))
    assert result.exit_code == 1
    assert "decides otherwise 3 times, in 3 migrations" in result.stdout
    assert "fire 'switch-over' to 'committing-dest'" in result.stdout
    (summary,) = lines_of(cli("replay", str(log), "--against", str(changed_machine), "--json"))
    assert (summary["divergences"], summary["diverging_migrations"], summary["damaged"]) == (3, 3, 0)
    assert sum(kind["count"] for kind in summary["kinds"]) == 3
    same = cli("replay", str(log), "--against", str(STATES_YAML))
    assert same.exit_code == 0
    assert "decides as recorded" in same.stdout


def test_against_counts_damage_and_goes_on(cli: Cli, log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    lines[20] = lines[20][:-30] + b"\n"
    log.write_bytes(b"".join(lines))
    assert cli("replay", str(log)).exit_code == 1
    result = cli("replay", str(log), "--against", str(STATES_YAML), "--json")
    assert result.exit_code == 1
    (summary,) = lines_of(result)
    assert summary["damaged"] == 2  # the line itself, and the gap where it was
    assert summary["migrations"] == len(SCENARIOS)


def events_in(log: Path) -> list[dict[str, Any]]:
    """The transition events of a log; it holds other lines as well."""
    return [line for line in map(json.loads, log.read_bytes().splitlines()) if "schema" in line]


def test_speed_keeps_the_time_that_passed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(command.threading.Event, "wait", lambda _self, delay_s: waited.append(delay_s))
    result = cli("replay", str(golden("stuck-and-retried")), "--speed", "100")
    assert result.exit_code == 0
    assert "in the end in state rolled-back" in result.stdout
    times = [line["at"] for line in events_in(golden("stuck-and-retried"))]
    assert len(waited) == len(times) - 1
    assert sum(waited) == pytest.approx(2.132, abs=0.05)


@pytest.mark.parametrize(
    "words",
    [
        ["unknown"],
        ["missing.log", "other.log"],
        ["--against", "missing.yaml"],
        ["--until", "0"],
        ["--speed", "0"],
        ["--speed", "-1"],
        [str(STATES_YAML)],
        [str(golden("committed")), "--migration", "other"],
        [str(golden("committed")), "missing.log"],
    ],
)
def test_bad_input_is_exit_code_2(cli: Cli, words: list[str]) -> None:
    migrated(cli)
    result = cli("replay", *words)
    assert result.exit_code == 2, result.output
    assert result.stderr
    assert "Traceback" not in result.stderr


def test_a_page_that_can_not_be_written_is_bad_input(cli: Cli, tmp_path: Path) -> None:
    result = cli("replay", str(golden("committed")), "--html", str(tmp_path / "nowhere/replay.html"))
    assert result.exit_code == 2
    assert "replay.html can't be written: No such file" in result.stderr


def test_no_journal_is_made_by_asking_for_one(cli: Cli) -> None:
    assert cli("replay").exit_code == 2
    assert cli("diagram", "--migration", "x").exit_code == 2
    assert not cli.journal.exists()


# The page

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000"),
]


def in_browser(page: Path, directory: Path, fragment: str = "") -> str:
    """The page's document after its script has run, from a real browser without any network to ask."""
    assert CHROMIUM, "chromium is not installed: ./dev setup"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={directory}", "--dump-dom", f"{page.as_uri()}{fragment}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "HOME": str(directory)},
    )
    return done.stdout


def test_the_page_steps_through_a_migration(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "replay.html"
    assert cli("replay", str(golden("stuck-and-retried")), "--html", str(page)).exit_code == 0
    lines = events_in(golden("stuck-and-retried"))
    retry = next(line for line in lines if (line["event"], line["name"]) == ("transition-intent", "retry"))
    dom = in_browser(page, tmp_path / "profile", f"#{retry['sequence']}")
    assert f"Record {retry['sequence']}: retry: stuck → rolling-back-source</h2>" in dom
    assert dom.count('aria-current="step"') == 1
    assert dom.count("<li class=") == len(lines)
    assert 'id="state-stuck" class="node been now"' in dom
    assert 'id="state-rolling-back-source" class="node next"' in dom
    assert 'class="edge taking"' in dom
    assert "disks vda layer</th><td>overlay</td>" in dom
    assert "This machine decides the same: fire 'retry'" in dom
    first = in_browser(page, tmp_path / "profile")
    assert "Record 1: activity preflight</h2>" in first
    assert 'id="state-planned" class="node been now"' in first


def test_the_page_needs_no_network_and_carries_no_markup_of_others(cli: Cli, tmp_path: Path) -> None:
    evil = "</script><script>document.title='broken in'</script><img src=http://127.0.0.1:9/x>"
    lines = [json.loads(line) for line in golden("rolled-back").read_bytes().splitlines()]
    for line in lines:
        if line.get("error"):
            line["error"] = evil
    log, page = tmp_path / "evil.jsonl", tmp_path / "replay.html"
    log.write_bytes(text_of(lines))
    assert cli("replay", str(log), "--html", str(page)).exit_code == 0
    text = page.read_text("utf-8")
    assert "default-src 'none'" in text
    assert text.count("<script") == 2
    # What is left of addresses are names of XML dialects, which nobody fetches.
    assert {word for word in text.split('"') if word.startswith("http")} <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    failed = next(line["sequence"] for line in lines if line.get("error"))
    dom = in_browser(page, tmp_path / "profile", f"#{failed}")
    assert "<title>Migration rolled-back" in dom
    assert "&lt;img src=http" in dom


def test_the_page_shows_where_the_machine_decides_otherwise(
    cli: Cli, tmp_path: Path, changed_machine: Path
) -> None:
    page = tmp_path / "replay.html"
    words = ("replay", str(golden("committed")), "--html", str(page), "--against", str(changed_machine))
    assert cli(*words).exit_code == 1
    lines = [json.loads(line) for line in golden("committed").read_bytes().splitlines()]
    (number,) = [
        line["sequence"]
        for line in lines
        if (line["event"], line.get("name")) == ("transition-intent", "switch-over")
    ]
    dom = in_browser(page, tmp_path / "profile", f"#{number}")
    assert 'class="decision diverges"' in dom
    assert 'class="verdict bad"' in dom


def test_a_page_holds_one_migration(cli: Cli, tmp_path: Path, log: Path) -> None:
    page = tmp_path / "replay.html"
    result = cli("replay", str(log), "--html", str(page))
    assert (result.exit_code, page.exists()) == (2, False)
    assert "--migration" in result.stderr
    assert cli("replay", str(log), "--html", str(page), "--migration", "aborted").exit_code == 0
