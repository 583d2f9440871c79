"""The bench's arithmetic, its tables, and one small run of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from attrs import evolve
from rich.console import Console

from bench import report, session
from bench.copies import COPIES, NBDCOPY, QEMU_IMG
from bench.figures import Spread, compared, order, spread
from bench.goals import GOALS
from bench.guests import guest_spec
from bench.images import IMAGES, Image
from bench.meter import Meter, cpu_ticks, sent_bytes
from bench.migrations import FSM, MIGRATIONS, PAUSE, VIRSH
from bench.phases import END, START, by_state, phases
from bench.results import InState, Kind, Phase, Results, Run, Where, load, save
from fsm.errors import BadInput
from fsm.journal.records import Phase as Half
from fsm.journal.records import Record, Step
from fsm.lab import Lab

ROOT = Path(__file__).parents[1]
RUN = Run(
    contender=VIRSH,
    kind=Kind.MIGRATION,
    where=Where("1 GiB", 0, 0),
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
    undisturbed_writes_per_s=150.0,
    snapshots_before=2,
    snapshots_kept=0,
)
OURS = evolve(RUN, contender=FSM, seconds=3.0, silence_ms=50.0, snapshots_kept=2)
PAUSED = evolve(RUN, contender=PAUSE, silence_ms=2500.0)
COPY = evolve(RUN, contender="cp", kind=Kind.BASE_COPY, silence_ms=None, undisturbed_writes_per_s=None)


def results(*runs: Run) -> Results:
    return Results(
        began="2030-01-01T00:00:00+00:00",
        settings={"pause_ms": 5},
        machine={},
        contenders={run.contender: f"what {run.contender} does" for run in runs},
        left_out={"nbdcopy": "nbdcopy is not installed"},
        runs=runs,
        summary=report.summary(runs),
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
    assert spread([5, 1, 3], {"other": [2, 100, 1]}) == Spread(3, 1, 5, {"other": 1.5})


def test_no_values_have_no_spread() -> None:
    assert spread([], {"other": [1]}) is None


@pytest.mark.parametrize("reference", [[], [0.0]])
def test_there_is_no_ratio_to_nothing(reference: list[float]) -> None:
    assert spread([1.0], {"other": reference}) == Spread(1, 1, 1)


def test_runs_without_the_number_do_not_count() -> None:
    runs = [OURS, evolve(OURS, silence_ms=None), RUN]
    found = compared(runs, FSM, [VIRSH], lambda run: run.silence_ms)
    assert found == Spread(50.0, 50.0, 50.0, {VIRSH: 0.5})


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
        Record(Step.ACTIVITY, Half.INTENT, "preflight", "planned", at=at(1.5)),
        Record(Step.ACTIVITY, Half.OUTCOME, "preflight", "planned", at=at(2)),
        Record(Step.TRANSITION, Half.INTENT, "start", "planned", "snapshotted", at=at(2.25)),
        Record(Step.ACTION, Half.OUTCOME, "create-copies", "planned", at=at(3)),
        Record(Step.TRANSITION, Half.OUTCOME, "start", "planned", "snapshotted", at=at(3.5)),
        Record(Step.ACTIVITY, Half.OUTCOME, "copy-bases", "snapshotted", at=at(7.5)),
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
    for kind, runs in ((Kind.MIGRATION, [OURS, RUN, PAUSED]), (Kind.BASE_COPY, [COPY])):
        for row in report.rows(runs, kind):
            assert len(row) == len(report.titles(runs, kind))


def test_the_table_shows_medians_and_ratios() -> None:
    more = [evolve(OURS, seconds=5.0), evolve(OURS, seconds=4.0)]
    runs = [RUN, OURS, *more, PAUSED]
    titles = report.titles(runs, Kind.MIGRATION)
    reference, ours, _ = (dict(zip(titles, row, strict=True)) for row in report.rows(runs, Kind.MIGRATION))
    assert titles[:6] == ["contender", "seconds", "of virsh migrate", "longest silence, ms", *titles[4:6]]
    row = report.rows(runs, Kind.MIGRATION)[1]
    assert row[:6] == [FSM, "4.00\n3.00..5.00", "2.00", "50", "0.50", "0.02"]
    assert (reference["seconds"], reference["snapshots kept"]) == ("2.00", "0 of 2")
    assert (ours["MiB moved"], ours["snapshots kept"]) == ("4", "2 of 2")


def test_without_the_reference_there_are_no_ratios() -> None:
    assert not any(title.startswith("of ") for title in report.titles([OURS], Kind.MIGRATION))


def test_where_nbdcopy_is_missing_qemu_img_is_the_reference() -> None:
    runs = [COPY, evolve(COPY, contender=QEMU_IMG)]
    assert f"of {QEMU_IMG}" in report.titles(runs, Kind.BASE_COPY)
    runs.append(evolve(COPY, contender=NBDCOPY))
    assert f"of {NBDCOPY}" in report.titles(runs, Kind.BASE_COPY)
    assert f"of {QEMU_IMG}" not in report.titles(runs, Kind.BASE_COPY)


def test_images_are_not_mixed() -> None:
    small = [evolve(run, where=Where("256 MiB", 0, 0), seconds=1.0) for run in (OURS, RUN)]
    found = {
        (one["image"], one["contender"]): one["seconds"]["ratios"][VIRSH]
        for one in report.summary([OURS, RUN, *small])
    }
    assert found == {
        ("1 GiB", FSM): 1.5,
        ("1 GiB", VIRSH): 1.0,
        ("256 MiB", FSM): 1.0,
        ("256 MiB", VIRSH): 1.0,
    }


def test_different_outcomes_are_not_hidden() -> None:
    runs = [OURS, evolve(OURS, snapshots_kept=1)]
    assert report.rows(runs, Kind.MIGRATION)[0][-1] == "1 of 2, 2 of 2"


def test_the_printed_report_says_what_each_did() -> None:
    console = Console(width=150, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    report.show(results(OURS, RUN, COPY), console)
    text = console.export_text()
    for expected in (
        "1 GiB, migration: median",
        "fsm migrate: seconds of virsh migrate",
        "1.50 (!)",
        "fsm migrate: what fsm migrate does",
        "cp: what cp does",
        "nbdcopy is left out: nbdcopy is not installed",
        "20 ms (up to 20). Silences are exact to 3 ms.",
        "150 writes a second (150 to 150). Behind each it waits 5 ms.",
        "Load average before the runs: 0.2 to 0.2.",
    ):
        assert expected in text


def test_the_file_holds_every_run_and_the_summary(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    save(results(OURS, RUN, COPY), path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [run["contender"] for run in found["runs"]] == [FSM, VIRSH, "cp"]
    ours = found["summary"][0]
    assert (ours["image"], ours["contender"], ours["kind"]) == ("1 GiB", FSM, "migration")
    assert ours["silence_ms"] == {"median": 50.0, "lowest": 50.0, "highest": 50.0, "ratios": {VIRSH: 0.5}}
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_the_file_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    state = InState("planned", 1.0, 100.0, None, 12.0, 0.1)
    written = results(evolve(OURS, states=(state,), phases=(Phase("planned", "preflight", 1.0),)), COPY)
    save(written, path)
    found = load(path)
    assert found.runs == written.runs
    assert report.summary(found.runs) == written.summary


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"results\.json"):
        load(path)


# The contenders


def test_names_are_unique_and_the_references_take_part() -> None:
    assert len(set(session.NAMES)) == len(session.NAMES)
    assert {VIRSH, PAUSE, NBDCOPY, QEMU_IMG, *(goal.contender for goal in GOALS)} <= set(session.NAMES)


def test_only_the_named_take_part() -> None:
    settings = session.Settings(1, IMAGES, only=("cp",))
    assert [one.name for one in COPIES if settings.wants(one)] == ["cp"]
    assert not any(settings.wants(one) for one in MIGRATIONS)


def test_a_contender_says_what_it_lacks() -> None:
    assert evolve(COPIES[0], needs="no-such-command").missing() == "no-such-command is not installed"


def test_the_guest_has_what_was_asked_for() -> None:
    (disk,) = guest_spec(Image("small", 48, 12)).disks
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
