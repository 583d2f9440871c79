"""The example of an orchestrator on two real hosts with three guests that write."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from fsm.lab import DiskSpec, GuestSpec, SnapshotSpec
from tests.lab_rig import LONG_LAB, Rig, check_kept, domains, look, watched

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "evacuate.py"
COMMITTED, REFUSED = 0, 5
GUESTS = tuple(
    GuestSpec(
        name=name,
        disks=(DiskSpec(target="vda", size_mib=16, data_mib=4),),
        snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
        live_snapshots=name == "web",
    )
    for name in ("web", "db", "mail")
)
TWICE = GUESTS[2]


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    for spec in GUESTS:
        rig.lab.define_guest(rig.alpha, spec)
    return rig


def test_a_host_is_evacuated_and_what_was_refused_goes_with_the_next_run(rig: Rig) -> None:
    def evacuate() -> subprocess.CompletedProcess[str]:
        words = ["--journal", f"sqlite:///{rig.journal}", "--per-host", "2", rig.alpha.uri, rig.beta.uri]
        return subprocess.run(
            [sys.executable, str(EXAMPLE), *words], capture_output=True, text=True, timeout=240, check=False
        )

    in_the_way = rig.beta.path(TWICE.disks[0].image(TWICE.name))
    in_the_way.write_bytes(b"of somebody else")
    before = {spec.name: look(rig, rig.alpha, spec) for spec in GUESTS}
    with ExitStack() as watches:
        acks = {spec.name: watches.enter_context(watched(rig, spec)).acks for spec in GUESTS}
        first = evacuate()
        assert first.returncode == REFUSED, first.stderr
        assert f"{TWICE.name}: refused" in first.stdout
        assert str(TWICE.disks[0].image(TWICE.name)) in first.stderr
        assert first.stderr.count("what to do: ") == 1
        assert domains(rig.alpha) == [TWICE.name]
        assert in_the_way.read_bytes() == b"of somebody else"
        in_the_way.unlink()
        second = evacuate()
        assert (second.returncode, second.stderr) == (COMMITTED, "")
    assert domains(rig.alpha) == []
    for spec in GUESTS:
        check_kept(rig, spec, before[spec.name], rig.beta, acks[spec.name])
    assert rig.unfinished() == []
