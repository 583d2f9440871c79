"""What the command's exit codes mean."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from fsm.engine.cases import Examined, Kind
from fsm.engine.result import Result


class ExitCode(IntEnum):
    """Exit codes; scripts depend on them."""

    OK = 0
    UNEXPECTED = 1
    BAD_INPUT = 2
    ROLLED_BACK = 3
    STUCK = 4
    REFUSED = 5
    BLOCKED = 6


MEANINGS = {
    ExitCode.OK: "committed: the domain runs at the destination, snapshots and all",
    ExitCode.UNEXPECTED: "unexpected, or let go of before the end",
    ExitCode.BAD_INPUT: "usage or bad input",
    ExitCode.ROLLED_BACK: "rolled back: the domain is at the source as it was",
    ExitCode.STUCK: "stuck: nothing is lost and nothing is done; "
    "`fsm show ID` names the cause and what to do",
    ExitCode.REFUSED: "refused by preflight, nothing touched; all findings are printed",
    ExitCode.BLOCKED: "`fsm guard`: the operation is blocked",
}
"""What each code says of a migration, or of what was asked."""

_WORST_FIRST = (ExitCode.UNEXPECTED, ExitCode.STUCK, ExitCode.ROLLED_BACK, ExitCode.REFUSED)

_BY_STATE = {
    "committed": ExitCode.OK,
    "rolled-back": ExitCode.ROLLED_BACK,
    "stuck": ExitCode.STUCK,
    "refused": ExitCode.REFUSED,
}


def of_all(results: Sequence[Result]) -> ExitCode:
    """The exit code of several migrations: the worst that came of any."""
    codes = [of(result) for result in results]
    for worst in _WORST_FIRST:
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


def markdown() -> str:
    """The reference page."""
    rows = "".join(f"| {code.value} | {meaning} |\n" for code, meaning in MEANINGS.items())
    states = "".join(f"| `{state}` | {code.value} |\n" for state, code in _BY_STATE.items())
    worst = ", ".join(str(code.value) for code in _WORST_FIRST)
    return _PAGE.format(rows=rows, states=states, worst=worst)


_PAGE = """\
# Exit codes

Generated from `fsm/cli/exit_codes.py`; change that, never this page. Scripts may depend on them.

| code | meaning |
| --- | --- |
{rows}
## `fsm migrate`, `resume`, `abort`, `retry`, `rescue`, `doctor --adopt`

| the migration is | code |
| --- | --- |
{states}| in any other state: the process has let go of it | 1 |

Of several migrations the worst counts, in this order: {worst}; else 0. `fsm doctor --adopt` ends with 4,
too, when something that waits was not adopted.

## Other commands

| command | 0 | otherwise |
| --- | --- | --- |
| `fsm doctor` | nothing is to be done | 4: a domain waits, and nobody finishes it; \
1: a host or a domain could not be read; \
5: something else is to be done (`leftover`, `layered`, a host that is not prepared); \
the first of these that holds |
| `fsm guard DOMAIN OPERATION` | it is permitted | 6: it is blocked |
| `fsm check` | the description is valid, and with `--explore` every invariant holds | 2 |
| `fsm replay` | everything was decided as this machine would | 1 |
| all | done | 2: usage, or bad input; 1: anything else |
"""
