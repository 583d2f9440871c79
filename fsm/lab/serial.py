"""What a guest prints on its serial port: which writes were acknowledged, and how long it was silent."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import attrs

_ACK = re.compile(rb"^ack (\S+) (\d+) (\d+) (\d+) ok$")
SAMPLE_MS = 2.0
"""How often a watch looks at the logs."""


@attrs.frozen(order=True)
class Ack:
    """One write that the guest's disk has acknowledged."""

    disk: str
    boot: int
    sequence: int
    guest_ms: int


def parse_line(line: bytes) -> Ack | None:
    """Read one line; None for anything else than a whole ack.

    A line may be torn when a guest is killed, or half of it be printed on either host of a migration. A
    torn line lacks its beginning or its ``ok`` and is not counted.
    """
    match = _ACK.match(line.rstrip(b"\r\n"))
    if match is None:
        return None
    disk, boot, sequence, guest_ms = match.groups()
    return Ack(disk.decode(errors="replace"), int(boot), int(sequence), int(guest_ms))


def last_run(acks: Iterable[Ack]) -> list[Ack]:
    """Drop what a revert has undone: all acks of a disk before its numbers last went back."""
    runs: dict[str, list[Ack]] = {}
    for ack in acks:
        run = runs.setdefault(ack.disk, [])
        if run and ack.sequence <= run[-1].sequence:
            run.clear()
        run.append(ack)
    return [ack for run in runs.values() for ack in run]


def acknowledged(*logs: Path, offset: int = 0) -> list[Ack]:
    """The writes acknowledged in these logs, from byte ``offset`` on, without those that a revert has undone.

    Give the logs of both hosts in the order in which the guest ran there. A revert that happened on one
    host undoes nothing in the other host's log: give only logs written since (or use ``SerialWatch``, which
    sees both in the order of time). A log that does not exist is an empty one.
    """
    found: set[Ack] = set()
    for log in logs:
        try:
            with log.open("rb") as file:
                file.seek(offset)
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            continue
        found.update(last_run(ack for ack in map(parse_line, lines) if ack is not None))
    return sorted(found)


@attrs.frozen
class Arrival:
    """An ack and when the machine saw it, in milliseconds of its CLOCK_MONOTONIC."""

    at_ms: float
    ack: Ack


@attrs.frozen
class Gap:
    """The longest time in which a disk acknowledged nothing."""

    disk: str
    ms: float
    resolution_ms: float
    """How wrong ``ms`` may be: the longest time between two looks at the logs during the watch."""


def longest_gap(
    arrivals: Iterable[Arrival],
    disks: Sequence[str],
    begin_ms: float,
    end_ms: float,
    resolution_ms: float = 0.0,
) -> Gap:
    """The longest time between two acks of one disk; silence at the beginning and at the end counts as
    well."""
    seen: dict[str, list[float]] = {disk: [begin_ms] for disk in disks}
    for arrival in arrivals:
        if arrival.ack.disk in seen and begin_ms <= arrival.at_ms <= end_ms:
            seen[arrival.ack.disk].append(arrival.at_ms)
    worst = Gap("", 0.0, resolution_ms)
    for disk, times in seen.items():
        times.append(end_ms)
        gap = max(later - earlier for earlier, later in pairwise(times))
        if gap > worst.ms:
            worst = Gap(disk, gap, resolution_ms)
    return worst


class SerialWatch:
    """Records when acks arrive in the logs of both hosts, to measure the downtime that the guest's disks saw.

    The clock is the machine's CLOCK_MONOTONIC: both hosts of a lab share it. The guest's own clocks are of
    no use, since they stand still while its virtual machine does. The logs are looked at every 2 ms by a
    thread; the longest time between two looks is measured too and told as the resolution. Files that appear
    later, such as the destination's, are picked up, and what was in them before the watch is left out.
    """

    def __init__(self, *logs: Path) -> None:
        self._logs = logs
        self._offsets = {log: log.stat().st_size if log.exists() else 0 for log in logs}
        self._partial = dict.fromkeys(logs, b"")
        self._arrivals: list[Arrival] = []
        self._stop = threading.Event()
        self._resolution_ms = SAMPLE_MS
        self._begin_ms = self._end_ms = 0.0
        self._thread = threading.Thread(target=self._watch, name="serial-watch", daemon=True)

    def __enter__(self) -> SerialWatch:
        self._begin_ms = _now_ms()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._end_ms = _now_ms()

    @property
    def arrivals(self) -> list[Arrival]:
        """Everything seen so far."""
        return list(self._arrivals)

    @property
    def acks(self) -> list[Ack]:
        """The acks seen so far, in the order of time over both hosts, without those that a revert has
        undone."""
        return last_run(arrival.ack for arrival in self.arrivals)

    def longest_gap(self, *disks: str) -> Gap:
        """The longest silence of a disk during the watch. Default: of the disks that were seen at all."""
        arrivals = self.arrivals
        names = disks or tuple(sorted({arrival.ack.disk for arrival in arrivals}))
        return longest_gap(arrivals, names, self._begin_ms, self._end_ms or _now_ms(), self._resolution_ms)

    def _watch(self) -> None:
        looked = _now_ms()
        while not self._stop.wait(SAMPLE_MS / 1000):
            for log in self._logs:
                self._look(log)
            now = _now_ms()
            self._resolution_ms = max(self._resolution_ms, now - looked)
            looked = now

    def _look(self, log: Path) -> None:
        with suppress(FileNotFoundError), log.open("rb", buffering=0) as file:
            file.seek(self._offsets[log])
            new = file.read()
            if not new:
                return
            at_ms = _now_ms()
            self._offsets[log] += len(new)
            *lines, self._partial[log] = (self._partial[log] + new).split(b"\n")
            self._arrivals += [Arrival(at_ms, ack) for ack in map(parse_line, lines) if ack is not None]


def _now_ms() -> float:
    return time.monotonic_ns() / 1e6
