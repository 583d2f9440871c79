"""Bases copied straight from host to host: whole, from a seed, taken up again, and never by a wrong shell."""

from __future__ import annotations

import shlex
import signal

import pytest

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from tests.lab_rig import NEEDS_LAB, Event, Rig, by_nbd, check_kept, check_untouched, look, slow_link, watched

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

MIB = 1024 * 1024
COMMITTED, BAD_INPUT, ROLLED_BACK, REFUSED = 0, 2, 3, 5
WEB = GuestSpec(
    name="web",
    disks=(
        DiskSpec(target="vda", size_mib=128, data_mib=96),
        DiskSpec(target="vdb", size_mib=16, data_mib=4),
    ),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
    live_snapshots=False,
)
IMAGE = WEB.disks[0].image(WEB.name)


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.lab.define_guest(rig.alpha, WEB)
    return rig


def here(rig: Rig) -> LabHost:
    return next(host for host in rig.lab.hosts if host.qemu_pids(WEB.name))


def shells(source: LabHost, destination: LabHost) -> list[str]:
    return [
        f"--source-shell={shlex.join(source.enter)}",
        f"--destination-shell={shlex.join(destination.enter)}",
    ]


def most_bytes(events: list[Event], phase: str) -> int:
    told = (one["done_bytes"] for one in events if one["event"] == "progress" and one["phase"] == phase)
    return max(told, default=0)


@pytest.mark.parametrize("merge", ["commit", "mirror"])
def test_nothing_is_lost_by_it(rig: Rig, merge: str) -> None:
    source = here(rig)
    destination = rig.other(source)
    rig.remove_images(destination, WEB)
    before = look(rig, source, WEB)
    with watched(rig, WEB) as watch:
        done = rig.migrate(WEB.name, source, *by_nbd(rig, source), f"--merge={merge}")
    assert done.returncode == COMMITTED, done.stderr
    check_kept(rig, WEB, before, destination, watch.acks)


@pytest.mark.long
def test_over_a_slow_link(rig: Rig) -> None:
    source = here(rig)
    destination = rig.other(source)
    rig.remove_images(destination, WEB)
    before = look(rig, source, WEB)
    with watched(rig, WEB) as watch, slow_link(source, "200mbit"):
        done = rig.migrate(WEB.name, source, *by_nbd(rig, source))
    assert done.returncode == COMMITTED, done.stderr
    assert "copy-bases: the link is slow: what waits is compressed" in done.stdout
    check_kept(rig, WEB, before, destination, watch.acks)


def test_of_a_seed_only_the_differences_are_sent(rig: Rig) -> None:
    source = here(rig)
    destination = rig.other(source)
    seed = f"{IMAGE}.old"
    assert destination.path(IMAGE).exists()  # the last migration came from there
    destination.path(IMAGE).rename(destination.path(seed))
    rig.remove_images(destination, WEB)
    before = look(rig, source, WEB)
    try:
        words = [*by_nbd(rig, source), f"--seed=vda={seed}"]
        with watched(rig, WEB) as watch, rig.migrating(WEB.name, source, *words) as running:
            code, _ = running.finish()
        assert code == COMMITTED, running.errors.read_text()
        check_kept(rig, WEB, before, destination, watch.acks)
        assert most_bytes(running.events, "compare") > 96 * MIB
        assert 0 < most_bytes(running.events, "base copy") < 96 * MIB
    finally:
        destination.path(seed).unlink()


@pytest.mark.long
def test_taken_up_again_it_sends_the_rest(rig: Rig) -> None:
    source = here(rig)
    destination = rig.other(source)
    rig.remove_images(destination, WEB)
    before = look(rig, source, WEB)

    def half(event: Event) -> bool:
        return bool(
            event["event"] == "progress" and event["phase"] == "base copy" and event["done_bytes"] > 50 * MIB
        )

    with watched(rig, WEB) as watch:
        words = [*by_nbd(rig, source), "--bandwidth=20"]
        with rig.migrating(WEB.name, source, *words) as running:
            assert running.until(half), running.events[-5:]
            running.send(signal.SIGKILL)
        resumed = rig.fsm("resume", *rig.unfinished(), "--json")
        assert resumed.returncode == COMMITTED, resumed.stderr
    check_kept(rig, WEB, before, destination, watch.acks)
    sent = [line for line in resumed.stdout.splitlines() if '"base copy"' in line]
    assert sent
    assert '"compare"' in resumed.stdout


def test_a_shell_on_another_machine_writes_nothing(rig: Rig) -> None:
    source = here(rig)
    destination = rig.other(source)
    rig.remove_images(destination, WEB)
    before = look(rig, source, WEB)
    words = ["--transport=nbd", f"--nbd-address={source.address}"]
    for wrong in (shells(source, source), shells(destination, destination), shells(destination, source)):
        with watched(rig, WEB) as watch:
            done = rig.migrate(WEB.name, source, *words, *wrong)
        assert done.returncode == ROLLED_BACK, done.stderr
        assert "sees another" in done.stderr
        check_kept(rig, WEB, before, source, watch.acks)
        check_untouched(rig, before, destination)


def test_what_is_missing_is_found_before_anything_is_touched(rig: Rig) -> None:
    source = here(rig)
    destination = rig.other(source)
    rig.remove_images(destination, WEB)
    before = look(rig, source, WEB)
    no_seed = rig.migrate(WEB.name, source, *by_nbd(rig, source), "--seed=vda=/no/such file")
    assert no_seed.returncode == REFUSED
    assert "there is no file /no/such file" in no_seed.stderr
    nowhere = ["--transport=nbd", "--source-shell=no-such-command", "--destination-shell=false"]
    no_shell = rig.migrate(WEB.name, source, *nowhere)
    assert no_shell.returncode == REFUSED
    assert "no-such-command" in no_shell.stderr
    untold = rig.migrate(WEB.name, source, "--transport=nbd")
    assert untold.returncode == BAD_INPUT
    assert "--source-shell" in untold.stderr
    check_untouched(rig, before, destination)
