"""The bench's arithmetic, its tables, and one small run of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from attrs import evolve
from rich.console import Console

from bench import report, session
from bench.copies import BASE, COPIES
from bench.copies import measure as measure_copy
from bench.figures import Spread, compared, order, spread
from bench.guests import Scene, guest_spec
from bench.meter import Meter, cpu_ticks, sent_bytes
from bench.migrations import FSM, MIGRATIONS, MIRROR, VIRSH
from bench.phases import END, START, by_state, phases
from bench.results import Kind, Results, Run, save
from fsm.journal.records import Phase, Record, Step
from fsm.lab import Lab, LabError

ROOT = Path(__file__).parents[1]
RUN = Run(
    contender=VIRSH,
    kind=Kind.MIGRATION,
    round=0,
    place=0,
    seconds=2.0,
    command_cpu_s=0.5,
    hosts_cpu_s=1.5,
    sent_bytes=3 * report.MIB,
    copied_bytes=report.MIB,
    source_image_bytes=0,
    destination_image_bytes=0,
    load_average=0.25,
    silence_ms=100.0,
    silence_resolution_ms=3.0,
    undisturbed_silence_ms=20.0,
    snapshots_before=2,
    snapshots_kept=0,
)
OURS = evolve(RUN, contender=FSM, seconds=3.0, silence_ms=50.0, snapshots_kept=2)
COPY = evolve(RUN, contender="cp", kind=Kind.BASE_COPY, silence_ms=None, snapshots_before=None)


def results(*runs: Run) -> Results:
    return Results(
        began="2030-01-01T00:00:00+00:00",
        settings={},
        machine={},
        contenders={run.contender: f"what {run.contender} does" for run in runs},
        left_out={"nbdcopy": "nbdcopy is not installed"},
        runs=runs,
        summary=report.summary(runs, session.REFERENCES),
    )


# Order


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_everybody_has_each_place_equally_often(count: int) -> None:
    contenders = list(range(count))
    rounds = [order(contenders, number) for number in range(2 * count)]
    assert all(sorted(one) == contenders for one in rounds)
    for places in zip(*rounds, strict=True):
        assert sorted(places) == sorted(contenders * 2)


def test_the_second_lap_goes_backwards() -> None:
    assert [order("abc", number) for number in range(4)] == [
        list("abc"),
        list("bca"),
        list("cab"),
        list("cba"),
    ]


def test_nobody_has_no_order() -> None:
    assert order([], 3) == []


# Arithmetic


def test_a_spread_is_middle_ends_and_ratio_of_medians() -> None:
    assert spread([5, 1, 3], [2, 100, 1]) == Spread(3, 1, 5, 1.5)


def test_no_values_have_no_spread() -> None:
    assert spread([], [1]) is None


@pytest.mark.parametrize("reference", [[], [0.0]])
def test_there_is_no_ratio_to_nothing(reference: list[float]) -> None:
    found = spread([1.0], reference)
    assert found is not None
    assert found.ratio is None


def test_runs_without_the_number_do_not_count() -> None:
    runs = [OURS, evolve(OURS, silence_ms=None), RUN]
    assert compared(runs, FSM, VIRSH, lambda run: run.silence_ms) == Spread(50.0, 50.0, 50.0, 0.5)


# What the kernel tells


def test_cpu_ticks_count_ended_children_and_survive_any_name() -> None:
    before = " ".join(["S", *("9" * 10)])
    assert cpu_ticks(f"42 (a) b (c)) {before} 1 20 300 4000 20 0 1") == 4321
    assert cpu_ticks("") == 0


def test_the_loopback_is_no_network() -> None:
    head = "Inter-|   Receive  |  Transmit\n face |bytes packets ...|bytes ...\n"
    rows = [f"{name:>6}: 7 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0" for name, sent in (("lo", 5), ("eth0", 70))]
    assert sent_bytes(head + "\n".join(rows) + "\n") == 70


# Phases


def test_the_phases_make_up_the_whole_command() -> None:
    began = datetime(2030, 1, 1, tzinfo=UTC)

    def at(seconds: float) -> datetime:
        return began + timedelta(seconds=seconds)

    records = [
        Record(Step.ACTIVITY, Phase.INTENT, "preflight", "planned", at=at(1.5)),
        Record(Step.ACTIVITY, Phase.OUTCOME, "preflight", "planned", at=at(2)),
        Record(Step.TRANSITION, Phase.INTENT, "start", "planned", "snapshotted", at=at(2.25)),
        Record(Step.ACTION, Phase.OUTCOME, "create-copies", "planned", at=at(3)),
        Record(Step.TRANSITION, Phase.OUTCOME, "start", "planned", "snapshotted", at=at(3.5)),
        Record(Step.ACTIVITY, Phase.OUTCOME, "copy-bases", "snapshotted", at=at(7.5)),
    ]
    found = phases(at(1), records, began, at(8))
    assert [(one.step, one.seconds) for one in found] == [
        ("interpreter, imports, journal", 1.0),
        ("before preflight", 0.5),
        ("preflight", 0.5),
        ("before start", 0.25),
        ("create-copies", 0.75),
        ("start entered", 0.5),
        ("copy-bases", 4.0),
        ("exit", 0.5),
    ]
    assert by_state(found) == {START: 1.5, "planned": 2.0, "snapshotted": 4.0, END: 0.5}


# Tables and the file


def test_a_row_has_a_cell_for_every_heading() -> None:
    for kind, reference in session.REFERENCES.items():
        for row in report.rows([OURS, RUN, COPY], kind, reference):
            assert len(row) == len(report.titles(kind))


def test_the_table_shows_medians_and_ratios() -> None:
    runs = [RUN, OURS, evolve(OURS, round=1, seconds=5.0), evolve(OURS, round=2, seconds=4.0)]
    reference, ours = report.rows(runs, Kind.MIGRATION, VIRSH)
    assert reference == [VIRSH, "2.00", "1.00", "100", "1.00", "0.50", "2.00", "1.00", "4", "0 of 2"]
    assert ours[:5] == [FSM, "4.00\n3.00..5.00", "2.00", "50", "0.50"]
    assert ours[-1] == "2 of 2"


def test_without_the_reference_there_are_no_ratios() -> None:
    assert report.rows([OURS], Kind.MIGRATION, VIRSH)[0][2] == "-"


def test_different_outcomes_are_not_hidden() -> None:
    runs = [OURS, evolve(OURS, snapshots_kept=1)]
    assert report.rows(runs, Kind.MIGRATION, VIRSH)[0][-1] == "1 of 2, 2 of 2"


def test_the_printed_report_says_what_each_did() -> None:
    console = Console(width=150, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    report.show(results(OURS, RUN, COPY), session.REFERENCES, console)
    text = console.export_text()
    for expected in (
        "fsm migrate: what fsm migrate does",
        "cp: what cp does",
        "nbdcopy is left out: nbdcopy is not installed",
        "20 ms (up to 20). Silences are exact to 3 ms.",
        "Load average before the runs: 0.2 to 0.2.",
    ):
        assert expected in text


def test_the_file_holds_every_run_and_the_summary(tmp_path: Path) -> None:
    save(results(OURS, RUN, COPY), tmp_path / "results.json")
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["format"] == 1
    assert [run["contender"] for run in found["runs"]] == [FSM, VIRSH, "cp"]
    ours = found["summary"][0]
    assert (ours["contender"], ours["kind"], ours["reference"]) == (FSM, "migration", VIRSH)
    assert ours["silence_ms"] == {"median": 50.0, "lowest": 50.0, "highest": 50.0, "ratio": 0.5}


# The contenders


def test_names_are_unique_and_the_references_take_part() -> None:
    assert len(set(session.NAMES)) == len(session.NAMES)
    assert set(session.REFERENCES.values()) <= set(session.NAMES)


def test_only_the_named_take_part() -> None:
    settings = session.Settings(1, 32, 8, only=("cp",))
    assert [one.name for one in COPIES if settings.wants(one)] == ["cp"]
    assert not any(settings.wants(one) for one in MIGRATIONS)


def test_a_contender_says_what_it_lacks() -> None:
    assert evolve(COPIES[0], needs="no-such-command").missing() == "no-such-command is not installed"


def test_the_guest_has_what_was_asked_for() -> None:
    (disk,) = guest_spec(48, 12).disks
    assert (disk.size_mib, disk.data_mib) == (48, 12)


def test_what_a_command_leaves_behind_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Meter, "_of_hosts", lambda _: (0.0, 0))
    work = "i = 0\nwhile i < 3000000:\n    i += 1"
    script = f"{sys.executable} -c '{work}' >/dev/null 2>&1 &"
    with Meter(cast(Lab, None)) as meter:
        subprocess.run(["sh", "-c", script], check=True)
    # In clock ticks, since a busy machine makes it wait, but not work less.
    assert meter.command_cpu_s >= 0.05


def command(*words: str | int | Path) -> list[str]:
    return [sys.executable, "-m", "bench", *map(str, words)]


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--output", tmp_path / "nowhere" / "results.json"), cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"nowhere" in done.stderr


# On real hosts

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "FSM_LAB_DIR": str(tmp_path / "labs")}


@pytest.mark.lab
@needs_root
def test_a_small_bench(tmp_path: Path, environment: dict[str, str]) -> None:
    output = tmp_path / "results.json"
    chosen = (FSM, MIRROR, VIRSH)  # not all of them: making a guest for each takes the longest
    only = [word for name in chosen for word in ("--only", name)]
    words = command("--rounds", 1, "--size-mib", 32, "--data-mib", 8, "--output", output, *only)
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = {run["contender"]: run for run in json.loads(output.read_text(encoding="utf-8"))["runs"]}
    assert set(found) == set(chosen)
    assert found[FSM]["snapshots_kept"] == 2
    assert found[MIRROR]["snapshots_kept"] == 2
    assert found[VIRSH]["snapshots_kept"] == 0
    assert sum(phase["seconds"] for phase in found[FSM]["phases"]) == pytest.approx(
        found[FSM]["seconds"], abs=0.2
    )
    assert all(run["silence_ms"] > 0 and run["acknowledged_writes"] > 0 for run in found.values())
    assert found[FSM]["sent_bytes"] > found[FSM]["source_image_bytes"]
    assert "2 of 2" in done.stdout
    assert not (tmp_path / "labs").exists()


@pytest.mark.lab
@needs_root
def test_every_copy_is_measured_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSM_LAB_DIR", str(tmp_path / "labs"))
    with Lab.up(guest=False) as lab:
        scene = Scene(lab, guest_spec(32, 8))
        with scene.source.path(BASE).open("wb") as file:
            file.write(os.urandom(3 * report.MIB))
            file.truncate(20 * report.MIB)
        for copy in COPIES:
            if copy.missing():
                continue
            run = measure_copy(copy, scene, round_number=1, place=2)
            assert (run.contender, run.round, run.place) == (copy.name, 1, 2)
            assert run.sent_bytes + run.copied_bytes >= 3 * report.MIB
            assert 3 * report.MIB <= run.destination_image_bytes < 4 * report.MIB
        wrong = evolve(COPIES[-1], act=lambda scene: scene.destination.run(["truncate", "-s", "20M", BASE]))
        with pytest.raises(LabError, match="differ"):
            measure_copy(wrong, scene, round_number=0, place=0)
        assert not scene.destination.path(BASE).exists()


@pytest.mark.lab
@needs_root
def test_an_interrupted_bench_leaves_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    words = command("--only", "cp", "--size-mib", 32, "--data-mib", 8, "--output", tmp_path / "results.json")
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "warming up" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not (tmp_path / "labs").exists()
    assert not (tmp_path / "results.json").exists()
