"""Proofs over a machine description that has the right form: what it says can't go wrong.

Each function returns the problems it finds as ``SpecError`` values, with the line they come from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations

from fsm.errors import SpecError, TransitionRefused
from fsm.machine.conditions import CONDITIONS
from fsm.machine.decision import Verb, decide
from fsm.machine.interpreter import Interpreter
from fsm.machine.observation import Observation
from fsm.machine.space import observations
from fsm.machine.spec import CONTINUE, WAIT, Kind, RecoverRow, Row, Spec, State

# The names that the procedure, the journal and the documentation speak of.
REQUIRED_STATES = {
    "planned": Kind.INITIAL,
    "snapshotted": Kind.TRANSIENT,
    "transferring": Kind.TRANSIENT,
    "committing-dest": Kind.TRANSIENT,
    "rolling-back-source": Kind.TRANSIENT,
    "committed": Kind.FINAL,
    "rolled-back": Kind.FINAL,
    "refused": Kind.FINAL,
    "stuck": Kind.STABLE,
}


def validate(spec: Spec) -> tuple[SpecError, ...]:
    """All problems of ``spec``; empty when it is valid."""
    return validate_states(spec, spec.states)


def validate_states(spec: Spec, names: Collection[str]) -> tuple[SpecError, ...]:
    """The same, but of what can be observed only in the states ``names``, for a machine changed in these
    alone.
    """
    shape = (*_names(spec), *_graph(spec), *_rows(spec))
    # What follows evaluates the rows; on a broken graph its findings would only repeat the cause.
    return shape or tuple(_over_all_observations(spec, names))


def check(spec: Spec) -> Spec:
    """Return ``spec``; raise its first problem, if any."""
    for problem in validate(spec):
        raise problem
    return spec


def _problem(spec: Spec, line: int, message: str) -> SpecError:
    return SpecError(message, file=spec.file, line=line)


def _names(spec: Spec) -> Iterator[SpecError]:
    for name, kind in REQUIRED_STATES.items():
        state = spec.states.get(name)
        if state is None:
            yield _problem(spec, 0, f"state {name!r} is missing")
        elif state.kind is not kind:
            yield _problem(spec, state.line, f"state {name!r} must be {kind}, not {state.kind}")
    initial = [state for state in spec.states.values() if state.kind is Kind.INITIAL]
    if len(initial) != 1:
        yield _problem(spec, 0, f"there must be one initial state, not {len(initial)}")


def _reach(start: str, edges: dict[str, set[str]]) -> set[str]:
    reached, todo = {start}, [start]
    while todo:
        for name in edges.get(todo.pop(), set()) - reached:
            reached.add(name)
            todo.append(name)
    return reached


def _graph(spec: Spec) -> Iterator[SpecError]:
    edges: dict[str, set[str]] = {name: set() for name in spec.states}
    for row in spec.rows:
        edges[row.source].add(row.dest)
    starts = [state.name for state in spec.states.values() if state.kind is Kind.INITIAL]
    reachable = set[str]().union(*(_reach(start, edges) for start in starts))
    for state in spec.states.values():
        if state.name not in reachable:
            yield _problem(spec, state.line, f"state {state.name!r} can't be reached")
        if not any(spec.is_final(name) for name in _reach(state.name, edges)):
            yield _problem(spec, state.line, f"state {state.name!r} can't come to a final state")
        if state.kind is Kind.FINAL and edges[state.name]:
            yield _problem(spec, state.line, f"final state {state.name!r} has transitions")
        failing = [row for row in spec.rows_from(state.name) if row.failure]
        if state.kind is Kind.TRANSIENT and not failing:
            yield _problem(spec, state.line, f"transient state {state.name!r} has no failure exit")


def _rows(spec: Spec) -> Iterator[SpecError]:
    seen: dict[tuple[str, str, frozenset[str]], Row] = {}
    for row in spec.rows:
        if row.source == row.dest:
            # It would begin the state's time and attempts anew, for ever.
            yield _problem(spec, row.line, f"{row.trigger!r} leads from {row.source!r} back to itself")
        key = (row.trigger, row.source, frozenset(row.conditions))
        if key in seen:
            yield _problem(
                spec, row.line, f"{row.trigger!r} from {row.source!r} repeats line {seen[key].line}"
            )
        seen.setdefault(key, row)
    for state in spec.states.values():
        triggers = {row.trigger for row in spec.rows_from(state.name)}
        for recover in state.recover:
            what = f"state {state.name!r}"
            if recover.do == CONTINUE and state.activity is None:
                yield _problem(spec, recover.line, f"{what} continues an activity it does not have")
            if recover.do not in triggers | {CONTINUE, WAIT}:
                yield _problem(spec, recover.line, f"{what} fires {recover.do!r} but has no such transition")


def _over_all_observations(spec: Spec, names: Collection[str]) -> Iterator[SpecError]:
    interpreter = Interpreter(spec)
    for state in spec.states.values():
        if state.kind is Kind.FINAL or state.name not in names:
            continue
        rows = spec.rows_from(state.name)
        space = observations(conditions_of(spec, state.name))
        partial = tuple(_total(spec, interpreter, state, space))
        yield from partial
        yield from _exclusive(spec, rows, space)
        if not partial:
            yield from _sufficient(spec, interpreter, state, space)


def conditions_of(spec: Spec, state: str) -> frozenset[str]:
    """Everything that decisions in a state may depend on."""
    of_rows = (name for row in spec.rows_from(state) for name in row.conditions)
    return frozenset(of_rows) | {name for row in spec.states[state].recover for name in row.when}


def _total(
    spec: Spec, interpreter: Interpreter, state: State, space: list[Observation]
) -> Iterator[SpecError]:
    """Every observation has a recover row, the trigger it fires is accepted, and no row is in vain."""
    used: set[int] = set()  # by identity: rows may stand on one line or say the same
    for seen in space:
        try:
            decision = decide(spec, state.name, seen)
            used.add(id(decision.row))
            if decision.verb is Verb.FIRE:
                used.add(id(interpreter.fire(state.name, decision.trigger, seen)))
        except LookupError:
            yield _problem(spec, state.line, f"state {state.name!r} has no recover row for {_brief(seen)}")
            return
        except TransitionRefused as error:
            yield _problem(spec, decision.row.line, f"{error}; observed: {_brief(seen)}")
            return
    for recover in state.recover:
        if id(recover) not in used:
            yield _problem(spec, recover.line, "this recover row can never be reached")
    for row in spec.rows_from(state.name):
        if id(row) not in used:
            yield _problem(
                spec, row.line, f"no recover row of state {state.name!r} ever takes this {row.trigger!r}"
            )


def _exclusive(spec: Spec, rows: tuple[Row, ...], space: list[Observation]) -> Iterator[SpecError]:
    for first, second in combinations(rows, 2):
        if first.trigger != second.trigger:
            continue
        names = {*first.conditions, *second.conditions}
        for seen in space:
            if all(CONDITIONS[name].holds(seen) for name in names):
                yield _problem(
                    spec,
                    second.line,
                    f"{second.trigger!r} can be taken here and at line {first.line} at once: {_brief(seen)}",
                )
                break


def _sufficient(
    spec: Spec, interpreter: Interpreter, state: State, space: list[Observation]
) -> Iterator[SpecError]:
    """A transition demands itself what all the recover rows that take it demand.

    So neither table relies on the other. Transitions into a stable state may demand less: to stop is always
    safe.
    """
    taking: dict[int, list[tuple[Observation, RecoverRow]]] = {}
    for seen in space:
        decision = decide(spec, state.name, seen)
        if decision.verb is Verb.FIRE:
            row = interpreter.fire(state.name, decision.trigger, seen)
            taking.setdefault(id(row), []).append((seen, decision.row))
    for row in spec.rows_from(state.name):
        cases = taking.get(id(row), [])
        if spec.states[row.dest].kind is Kind.STABLE or not cases:
            continue
        named = sorted({name for _, recover in cases for name in recover.when} - set(row.conditions))
        common = [name for name in named if all(CONDITIONS[name].holds(seen) for seen, _ in cases)]
        for seen in space:
            if all(CONDITIONS[name].holds(seen) for name in row.conditions):
                common_here = [name for name in common if not CONDITIONS[name].holds(seen)]
                if common_here:
                    yield _problem(
                        spec,
                        row.line,
                        f"{row.trigger!r} does not demand {', '.join(common_here)}, which every recover row "
                        f"that takes it relies on",
                    )
                    break


def _brief(seen: Observation) -> str:
    """An observation in a line: the names of all conditions that hold."""
    return ", ".join(name for name, condition in CONDITIONS.items() if condition.holds(seen)) or "nothing"
