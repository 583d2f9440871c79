"""``fsm migrate`` and its kin on simulated hosts: lines, exit codes, and what they keep to themselves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from click.testing import CliRunner, Result

from fsm.cli import main
from fsm.errors import HostError
from fsm.hypervisor.simulated import SimulatedDisk
from fsm.hypervisor.values import SnapshotMetadata
from tests.cli_rig import IMAGES, Cli, cli, lines_of, world
from tests.simulation import DESTINATION, SOURCE

__all__ = ["cli", "world"]  # fixtures

SECRET = "hunter2"  # noqa: S105


def test_a_migration_in_plain_lines(cli: Cli) -> None:
    result = cli.migrate()
    assert (result.exit_code, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert lines[0] == "planned: preflight"
    assert "planned -> snapshotted (start)" in lines
    assert "domain web is committed" in lines[-1]
    migration = lines[-1].partition(":")[0]
    listed = cli("list").stdout
    assert migration in listed
    assert "committed" in listed
    assert cli("list", "--unfinished", "--json").stdout == ""
    shown = cli("show", migration)
    assert shown.exit_code == 0
    assert "state committed" in shown.stdout
    assert "cause" not in shown.stdout


@pytest.mark.parametrize(
    ("wanted", "fault", "told"),
    [
        ("commit", False, "merge commit: asked for"),
        ("mirror", False, "merge mirror: asked for"),
        ("auto", False, "merge mirror: nothing stands against it"),
        ("auto", True, "merge commit: disk vda"),
    ],
)
def test_the_way_of_merging_is_told_with_its_reason(cli: Cli, wanted: str, fault: bool, told: str) -> None:  # noqa: FBT001
    if fault:
        cli.world.fail("peek", host=SOURCE)
    result = cli.migrate("--merge", wanted)
    assert result.exit_code == 0
    assert ("note: " in result.stdout) is fault
    migration = result.stdout.splitlines()[-1].partition(":")[0]
    assert told in cli("show", migration).stdout
    (data,) = [
        line["data"] for line in lines_of(cli("show", "--json", migration))[1:] if line["data"].get("merge")
    ]
    assert told.startswith(f"merge {data['merge']}: ")
    assert data["merge_reason"].startswith(told.partition(": ")[2])


def test_a_migration_in_json_lines(cli: Cli) -> None:
    result = cli.migrate("--json")
    events = lines_of(result)
    assert result.exit_code == 0
    assert {event["event"] for event in events} == {"record", "progress", "result"}
    assert [event["event"] for event in events].index("result") == len(events) - 1
    assert (events[-1]["state"], events[-1]["domain"]) == ("committed", "web")
    sequences = [event["sequence"] for event in events if event["event"] == "record"]
    assert sequences == list(range(1, len(sequences) + 1))
    (listed,) = lines_of(cli("list", "--json"))
    assert (listed["migration"], listed["state"]) == (events[-1]["migration"], "committed")
    header, *records = lines_of(cli("show", "--json", listed["migration"]))
    assert header["migration"] == listed["migration"]
    assert [record["sequence"] for record in records] == sequences


def test_refused_is_exit_code_5_with_all_findings(cli: Cli) -> None:
    cli.world.put_file(DESTINATION, f"{IMAGES}/web-vda.qcow2", b"somebody's")
    result = cli.migrate("--exclude-disk", "vdx", "--json")
    assert result.exit_code == 5
    event = lines_of(result)[-1]
    assert (event["event"], event["state"]) == ("result", "refused")
    assert {finding["check"] for finding in event["findings"]} == {"path-taken", "no-such-disk"}
    plain = cli.migrate("--exclude-disk", "vdx")
    assert plain.exit_code == 5
    assert "[path-taken]" in plain.stderr
    assert "[no-such-disk]" in plain.stderr
    assert plain.stderr.count("what to do: ") == 2
    unknown = cli.migrate(domain="nobody")
    assert (unknown.exit_code, "'nobody'" in unknown.stderr) == (5, True)


def test_copies_go_where_they_are_mapped_to_and_that_is_told(cli: Cli) -> None:
    cli.world.add_directory(DESTINATION, "/srv/pool")
    cli.world.add_pool(DESTINATION, "/srv/pool")
    result = cli.migrate("--disk-map", "vda=pool/a <b>", "--pool", "pool", "--dname", "mail [b]")
    assert result.exit_code == 0, result.output
    assert "/srv/pool/a <b>" in cli.world.files(DESTINATION)
    migration = result.stdout.splitlines()[-1].partition(":")[0]
    shown = cli("show", migration).stdout
    assert "copy of vda: /srv/pool/a <b>" in shown
    assert "name there: mail [b]" in shown
    refused = cli.migrate("--disk-map", "vda")
    assert (refused.exit_code, "TARGET=POOL/NAME" in refused.stderr) == (2, True)


def test_rolled_back_is_exit_code_3(cli: Cli) -> None:
    cli.world.fail("migrate", host=SOURCE)
    result = cli.migrate()
    assert result.exit_code == 3
    assert "is rolled-back" in result.stdout
    assert result.stderr.startswith("fsm: ")


def test_stuck_is_exit_code_4_and_resume_goes_on(cli: Cli) -> None:
    world = cli.world
    world.at("migrate", lambda: world.power_off(DESTINATION))
    result = cli.migrate()
    assert result.exit_code == 4
    migration = result.stdout.splitlines()[-1].partition(":")[0]
    (unfinished,) = lines_of(cli("list", "--unfinished", "--json"))
    assert (unfinished["migration"], unfinished["state"]) == (migration, "stuck")
    world.faults.clear()
    world.power_on(DESTINATION)
    assert cli("resume", migration).exit_code == 3
    assert cli("list", "--unfinished").exit_code == 0


def test_an_error_that_nobody_expected_is_exit_code_1(cli: Cli) -> None:
    cli.journal.write_bytes(b"no database" * 1000)
    result = cli.migrate()
    assert result.exit_code == 1
    assert str(cli.journal) in result.stderr


@pytest.mark.parametrize("name", ["[red]web", "[bold]", "é <&> 'x'", "-x"])
def test_names_are_shown_as_they_are(cli: Cli, name: str) -> None:
    cli.world.add_domain(SOURCE, name, disks=("vda",))
    result = cli("migrate", "--from", SOURCE, "--to", DESTINATION, "--", name)
    assert result.exit_code == 0, result.output
    assert f"domain {name} is committed" in result.stdout
    assert name in cli("list").stdout


def test_no_secret_of_a_domain_is_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshot metadata embeds domain XML, and that may hold the password of a display."""
    kind = type(asyncio.run(cli.world.connect(SOURCE)))
    read = kind.snapshots

    async def snapshots(self: Any, uuid: str) -> tuple[SnapshotMetadata, ...]:
        found = await read(self, uuid)
        return tuple(evolve(one, xml=one.xml + f"<!-- {SECRET} -->") for one in found)

    monkeypatch.setattr(kind, "snapshots", snapshots)
    results = [cli.migrate("--json"), cli("list", "--json")]
    assert SECRET.encode() in b"".join(file.read_bytes() for file in cli.journal.parent.iterdir())
    migration = lines_of(results[0])[-1]["migration"]
    results += [cli("show", migration), cli("show", "--json", migration), cli("-v", "show", migration)]
    assert [result.exit_code for result in results] == [0] * len(results)
    assert not [result.output for result in results if SECRET in result.output]


