"""What the command's exit codes mean."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from fsm.engine.cases import Examined, Kind
from fsm.engine.result import Result


class ExitCode(IntEnum):
    """Exit codes; scripts depend on them."""

    OK = 0  # committed, allowed, or valid
    UNEXPECTED = 1
    BAD_INPUT = 2
    ROLLED_BACK = 3
    STUCK = 4
    REFUSED = 5
    BLOCKED = 6


_BY_STATE = {
    "committed": ExitCode.OK,
    "rolled-back": ExitCode.ROLLED_BACK,
    "stuck": ExitCode.STUCK,
    "refused": ExitCode.REFUSED,
}


def of_all(results: Sequence[Result]) -> ExitCode:
    """The exit code of several migrations: the worst that came of any."""
    codes = [of(result) for result in results]
    for worst in (ExitCode.UNEXPECTED, ExitCode.STUCK, ExitCode.ROLLED_BACK, ExitCode.REFUSED):
        if worst in codes:
            return worst
    return ExitCode.OK


def of_examination(examined: Sequence[Examined]) -> ExitCode:
    """The exit code of what was found: a domain that waits counts most, then what could not be read."""
    if any(case.waits for host in examined for case in host.cases):
        return ExitCode.STUCK
    if any(host.unread for host in examined):
        return ExitCode.UNEXPECTED
    to_do = any(note.remedy for host in examined for note in host.notes)
    other = any(case.kind is not Kind.DRIVEN for host in examined for case in host.cases)
    return ExitCode.REFUSED if to_do or other else ExitCode.OK


def of(result: Result) -> ExitCode:
    """The exit code of a migration that the engine has let go of."""
    return _BY_STATE.get(result.state, ExitCode.UNEXPECTED)
