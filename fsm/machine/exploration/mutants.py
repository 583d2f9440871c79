"""The proof that validation and exploration find faults: every small change of a machine, and whether it is
caught.

A mutant is searched from the points where it decides otherwise than the original; what lies before them is
the same. So what is caught is really reached, by a trace that the mutant allows; a few that could be caught
only behind two changed decisions may be missed, never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from attrs import define, evolve, field, frozen

from fsm.errors import SpecError, TransitionRefused
from fsm.machine.exploration.calm import FUTURES, Futures, begins
from fsm.machine.exploration.engine import Machine, View
from fsm.machine.exploration.invariants import (
    migration_is_not_suspended,
    one_migration_at_a_time,
    overlay_is_guarded,
)
from fsm.machine.exploration.node import Node
from fsm.machine.exploration.search import Broken, OutOfBounds, Search, steps
from fsm.machine.operations import Operation
from fsm.machine.space import observations
from fsm.machine.spec import RecoverRow, Row, Spec, State
from fsm.machine.validation import conditions_of, validate_states

# A mutant that leads to more new points than this without a violation counts as not caught.
BOUND = 30_000
FEW = 200


class Catcher(StrEnum):
    """Who caught a mutant. ``SAME``: there is nothing to catch, as it decides like the original on every
    observation. The others survive; ``NOTHING``: it does so on every observation that can occur.
    """

    VALIDATION = "validation"
    EXPLORATION = "exploration"
    SAME = "it is the same machine"
    NOTHING = "it makes no difference"
    NOBODY = "nobody"


@frozen
class Mutant:
    """A machine with one change, which ``name`` describes, in the states named."""

    name: str
    spec: Spec
    states: tuple[str, ...]


def mutants(spec: Spec) -> Iterator[Mutant]:
    """Every single change of a transition, a recover row or a blocked operation."""
    for state in spec.states.values():
        yield from _of_blocks(spec, state)
        yield from _of_recover(spec, state)
    for row in spec.rows:
        yield from _of_row(spec, row)


def _with_state(spec: Spec, name: str, state: State) -> Mutant:
    return Mutant(name, evolve(spec, states={**spec.states, state.name: state}), (state.name,))


def _of_blocks(spec: Spec, state: State) -> Iterator[Mutant]:
    for operation in sorted(state.blocks, key=list(Operation).index):
        changed = evolve(state, blocks=state.blocks - {operation})
        yield _with_state(spec, f"{state.name}: {operation} not blocked", changed)


def _of_recover(spec: Spec, state: State) -> Iterator[Mutant]:
    rows = state.recover
    for number, row in enumerate(rows):
        what = f"{state.name}: recover row {row_name(row)}"
        rest = (*rows[:number], *rows[number + 1 :])
        yield _with_state(spec, f"{what} dropped", evolve(state, recover=rest))
        for name in row.when:
            shorter = evolve(row, when=tuple(one for one in row.when if one != name))
            changed = (*rows[:number], shorter, *rows[number + 1 :])
            yield _with_state(spec, f"{what} without {name}", evolve(state, recover=changed))
        if number + 1 < len(rows):
            swapped = (*rows[:number], rows[number + 1], row, *rows[number + 2 :])
            yield _with_state(spec, f"{what} behind the next", evolve(state, recover=swapped))


def row_name(row: RecoverRow) -> str:
    """A recover row in words."""
    return f"[{', '.join(row.when)}] {row.do}"


def _of_row(spec: Spec, row: Row) -> Iterator[Mutant]:
    what = f"{row.source}: {row.trigger} to {row.dest} if [{', '.join(row.conditions)}]"

    def with_row(name: str, *changed: Row) -> Mutant:
        rows = tuple(one for old in spec.rows for one in (changed if old is row else (old,)))
        return Mutant(f"{what} {name}", evolve(spec, rows=rows), (row.source,))

    yield with_row("dropped")
    for name in row.conditions:
        shorter = tuple(one for one in row.conditions if one != name)
        yield with_row(f"without {name}", evolve(row, conditions=shorter))
    for number, name in enumerate(row.actions):
        fewer = (*row.actions[:number], *row.actions[number + 1 :])
        yield with_row(f"without action {name}", evolve(row, actions=fewer))
    for state in spec.states:
        if state != row.dest:
            yield with_row(f"leads to {state}", evolve(row, dest=state))


@define
class Hunt:
    """The original, searched once; mutants are compared with it.

    ``_deciding`` holds, for each state and each set of conditions that hold, the points where that may be
    observed.
    """

    original: Search
    _futures: Futures = field(init=False)
    _views: dict[tuple[str, int], View] = field(factory=dict, init=False)
    _deciding: dict[tuple[str, int], list[int]] = field(factory=dict, init=False)
    _positions: dict[tuple[str, str, bool], Node] = field(factory=dict, init=False)
    _beginnings: list[Node] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._futures = Futures(self.original.machine)
        spec = self.original.machine.spec
        for number, node in enumerate(self.original.nodes):
            if begins(spec, node):
                self._beginnings.append(node)
            place = node.facts.state, node.heading_for, bool(node.world.job)
            if place not in self._positions or node.world.source.layer != "base":
                self._positions[place] = node
            if node.decides and not spec.is_final(node.facts.state):
                for view in self.original.machine.views(node):
                    key = (node.facts.state, view.holding)
                    self._views[key] = view
                    self._deciding.setdefault(key, []).append(number)

    def caught_by(self, mutant: Mutant) -> Catcher:
        """Who catches it."""
        if validate_states(mutant.spec, mutant.states):
            return Catcher.VALIDATION
        guards = (overlay_is_guarded, one_migration_at_a_time, migration_is_not_suspended)
        if not all(guard(mutant.spec, node) for node in self._positions.values() for guard in guards):
            return Catcher.EXPLORATION
        machine = Machine(mutant.spec)
        changed = self._changed(machine, mutant)
        if not changed:
            return Catcher.SAME if self._is_same(machine, mutant) else Catcher.NOTHING
        # Most show it at once: a few points, spread over all, come first.
        few = changed[:: max(1, len(changed) // FEW)]
        caught = self._breaks(machine, few) or self._breaks(machine, changed)
        return Catcher.EXPLORATION if caught else Catcher.NOBODY

    def _changed(self, machine: Machine, mutant: Mutant) -> list[int]:
        """The points where the mutant may decide otherwise, each met first behind decisions that are the
        same.
        """
        keys = [key for key in self._views if key[0] in mutant.states and self._differs(machine, key)]
        numbers = {number for key in keys for number in self._deciding[key]}
        kept: dict[tuple[int, int], bool] = {}
        return sorted(number for number in numbers if self._reached(machine, number, numbers, kept))

    def _is_same(self, machine: Machine, mutant: Mutant) -> bool:
        """Whether no observation at all tells it from the original."""
        original = self.original.machine
        for name in mutant.states:
            names = conditions_of(original.spec, name) | conditions_of(mutant.spec, name)
            for seen in observations(names):
                try:
                    if machine.ask(name, seen) != original.ask(name, seen):
                        return False
                except TransitionRefused:
                    return False
        return True

    def _differs(self, machine: Machine, key: tuple[str, int]) -> bool:
        view = self._views[key]
        try:
            return machine.verdict(key[0], view) != self.original.machine.verdict(key[0], view)
        except (LookupError, TransitionRefused):
            return True

    def _reached(
        self, machine: Machine, number: int, numbers: set[int], kept: dict[tuple[int, int], bool]
    ) -> bool:
        """Whether the mutant comes to this point too, by the way on which the original first came to it."""
        while (parent := self.original.parents[number]) is not None:
            edge = (parent[0], number)
            if parent[0] in numbers:
                if edge not in kept:
                    kept[edge] = self._keeps(machine, *edge)
                if not kept[edge]:
                    return False
            number = parent[0]
        return True

    def _keeps(self, machine: Machine, before: int, after: int) -> bool:
        wanted = self.original.nodes[after]
        try:
            following = list(steps(machine, self.original.nodes[before]))
        except Broken:
            return False  # caught right there, as that point is searched as well
        return any(machine.plain(node) == wanted for _, node in following)

    def _breaks(self, machine: Machine, changed: list[int]) -> bool:
        starts = [self.original.nodes[number] for number in changed]
        known = self.original.numbers
        search = Search(machine, BOUND, known)
        for node in starts:
            search.meet(node, None)
        try:
            if search.expand() is not None:
                return True
        except OutOfBounds:
            pass  # what was met so far is looked at all the same
        futures = Futures(machine)
        return any(
            not kept(machine.spec, node, futures.of(node))
            for node in (*self._beginnings, *search.nodes)
            for kept in FUTURES
        )


__all__ = ["Catcher", "Hunt", "Mutant", "SpecError", "mutants"]