def test_no_password_of_a_uri_is_shown(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal.db")
    uri = f"qemu+tcp://admin:{SECRET}@127.0.0.1:1/system"

    def fsm(*words: str) -> Result:
        return CliRunner().invoke(main, ["--journal", journal, *words])

    refused = [fsm("migrate", "web", "--from", uri, "--to", uri, *words) for words in ((), ("--json",))]
    assert [result.exit_code for result in refused] == [5, 5]
    migration = lines_of(refused[1])[-1]["migration"]
    shown = [fsm("show", migration), fsm("show", "--json", migration), fsm("list"), fsm("list", "--json")]
    for result in (*refused, *shown):
        assert SECRET not in result.output
        assert "admin@127.0.0.1" in result.output


ON_SIMULATED_HOSTS = f"""
import sys
from fsm.cli import drive, main
from fsm.engine.engine import Engine
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.journal.sql import open_journal

world = SimulatedWorld()
world.add_host({SOURCE!r})
world.add_host({DESTINATION!r})
world.add_domain({SOURCE!r}, "web", disks=("vda",))
drive.open_engine = lambda context: Engine(open_journal(context.obj["journal"]), world, clock=world.clock)
main()
"""


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_goes_away_changes_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    words = [
        "--journal",
        str(tmp_path / "journal.db"),
        "migrate",
        "web",
        "--from",
        SOURCE,
        "--to",
        DESTINATION,
    ]
    command = [sys.executable, "-c", ON_SIMULATED_HOSTS, *words, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() != ""
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")


def test_what_is_flattened_and_what_is_not_is_told(cli: Cli) -> None:
    template = f"{IMAGES}/template.raw"
    cli.world.put_file(SOURCE, template, {0: b"template"}, size_bytes=8 << 20)
    disks = [SimulatedDisk(target, backing=(template, "raw")) for target in ("vda", "vdb")]
    cli.world.add_domain(SOURCE, "plain", disks)
    cli.world.fail("start_pull", host=DESTINATION, nth=2, error=HostError("no", host=DESTINATION))
    result = cli.migrate("--flatten", "vda", "--flatten", "vdb", "--accept", "flatten-flush", domain="plain")
    assert result.exit_code == 0
    pull = f"disk vda: virsh -c {DESTINATION} blockjob plain vda"
    assert f"a block pull has begun, and goes on by itself; {pull}" in result.stdout
    begin = f"to begin it: virsh -c {DESTINATION} blockpull plain vdb"
    assert "not flattened: disk vdb: " in result.stderr
    assert begin in result.stderr
    (listed,) = lines_of(cli("list", "--json"))
    shown = cli("show", listed["migration"]).stdout
    assert f"block pull begun: {pull}" in shown
    assert begin in shown
