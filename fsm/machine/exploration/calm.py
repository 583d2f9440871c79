"""What follows once accidents stop: everything answers and works, jobs come to their end, people do what is
advised.

From every point there is one such future. It is followed to its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from fsm.machine.exploration import hosts
from fsm.machine.exploration.activities import ACTIVITIES
from fsm.machine.exploration.engine import CALM, Machine, View, follow
from fsm.machine.exploration.environment import SIDES, progress
from fsm.machine.exploration.facts import Facts
from fsm.machine.exploration.hosts import BOTH, DESTINATION, SOURCE, World
from fsm.machine.exploration.node import Kind, Next, Node, Step
from fsm.machine.observation import Merge
from fsm.machine.spec import Kind as StateKind
from fsm.machine.spec import Spec

# A point that a calm future comes to more often than this is one of a circle.
MOST_VISITS = 4

WRITTEN = (Kind.ACTION, Kind.OUTCOME)


class Future(NamedTuple):
    """``end`` is the final state, empty when none is ever reached. ``gives_up``: the way leads into a stable
    state.
    """

    end: str
    gives_up: bool = False


def next_step(machine: Machine, node: Node) -> Next | None:
    """The calm step from ``node``; None where nothing will ever happen again."""
    if node.taken is not None:
        return _without_error(machine, node)
    if node.activity:
        return _activity(node)
    _, _, following = next(machine.decisions(node))  # the calm view comes first
    return following or _otherwise(machine, node)


def _otherwise(machine: Machine, node: Node) -> Next | None:
    """What happens where the engine waits."""
    return _jobs(node) or _time(machine, node) or _people(node)


def worn_out(machine: Machine, node: Node) -> Next | None:
    """The step from a point that was met before: what failed failed again, until no attempt is left."""
    for view in _alike(machine, node):
        engine = view.seen.engine
        if not engine.attempts_left and not engine.overdue and not engine.retry_due:
            return follow(node, view.seen, machine.verdict(node.facts.state, view)) or _otherwise(
                machine, node
            )
    return _otherwise(machine, node)


def _alike(machine: Machine, node: Node) -> Iterator[View]:
    """What may be seen where both hosts are as in the calm view, and no space is short."""
    views = machine.views(node)
    calm = views[CALM].seen
    for view in views:
        same = (view.seen.source, view.seen.destination) == (calm.source, calm.destination)
        if same and not view.seen.engine.space_short:
            yield view


def _without_error(machine: Machine, node: Node) -> Next:
    found = list(machine.steps(node))
    return next((one for one in found if one[0].kind in WRITTEN and not one[0].error), found[0])


def _activity(node: Node) -> Next:
    found = list(ACTIVITIES[node.activity](node))
    good = [one for one in found if not one[0].error]
    if node.activity == "preflight":
        return good[-1]  # passed, where it can be
    watching = node.activity == "migrate" and node.stage == 1
    if watching and node.world.job and not node.facts.abort_requested:
        good = []
    return good[0] if good else _jobs(node) or found[0]


def _jobs(node: Node) -> Next | None:
    """A job goes on by itself."""
    if (world := progress(node.world)) is not None:
        return Step(Kind.HOSTS, "the migration goes on"), node._replace(world=world)
    for side in SIDES:
        if (ready := hosts.advance_commit(node.world, side)) is not None:
            return Step(Kind.HOSTS, f"the commit at the {side} is ready"), node._replace(world=ready)
    return None


def _time(machine: Machine, node: Node) -> Next | None:
    """What is decided when the state's time is up, everything else being as it is."""
    for view in _alike(machine, node):
        if view.seen.engine.overdue and not view.seen.engine.retry_due:
            return follow(node, view.seen, machine.verdict(node.facts.state, view))
    return None


def _people(node: Node) -> Next | None:
    """What `fsm show` advises, one thing at a time."""
    world = node.world
    for side in SIDES:
        if world.at(side).layer == hosts.FOREIGN:
            cleared = world.put(side, layer=hosts.OVERLAY)
            return Step(Kind.HOSTS, f"somebody takes the layer away at the {side}"), node.idle(world=cleared)
    for side in SIDES:
        if not world.at(side).up:
            return Step(Kind.HOSTS, f"the {side} is back"), node.idle(world=world.put(side, up=True))
    for side in SIDES:
        if world.at(side).altered and not node.facts.given_up:
            return _cure(node, side)
    if world.newest == BOTH or (world.meddled and world.newest == SOURCE):
        return _settle(node)
    return None


def _cure(node: Node, side: str) -> Next:
    """The snapshot is saved; where that does not help, it is deleted."""
    if not node.facts.rescue_requested:
        asked = node.facts._replace(rescue_requested=True)
        return Step(Kind.REQUEST, "rescue"), node.idle(asked)
    without = node.world.put(side, altered=False)
    return Step(Kind.HOSTS, f"somebody deletes the snapshot in the overlay at the {side}"), node.idle(
        world=without
    )


