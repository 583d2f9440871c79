"""Small runs of the bench on real hosts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

from bench import report
from bench.copies import COPIES, NBD, STREAMS, Base
from bench.copies import measure as measure_copy
from bench.holes import DENSE, HOLES, Sparse, spreads
from bench.holes import measure as measure_holes
from bench.migrations import ENGINE_MIRROR, FSM, VIRSH, WHOLE
from bench.phases import END, START
from bench.results import Where
from fsm.lab import IMAGES as IMAGE_DIRECTORY
from fsm.lab import Lab, LabError

ROOT = Path(__file__).parents[1]


def command(*words: str | int | Path) -> list[str]:
    return [sys.executable, "-m", "bench", *map(str, words)]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "FSM_LAB_DIR": str(tmp_path / "labs")}


@pytest.mark.lab
@needs_root
def test_a_small_bench(tmp_path: Path, environment: dict[str, str]) -> None:
    output = tmp_path / "results.json"
    chosen = (FSM, ENGINE_MIRROR, VIRSH)  # not all of them: making a guest for each takes the longest
    only = [word for name in chosen for word in ("--only", name)]
    words = command("--rounds", 1, "--image", "small=32:8", "--output", output, *only)
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = {run["contender"]: run for run in json.loads(output.read_text(encoding="utf-8"))["runs"]}
    assert set(found) == set(chosen)
    assert found[FSM]["snapshots_kept"] == 2
    assert found[ENGINE_MIRROR]["snapshots_kept"] == 2
    assert found[VIRSH]["snapshots_kept"] == 0
    assert sum(phase["seconds"] for phase in found[FSM]["phases"]) == pytest.approx(
        found[FSM]["seconds"], abs=0.2
    )
    assert all(run["silence_ms"] > 0 and run["acknowledged_writes"] > 0 for run in found.values())
    for name, states in (
        (FSM, [START, "planned", "snapshotted", "transferring", "committing-dest", END]),
        (VIRSH, [WHOLE]),
    ):
        assert [one["state"] for one in found[name]["states"]] == states
        assert any(one["writes_per_s"] for one in found[name]["states"])
        assert found[name]["silence_state"] in states
    assert all(run["undisturbed_writes_per_s"] > 0 for run in found.values())
    assert 0 < found[ENGINE_MIRROR]["own_s"] < found[ENGINE_MIRROR]["seconds"]
    assert found[FSM]["own_s"] is None
    assert found[FSM]["sent_bytes"] > found[FSM]["source_image_bytes"]
    assert "2 of 2" in done.stdout
    assert not (tmp_path / "labs").exists()


@pytest.mark.lab
@needs_root
def test_every_copy_is_measured_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSM_LAB_DIR", str(tmp_path / "labs"))
    with Lab.up(guest=False) as lab:
        base = Base(lab, f"{IMAGE_DIRECTORY}/base.qcow2")
        with base.source.path(base.path).open("wb") as file:
            file.write(os.urandom(3 * report.MIB))
            file.truncate(20 * report.MIB)
        for copy in COPIES:
            if copy.missing():
                continue
            run = measure_copy(copy, base, Where("small", 1, 2))
            assert (run.contender, run.where) == (copy.name, Where("small", 1, 2))
            assert run.sent_bytes + run.copied_bytes >= 3 * report.MIB
            assert 3 * report.MIB <= run.destination_image_bytes < 4 * report.MIB
        wrong = evolve(COPIES[-1], act=Base.make_empty_copy)
        with pytest.raises(LabError, match="differ"):
            measure_copy(wrong, base, Where("small", 0, 0))
        assert not base.destination.path(base.path).exists()
        found = measure_holes(lab, Sparse(64, 4, 16), 1, tmp_path / "holes.json")
        measured = [set(seen) for seen in spreads(found.runs).values()]
        assert measured == [{DENSE, HOLES}] * len(found.contenders)
        assert {STREAMS, NBD} <= set(found.contenders)
        assert all(4 * report.MIB <= run.destination_image_bytes < 5 * report.MIB for run in found.runs)


@pytest.mark.lab
@needs_root
def test_an_interrupted_bench_leaves_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    words = command("--only", "cp", "--image", "small=32:8", "--output", tmp_path / "results.json")
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "warming up" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not (tmp_path / "labs").exists()
    assert not (tmp_path / "results.json").exists()
