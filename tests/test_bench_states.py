"""What the bench makes of a guest's writes, of timed calls, of files with holes, and of its own progress."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import click
import pytest
from attrs import evolve

from bench import goals, holes, plot
from bench.figures import Spread
from bench.images import IMAGES, Image, ImageType
from bench.impact import Seen, in_states, most_stalled, own_s
from bench.migrations import FSM, MIRROR, VIRSH, WHOLE
from bench.own_time import Calls, TimedConnector
from bench.phases import END, START
from bench.remaining import Remaining
from bench.results import InState, Kind, Phase, Run, Where
from bench.sameness import expect_same
from bench.states import state_rows, state_titles, step_rows
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.lab import Ack, LabError, LabHost
from fsm.lab.serial import Arrival

MIB = 1024 * 1024
PHASES = (
    Phase(START, "interpreter, imports, journal", 1.0),
    Phase("planned", "preflight", 0.25),
    Phase("planned", "start entered", 0.25),
    Phase("transferring", "migrate", 2.0),
    Phase("committing-dest", "commit-at-destination", 0.05),
    Phase(END, "exit", 0.5),
)


def seen(*at_ms: float, busy_s: list[tuple[float, float]] | None = None) -> Seen:
    """A guest that writes at these times, begins at 100 s, and writes ten times a second undisturbed."""
    arrivals = [Arrival(one, Ack("vda", 1, number, 0)) for number, one in enumerate(at_ms)]
    return Seen(began_s=100.0, arrivals=arrivals, disks=("vda",), undisturbed_per_s=10.0, busy_s=busy_s)


# The guest


def test_writes_are_counted_in_the_state_that_they_came_in() -> None:
    writes = [100_500, 101_100, 101_200, 101_300, 101_600, 103_400]
    found = {one.state: one for one in in_states(PHASES, seen(*writes))}
    assert list(found) == [START, "planned", "transferring", "committing-dest", END]
    assert (found["planned"].seconds, found["planned"].writes_per_s) == (0.5, 6.0)
    assert found["planned"].of_undisturbed == pytest.approx(0.6)
    assert found["transferring"].writes_per_s == 1.0
    assert found["transferring"].stall_ms == 1800
    assert most_stalled(list(found.values())) == "transferring"


def test_a_state_that_is_too_short_has_no_rate() -> None:
    (found,) = (one for one in in_states(PHASES, seen()) if one.state == "committing-dest")
    assert found.writes_per_s is None
    assert found.of_undisturbed is None
    assert found.stall_ms == pytest.approx(50)


def test_without_a_journal_there_is_one_stretch() -> None:
    (found,) = in_states((Phase(WHOLE, "", 2.0),), seen(100_000, 101_000, 102_000))
    assert (found.state, found.writes_per_s, found.stall_ms) == (WHOLE, 1.0, 1000)


# The engine's own time


def test_own_time_is_what_no_call_covers_between_creation_and_the_last_record() -> None:
    busy_s = [(100.0, 100.2), (100.5, 101.1), (101.4, 101.45), (101.45, 103.6), (103.9, 104.0)]
    states = in_states(PHASES, seen(busy_s=busy_s))
    assert [one.own_s for one in states] == pytest.approx([0.0, 0.3, 0.0, 0.0, 0.0])
    assert own_s(states) == pytest.approx(0.3)
    assert own_s(in_states(PHASES, seen())) is None
    later = (Phase(START, "interpreter", 0.4), Phase(START, "before preflight", 0.6), *PHASES[1:])
    assert own_s(in_states(later, seen(busy_s=busy_s))) == pytest.approx(0.3 + 0.1)


def test_calls_that_overlap_are_one_interval() -> None:
    times = iter([1.0, 4.0, 6.0, 7.0])
    calls = Calls(lambda: next(times))
    with calls.one(), calls.one():
        pass
    with calls.one():
        pass
    assert calls.intervals == [(1.0, 4.0), (6.0, 7.0)]


async def test_every_call_to_a_host_is_timed() -> None:
    world = SimulatedWorld()
    world.add_host("sim://a/system")
    world.add_pool("sim://a/system", "/images")
    world.add_domain("sim://a/system", "web", disks=("vda",))
    calls = Calls()
    connector = TimedConnector(world, calls)

    async def counted(work: Any) -> int:
        before = len(calls.intervals)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await work
        return len(calls.intervals) - before

    assert await counted(connector.connect("sim://a/system")) == 1
    host = await connector.connect("sim://a/system")
    assert await counted(host.identity()) == 1
    assert await counted(host.storage.pool_state("/images")) == 1
    uuid = await host.resolve("web")
    watch = host.watch(uuid)
    assert await counted(watch.changed(1)) == 1
    thresholds = host.watch_thresholds(uuid)
    assert await counted(thresholds.changed(1)) == 0
    before = len(calls.intervals)
    channel = await asyncio.to_thread(connector.open_channel, "sim://a/system")
    await asyncio.to_thread(channel.close)
    assert len(calls.intervals) == before + 2


# Tables

RUN = Run(
    contender=FSM,
    kind=Kind.MIGRATION,
    where=Where("1 GiB", 0, 0),
    seconds=4.0,
    command_cpu_s=0.5,
    hosts_cpu_s=1.5,
    sent_bytes=0,
    copied_bytes=0,
    source_image_bytes=0,
    destination_image_bytes=0,
    load_average=0.25,
    silence_ms=100.0,
    phases=PHASES,
    states=(InState("planned", 1.0, 90.0, 0.9, 20.0), InState("transferring", 2.0, 30.0, 0.3, 300.0)),
)


def test_the_states_table_shows_medians_and_marks_the_longest_stall() -> None:
    slower = evolve(RUN, states=(InState("planned", 3.0, None, None, 40.0), RUN.states[1]))
    assert state_rows([RUN, slower]) == [
        [FSM, "planned", "2.000", "90", "0.90", "30"],
        [FSM, "transferring", "2.000", "30", "0.30", "300 <"],
    ]


def test_own_time_has_a_column_where_it_was_measured() -> None:
    own = evolve(RUN, contender="fsm.Engine", own_s=0.2, states=(InState("planned", 1, 1, 1, 1, 0.125),))
    assert state_titles([own])[-1] == "own s"
    assert [row[-1] for row in state_rows([own, RUN])] == ["0.125", "-", "-"]
    assert all(len(row) == len(state_titles([own])) for row in state_rows([own, RUN]))


def test_the_longest_steps_come_first_and_repeated_ones_count_together() -> None:
    copied = (Phase("snapshotted", "copied", 1.5), Phase("snapshotted", "copied", 1.0))
    assert [row[2:] for row in step_rows([evolve(RUN, phases=(*copied, *PHASES))])][:3] == [
        ["copied", "2.500"],
        ["migrate", "2.000"],
        ["interpreter, imports, journal", "1.000"],
    ]


# What is asked for


def test_a_goal_that_is_missed_is_marked() -> None:
    def of(name: str, ratio: float) -> dict[str, Any]:
        return {"image": "1 GiB", "contender": name, "seconds": {"median": 1.0, "ratios": {VIRSH: ratio}}}

    found = goals.rows([of(MIRROR, 0.8), of(FSM, 1.25)], ["1 GiB", "4 GiB"])
    assert found == [
        [f"{MIRROR}: seconds of {VIRSH}", "0.8", "0.80", "-"],
        [f"{FSM}: seconds of {VIRSH}", "1.1", "1.25 (!)", "-"],
    ]


def test_a_goal_without_a_reference_is_for_the_number_itself() -> None:
    numbers = {"image": "1 GiB", "contender": "fsm.Engine", "own_s": {"median": 0.35, "ratios": {}}}
    assert goals.rows([numbers], ["1 GiB"]) == [["fsm.Engine: own_s", "0.3", "0.35 (!)"]]


# Plots


def test_what_is_drawn_is_grouped_by_image() -> None:
    small = evolve(RUN, where=Where("256 MiB", 0, 0), seconds=0.1)
    copy = evolve(RUN, contender="cp", kind=Kind.BASE_COPY, seconds=3.0)
    times, silences, copies = plot.panels([small, RUN, evolve(RUN, seconds=6.0), copy])
    assert times.images == ("256 MiB", "1 GiB")
    assert times.series == (plot.Series(FSM, (Spread(0.1, 0.1, 0.1), Spread(5.0, 4.0, 6.0))),)
    assert times.spans_much
    assert not silences.spans_much
    assert (copies.images, copies.series) == (("1 GiB",), (plot.Series("cp", (Spread(3.0, 3.0, 3.0),)),))


def test_what_was_not_measured_has_no_bar() -> None:
    others = evolve(RUN, contender=VIRSH, where=Where("4 GiB", 0, 0), silence_ms=None)
    _, silences = plot.panels([RUN, others])
    assert [one.bars[1] for one in silences.series] == [None, None]


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = plot.draw(plot.panels([RUN, evolve(RUN, contender=VIRSH, silence_ms=None)]), tmp_path / "r.json")
    assert [path.name for path in paths] == ["r.svg", "r.png"]
    assert all(path.stat().st_size > 1000 for path in paths)


# Images, progress, files


def test_an_image_is_given_by_name_or_by_size() -> None:
    assert ImageType().convert("4 GiB full", None, None) == Image("4 GiB full", 4096, 3584)
    assert ImageType().convert("mine=64:8", None, None) == Image("mine", 64, 8)
    assert len({image.name for image in IMAGES}) == 6


@pytest.mark.parametrize("text", ["huge", "a=1", "a=64:65", "a=4:0", "=64:8"])
def test_an_image_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        ImageType().convert(text, None, None)


def test_what_is_left_is_told_by_what_was_done() -> None:
    now_s = [0.0]
    remaining = Remaining({"a": 1.0, "b": 3.0}, rounds=2, now_s=lambda: now_s[0])
    assert remaining.seconds is None
    now_s[0] = 600.0
    remaining.skip()
    now_s[0] = 660.0
    remaining.done("a")  # 60 s for a weight of 1
    assert remaining.seconds == 60 + 2 * 180
    now_s[0] = 760.0
    remaining.done("b")
    assert remaining.seconds == 60 + 100
    assert remaining.told() == "about 3 min left"
    now_s[0] += 7200.0
    remaining.done("a")
    now_s[0] += 7260.0
    remaining.done("b")
    assert remaining.seconds == 0


def written(path: Path, size: int, *pieces: tuple[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


def test_holes_and_zeros_are_the_same(tmp_path: Path) -> None:
    one = written(tmp_path / "one", 9 * MIB, (5 * MIB, b"abc"))
    other = written(tmp_path / "other", 9 * MIB, (0, bytes(MIB)), (5 * MIB, b"abc"))
    expect_same(one, other)


@pytest.mark.parametrize("pieces", [(), ((5 * MIB, b"abd"),), ((5 * MIB, b"abc"), (9 * MIB - 1, b"x"))])
def test_a_byte_that_differs_is_found(tmp_path: Path, pieces: tuple[tuple[int, bytes], ...]) -> None:
    one = written(tmp_path / "one", 9 * MIB, (5 * MIB, b"abc"))
    with pytest.raises(LabError, match="differ in the"):
        expect_same(one, written(tmp_path / "other", 9 * MIB, *pieces))


def test_a_length_that_differs_is_found(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="differ in length"):
        expect_same(written(tmp_path / "one", MIB), written(tmp_path / "other", MIB + 1))


def test_both_files_of_the_holes_hold_the_same_amount(tmp_path: Path) -> None:
    class Here:
        def path(self, path: str) -> Path:
            return tmp_path / path

    sparse = holes.Sparse(size_mib=64, data_mib=2, pieces=8)
    for name in (holes.DENSE, holes.HOLES):
        sparse.write(cast(LabHost, Here()), name, scattered=name == holes.HOLES)
    dense, scattered = (os.stat(tmp_path / name) for name in (holes.DENSE, holes.HOLES))
    assert (dense.st_size, scattered.st_size) == (2 * MIB, 64 * MIB)
    assert dense.st_blocks * 512 == pytest.approx(2 * MIB, abs=65536)
    assert scattered.st_blocks * 512 == pytest.approx(2 * MIB, abs=65536)


def test_the_holes_are_compared_with_the_dense_file() -> None:
    runs = [
        evolve(RUN, contender=way, kind=Kind.BASE_COPY, where=Where(name, 0, 0), seconds=seconds)
        for way, name, seconds in (
            ("streams", holes.DENSE, 2.0),
            ("streams", holes.HOLES, 3.0),
            ("nbd", holes.HOLES, 4.0),
            ("nbd", holes.DENSE, 8.0),
        )
    ]
    found = {way: seen[holes.HOLES].ratios[holes.DENSE] for way, seen in holes.spreads(runs).items()}
    assert found == {"streams": 1.5, "nbd": 0.5}
