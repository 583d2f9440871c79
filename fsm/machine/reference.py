"""The machine's reference page, from its description alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fsm.machine import lookup
from fsm.machine.conditions import CONDITIONS
from fsm.machine.diagram import mermaid
from fsm.machine.operations import HARM, Operation
from fsm.machine.picture import machine
from fsm.machine.spec import CONTINUE, WAIT, Kind, RetryPolicy, Row, Spec, State
from fsm.machine.vocabulary import ACTIONS, ACTIVITIES

_HEAD = """\
# The migration machine

Generated from `states.yaml`; change that file, never this page. `fsm diagram --format svg` draws the same
picture for print.

Dashed red edges are ways of failing, dotted blue ones another try, the thick edge is the point of no
return. Conditions stand in brackets; all of them must hold. Rounded boxes are left by themselves, the
six-sided one is stable, the ones with double sides are final. A name such as `block-*` stands for all
operations that begin so.
"""


def markdown(spec: Spec) -> str:
    """The reference page in Markdown, with the Mermaid diagram on top."""
    sections = (
        [_HEAD, f"```mermaid\n{mermaid(machine(spec))}```"],
        ["## States", *_states(spec)],
        ["## What is done on each observation", _RECOVER, *_recover(spec)],
        ["## Transitions", *_transitions(spec)],
        ["## Conditions", *_meanings("Condition", {name: c.meaning for name, c in CONDITIONS.items()})],
        ["## Actions", _ACTIONS, *_meanings("Action", ACTIONS)],
        ["## Activities", _ACTIVITIES, *_meanings("Activity", ACTIVITIES)],
        ["## Blocked operations", _BLOCKED, *_matrix(spec)],
    )
    return "\n\n".join(block.strip("\n") for section in sections for block in section) + "\n"


_RECOVER = """\
After every step, and when an engine takes a migration over, both hosts are observed. The first row whose
conditions all hold says what to do. A name is a trigger to fire; *continue* begins the state's activity,
takes it over or tries it again; *wait* looks again later."""
_LOOKUP = """\
The same, looked up by what the hosts show; cases are tried from left to right. A domain that its user has
paused counts as running. Disks on different layers are not listed: the table above decides."""
_ACTIONS = "Run in their order while a transition is taken. Each says what shall be so, and may run twice."
_ACTIVITIES = "Run while the machine is in a state. Another engine can take each of them over."
_BLOCKED = """\
What a state blocks is refused while the migration is in it or on its way to it; `-` is permitted. Operations
that no state blocks stand below the table."""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _names(names: Iterable[str], empty: str) -> str:
    return ", ".join(f"`{name}`" for name in names) or empty


def _states(spec: Spec) -> Iterator[str]:
    head = ("State", "Kind", "Meaning", "Activity", "Timeout", "Retry")
    yield _table(head, ((f"`{state.name}`", *_state_cells(state)) for state in spec.states.values()))


def _state_cells(state: State) -> tuple[str, ...]:
    if state.kind is Kind.FINAL:
        return (str(state.kind), state.meaning, "", "", "")
    timeout = "none" if state.timeout_s is None else f"{state.timeout_s:g} s"
    activity = f"`{state.activity}`" if state.activity else "none"
    return (str(state.kind), state.meaning, activity, timeout, _retry(state.retry))


def _retry(policy: RetryPolicy) -> str:
    if policy.attempts == 0:
        return "none"
    attempts = "without end" if policy.attempts is None else f"{policy.attempts} attempts"
    return (
        f"{attempts}; first after {policy.delay_s:g} s, then times {policy.factor:g} "
        f"up to {policy.cap_s:g} s, ±{policy.jitter:.0%}"
    )


def _recover(spec: Spec) -> Iterator[str]:
    for state in spec.states.values():
        if not state.recover:
            continue
        yield f"### In `{state.name}`"
        yield _table(
            ("", "Observed", "Do"),
            (
                (str(number), _names(row.when, "anything else"), _verb(row.do))
                for number, row in enumerate(state.recover, start=1)
            ),
        )
        yield _LOOKUP
        yield _table(
            ("The source", "The destination", "What is done"),
            (
                (
                    "; ".join(line.sources),
                    _destinations(line.destinations),
                    "; ".join(_case(case, first=not number) for number, case in enumerate(line.cases)),
                )
                for line in lookup.lines(spec, state)
            ),
        )


def _destinations(names: tuple[str, ...]) -> str:
    return "whatever it shows" if len(names) == len(lookup.DESTINATION_VIEWS) else "; ".join(names)


def _case(case: lookup.Case, *, first: bool) -> str:
    leads = f"{_verb(case.do)} to {_names(case.dests, '')}" if case.dests else _verb(case.do)
    if case.when:
        return f"{leads} if {_names(case.when, '')}"
    return leads if first else f"otherwise {leads}"


def _verb(do: str) -> str:
    return f"*{do}*" if do in (CONTINUE, WAIT) else f"`{do}`"


def _transitions(spec: Spec) -> Iterator[str]:
    head = ("Trigger", "From", "To", "Conditions", "Actions", "")
    yield _table(head, (_transition_cells(row) for row in spec.rows))


def _transition_cells(row: Row) -> tuple[str, ...]:
    marks = [
        *(["failure"] if row.failure else []),
        *(["point of no return"] if row.point_of_no_return else []),
    ]
    return (
        f"`{row.trigger}`",
        f"`{row.source}`",
        f"`{row.dest}`",
        _names(row.conditions, "none"),
        _names(row.actions, "none"),
        ", ".join(marks),
    )


def _meanings(what: str, meanings: Mapping[str, str]) -> Iterator[str]:
    rows = ((f"`{name}`", " ".join(meaning.split())) for name, meaning in meanings.items())
    yield _table((what, "Meaning"), rows)


def _matrix(spec: Spec) -> Iterator[str]:
    blocking = [state for state in spec.states.values() if state.blocks]
    named = [operation for operation in Operation if any(operation in state.blocks for state in blocking)]
    yield _table(
        ("Operation", *(f"`{state.name}`" for state in blocking), "Why"),
        (
            (
                f"`{operation}`",
                *("blocked" if operation in state.blocks else "-" for state in blocking),
                HARM.get(operation, ""),
            )
            for operation in named
        ),
    )
    free = [operation for operation in Operation if operation not in named]
    yield f"Blocked in no state: {_names(free, 'none')}."
    nothing = [name for name, state in spec.states.items() if not state.blocks]
    yield f"States that block nothing: {_names(nothing, 'none')}."
