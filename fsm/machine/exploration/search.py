"""Breadth first over everything that can be reached; the first violation found has the shortest trace."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field, frozen

from fsm.errors import TransitionRefused
from fsm.machine.exploration import environment
from fsm.machine.exploration.decision_invariants import ANSWERS, DECISIONS
from fsm.machine.exploration.engine import NOTED, Machine, Verdict, View
from fsm.machine.exploration.facts import Facts
from fsm.machine.exploration.invariants import POINTS, STEPS
from fsm.machine.exploration.node import Kind, Next, Node, Step

BOUND = 1_000_000
UNDECIDED = "the machine has an answer to everything"


class OutOfBounds(Exception):  # as the package's other errors are named
    """The search has met more points than it may: nothing is proven."""


class Broken(Exception):  # carries what was found out of the depth of the search
    """An invariant does not hold behind ``step``."""

    def __init__(self, invariant: str, step: Step, after: Node) -> None:
        super().__init__(invariant)
        self.invariant = invariant
        self.last = (step, after)


@frozen
class Violation:
    """An invariant that does not hold, and the steps that lead there from the beginning, with what they led
    to.

    ``calm_from`` is where accidents stop, for an invariant about what follows then.
    """

    invariant: str
    trace: tuple[Next, ...]
    calm_from: int | None = None


@define
class Search:
    """Points in the order they were met, each with the point and step that led there first.

    A point of ``known`` is not gone into: what lies behind it has been searched already.
    """

    machine: Machine
    bound: int = BOUND
    known: dict[Node, int] = field(factory=dict, repr=False)
    nodes: list[Node] = field(factory=list, repr=False)
    parents: list[tuple[int, Step] | None] = field(factory=list, repr=False)
    numbers: dict[Node, int] = field(factory=dict, repr=False)
    steps: int = 0

    def run(self) -> Violation | None:
        """Search everything from a migration's beginning; the first violation, None if there is none."""
        self.meet(Node(Facts(self.machine.spec.initial)), None)
        return self.expand()

    def meet(self, node: Node, parent: tuple[int, Step] | None) -> None:
        """Note a point. Raises ``OutOfBounds``."""
        if len(self.nodes) >= self.bound:
            raise OutOfBounds(f"more than {self.bound} points can be reached")
        self.numbers[node] = len(self.nodes)
        self.nodes.append(node)
        self.parents.append(parent)

    def expand(self) -> Violation | None:
        """Search everything behind the points met so far."""
        for number, node in enumerate(self.nodes):  # grows while it is gone through
            try:
                for step, after in steps(self.machine, node):
                    self._take(number, node, step, self.machine.plain(after))
            except Broken as broken:
                return Violation(broken.invariant, (*self.trace(number), broken.last))
        return None

    def _take(self, number: int, node: Node, step: Step, after: Node) -> None:
        self.steps += 1
        for sound_step in STEPS:
            if not sound_step(node, step, after):
                raise Broken(sound_step.__name__, step, after)
        if after in self.numbers or after in self.known:
            return
        for sound in POINTS:
            if not sound(self.machine.spec, after):
                raise Broken(sound.__name__, step, after)
        self.meet(after, (number, step))

    def trace(self, number: int) -> tuple[Next, ...]:
        """The steps from the beginning to a point."""
        taken: list[Next] = []
        while (parent := self.parents[number]) is not None:
            taken.append((parent[1], self.nodes[number]))
            number = parent[0]
        return tuple(reversed(taken))


def steps(machine: Machine, node: Node) -> Iterator[Next]:
    """Every step that may follow. Raises ``Broken`` for a decision that must not be taken."""
    if machine.spec.is_final(node.facts.state):
        return
    if node.decides:
        yield from _decided(machine, node)
    else:
        yield from machine.steps(node)
    # A transition whose actions are done waits for the journal alone: whatever happens now might as well
    # happen behind its outcome.
    if node.taken is None or node.stage < len(node.taken.actions):
        yield from environment.steps(node)


def _broken(machine: Machine, node: Node, view: View, verdict: Verdict) -> str:
    """The first invariant that does not hold of a decision, empty if all do."""
    spec, state, seen = machine.spec, node.facts.state, view.seen
    if (state, view) not in machine.sound:
        for sound in ANSWERS:
            if not sound(spec, state, seen, verdict):
                return sound.__name__
        machine.sound.add((state, view))
    for fitting in DECISIONS:
        if not fitting(node, seen, verdict):
            return fitting.__name__
    return ""


def _decided(machine: Machine, node: Node) -> Iterator[Next]:
    taken: set[Verdict] = set()
    try:
        for view, verdict, following in machine.decisions(node):
            if verdict is not NOTED and (broken := _broken(machine, node, view, verdict)):
                step, after = following or (Step(Kind.HOSTS, "the engine waits", seen=view.seen), node)
                raise Broken(broken, step, after)
            if following is not None and verdict not in taken:
                taken.add(verdict)
                yield following
    except (LookupError, TransitionRefused) as error:
        raise Broken(UNDECIDED, Step(Kind.HOSTS, str(error)), node) from error