def _settle(node: Node) -> Next | None:
    """Somebody decides which side is to live: never the one beside a commit that was begun."""
    world = node.world
    if world.newest == SOURCE or world.source.written or world.destination.life == hosts.NONE:
        stopped = hosts.stop(world, DESTINATION)
        gone = stopped.put(DESTINATION, life=hosts.NONE, layer=hosts.BASE, metadata=False, marker="")
        kept = SOURCE
    else:
        stopped = hosts.stop(world, SOURCE)
        gone = stopped.put(SOURCE, life=hosts.NONE, layer=hosts.BASE, metadata=False, marker="")
        kept = DESTINATION
    after = gone._replace(newest=kept)
    if after == world:
        return None
    return Step(Kind.HOSTS, f"somebody lets only the {kept} live"), node.idle(world=after)


# -- what must come of it -----------------------------------------------------------------------------------

Promise = Callable[[Spec, Node, Future], bool]


def every_state_comes_to_an_end(_spec: Spec, _node: Node, future: Future) -> bool:
    """Whatever has happened: once accidents stop, the migration comes to a final state."""
    return bool(future.end)


def calm_never_gives_up(spec: Spec, node: Node, future: Future) -> bool:
    """A migration that accidents no longer disturb, and that nobody meddled with, never becomes stuck."""
    disturbed = (
        node.world.meddled or node.facts.adopted or not (node.world.source.up and node.world.destination.up)
    )
    begun = node.taken is not None and spec.states[node.taken.dest].kind is StateKind.STABLE
    return disturbed or begun or not future.gives_up


def abort_is_honoured(_spec: Spec, node: Node, future: Future) -> bool:
    """An abort that is asked for before the domain can have arrived does not end in a commit."""
    facts, world, taken = node.facts, node.world, node.taken
    arrives = taken is not None and taken.dest == "committing-dest"
    late = world.newest != SOURCE or world.meddled or arrives
    return not facts.abort_requested or late or future.end != "committed"


def arrived_is_committed(_spec: Spec, node: Node, future: Future) -> bool:
    """A domain that has arrived stays: its migration is committed in the end."""
    return node.world.newest != DESTINATION or node.world.meddled or future.end == "committed"


def undisturbed_is_committed(spec: Spec, node: Node, future: Future) -> bool:
    """A migration that nothing disturbs is committed, however it merges, and shut off as well."""
    return not begins(spec, node) or future.end == "committed"


def begins(spec: Spec, node: Node) -> bool:
    """Whether nothing has happened yet, or only a preflight that has passed."""
    facts, life = node.facts, node.world.source.life
    known = facts._replace(preflight="pending", merge="commit", begun=False)
    # What was planned of a domain that runs is not for one that is shut off, nor the other way round.
    fits = not facts.planned or (facts.merge == Merge.NONE) == (life == hosts.SHUT_OFF)
    place = World().source._replace(life=life)
    return (
        known == Facts(spec.initial)
        and life in (hosts.RUNNING, hosts.SHUT_OFF)
        and fits
        and node == node.idle(world=World(place, pools=facts.planned))
        and facts.preflight != "refused"
    )


FUTURES: tuple[Promise, ...] = (
    every_state_comes_to_an_end,
    calm_never_gives_up,
    abort_is_honoured,
    arrived_is_committed,
    undisturbed_is_committed,
)


class Futures:
    """The futures of all points, each followed once."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._found: dict[Node, Future] = {}

    def of(self, node: Node) -> Future:
        """The future of a point."""
        way: list[tuple[Node, bool]] = []
        future: Future | None = None
        for before, following in self._steps(node, self._found):
            if (future := self._found.get(before)) is not None:
                break
            way.append((before, following is not None and self._gives_up(before)))
            if self._machine.spec.is_final(before.facts.state):
                future = Future(before.facts.state)
        future = future or Future("")
        for passed, gives_up in reversed(way):
            future = Future(future.end, future.gives_up or gives_up)
            self._found[passed] = future
        return future

    def _steps(self, node: Node, known: Container[Node] = ()) -> Iterator[tuple[Node, Next | None]]:
        """The points from ``node`` on, each with the step that leaves it; the last one has none.

        That is one of ``known`` where the way comes to one.
        """
        visits: Counter[Node] = Counter()
        while visits[node] < MOST_VISITS:  # ends: there are so many points at most
            again = visits[node] > 0
            visits[node] += 1
            following = None
            if node not in known and not self._machine.spec.is_final(node.facts.state):
                following = (worn_out if again and node.decides else next_step)(self._machine, node)
            yield node, following
            if following is None:
                return
            node = self._machine.plain(following[1])

    def _gives_up(self, node: Node) -> bool:
        return node.taken is not None and self._machine.spec.states[node.taken.dest].kind is StateKind.STABLE

    def way(self, node: Node) -> tuple[Next, ...]:
        """The steps of a future, as far as it does not go round in circles."""
        return tuple(following for _, following in self._steps(node) if following is not None)
