"""The ``fsm`` command with one point in its journal at which it dies, or is held until it is told to go on.

    python -m tests.faults.failpoint "kill after activity copy-bases intent" -- migrate ...

The journal's ``append_all`` is where every step begins and ends: before the intent's record, after it, after
the act (before the outcome's record) and after the outcome. A held engine prints ``{"event": "held"}`` and
waits for a line on its standard input, with its heart beating.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import click
from attrs import define, frozen

from fsm.cli import main
from fsm.errors import FsmError
from fsm.journal.port import Entry
from fsm.journal.records import Phase, Record, Step
from fsm.journal.sql import SqlJournal

KILL, HOLD = "kill", "hold"
BEFORE, AFTER = "before", "after"
HELD = "held"


@frozen
class Failpoint:
    """What happens (``KILL``, ``HOLD``) and when (``BEFORE``, ``AFTER``) the first such record is written."""

    act: str
    when: str
    step: Step
    name: str
    phase: Phase

    def __str__(self) -> str:
        return f"{self.act} {self.when} {self.step} {self.name} {self.phase}"

    @classmethod
    def parse(cls, text: str) -> Failpoint:
        """The failpoint that was written as ``text``."""
        act, when, step, name, phase = text.split()
        return cls(act, when, Step(step), name, Phase(phase))

    def program(self) -> tuple[str, ...]:
        """The Python module, and its words, that stand in for ``fsm``."""
        return ("tests.faults.failpoint", str(self), "--")


@define
class Armed:
    """A failpoint that strikes once."""

    point: Failpoint
    struck: bool = False

    def strike(self, when: str, record: Record) -> None:
        """Do what the failpoint says if this is its moment."""
        here = (when, record.step, record.name, record.phase)
        if self.struck or here != (self.point.when, self.point.step, self.point.name, self.point.phase):
            return
        self.struck = True
        if self.point.act == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        click.echo(f'{{"event": "{HELD}"}}')
        sys.stdin.readline()


def run(words: Sequence[str]) -> None:
    """Run ``fsm`` with the words behind the failpoint."""
    armed = Armed(Failpoint.parse(words[0]))
    append_all = SqlJournal.append_all

    def watched(journal: SqlJournal, entries: Sequence[Entry]) -> Sequence[Record | FsmError]:
        for entry in entries:
            armed.strike(BEFORE, entry.record)
        written = append_all(journal, entries)
        for entry in entries:
            armed.strike(AFTER, entry.record)
        return written

    SqlJournal.append_all = watched  # type: ignore[method-assign]  # which is what this program is for
    main(words[2:], prog_name="fsm")


if __name__ == "__main__":
    run(sys.argv[1:])
