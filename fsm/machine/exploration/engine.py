"""The engine's loop around the machine: observe and decide, write the intent, act, write the outcome; or die.

Which decision follows from which observation is not modelled: ``decide`` and the interpreter are asked, the
same that the engine asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import product
from typing import NamedTuple

from attrs import frozen

from fsm.machine.conditions import CONDITIONS, Reads
from fsm.machine.decision import Verb, decide
from fsm.machine.exploration import hosts
from fsm.machine.exploration.activities import ACTIVITIES, FAILED, HALFWAY, LOST
from fsm.machine.exploration.effects import EFFECTS
from fsm.machine.exploration.facts import Facts
from fsm.machine.exploration.hosts import DESTINATION, SOURCE, Place
from fsm.machine.exploration.node import Kind, Next, Node, Step, Taken
from fsm.machine.interpreter import Interpreter
from fsm.machine.observation import Activity, Engine, Host, Merge, Observation, Preflight
from fsm.machine.spec import Kind as StateKind
from fsm.machine.spec import RetryPolicy, Spec
from fsm.machine.validation import conditions_of


@frozen(eq=False)  # the same ones come again and again: to compare them would be to compare observations
class View:
    """Something that can be observed, and which conditions hold then, a bit for each."""

    seen: Observation
    holding: int


class Verdict(NamedTuple):
    """What the machine decides: take a transition, go on with the activity, or (neither) wait."""

    taken: Taken | None = None
    activity: str = ""


# What the journal knows from the intent of an activity on.
BEGINNING: Mapping[str, Callable[[Facts], Facts]] = {
    "migrate": lambda facts: facts._replace(transfer_begun=True),
}

# Nothing is decided yet, only noted.
NOTED = Verdict(activity="note")

UNREAD = Host(reachable=False)
FENCED = Host(reachable=False, fenced=True)
UNKNOWN_YET = Host(reachable=True)  # before there is a plan, nobody knows what to ask for

_BITS = {
    reads: [(1 << bit, one.predicate) for bit, one in enumerate(CONDITIONS.values()) if one.reads is reads]
    for reads in Reads
}

# The index of an observation that a calm world leads to: both hosts answer, no time is up, an attempt is
# left.
CALM = 0


def views(node: Node, policy: RetryPolicy, *, stable: bool, shortage: bool) -> tuple[View, ...]:
    """Everything that the engine may observe at this point: any host may not answer, any time may be up.

    ``shortage``: the state asks whether space gets short.
    """
    facts, world = node.facts, node.world
    known = _unseen(facts)
    asks = (stable, shortage)
    if not facts.planned:
        return _views(known, Place(), Place(), "", asks, policy.attempts)
    return _views(known, _plain(world.source), _plain(world.destination), world.job, asks, policy.attempts)


# What a look does not show left out, so that fewer different views are worked out.


@cache
def _unseen(facts: Facts) -> Facts:
    return facts._replace(state="", saved=False, verified=False, started_paused=False)


@cache
def _plain(place: Place) -> Place:
    return place._replace(overlay="", written=False, marker="")


@cache
def _views(
    facts: Facts,
    source: Place,
    destination: Place,
    job: str,
    asks: tuple[bool, bool],
    attempts: int | None,
) -> tuple[View, ...]:
    planned = facts.planned
    look = partial(_looks, given_up=facts.given_up)
    here = look(source, migrates=bool(job), fenced=facts.fenced_source) if planned else [UNKNOWN_YET]
    there = look(destination, migrates=False, fenced=facts.fenced_destination) if planned else [UNKNOWN_YET]
    left = [True] if not facts.failed or attempts is None else [True, False] if attempts > 1 else [False]
    found: dict[int, View] = {}
    stable, shortage = asks
    both = [(pair, _holding(Reads.HOSTS, *pair)) for pair in product(here, there)]
    for overdue, short, due, attempts_left in product(
        (False, True),
        (False, True) if shortage else (False,),
        (True, False) if stable else (False,),
        left,
    ):
        engine = _engine(facts, overdue=overdue, short=short, due=due, attempts_left=attempts_left)
        of_engine = _holding(Reads.ENGINE, engine)
        for pair, of_hosts in both:
            holding = of_engine | of_hosts
            if holding not in found:
                found[holding] = View(Observation(*pair, engine), holding)
    return tuple(found.values())


def _holding(reads: Reads, *seen: object) -> int:
    """Those conditions that hold of what they read."""
    return sum(bit for bit, predicate in _BITS[reads] if predicate(*seen))


def _looks(place: Place, *, migrates: bool, fenced: bool, given_up: bool) -> list[Host]:
    unread = FENCED if fenced else UNREAD
    if not place.up:
        return [unread]
    altered = place.altered and not given_up
    return [hosts.view(place.life, place.layer, place.commit, place.metadata, altered, migrates), unread]


def _engine(facts: Facts, *, overdue: bool, short: bool, due: bool, attempts_left: bool) -> Engine:
    return Engine(
        preflight=Preflight(facts.preflight),
        merge=Merge(facts.merge),
        copies_verified=facts.copies_verified,
        transfer_begun=facts.transfer_begun,
        activity=Activity.BEGUN if facts.begun else Activity.NOT_BEGUN,
        step_failed=facts.failed,
        attempts_left=attempts_left,
        overdue=overdue,
        retry_due=due,
        space_short=short,
        abort_requested=facts.abort_requested,
        adopted=facts.adopted,
        rescue_requested=facts.rescue_requested,
    )


class Machine:
    """A machine description that answers; each different question is put to it once."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._read = {name: conditions_of(spec, name) for name in spec.states}
        self._interpreter: Interpreter | None = None  # made when first needed: most mutants never ask
        self._verdicts: dict[tuple[str, int], Verdict] = {}
        self.sound: set[tuple[str, View]] = set()  # what is answered well, as far as the answer alone tells

    def plain(self, node: Node) -> Node:
        """The same point without what makes no difference to any decision or invariant from there on."""
        facts, state = node.facts, self.spec.states[node.facts.state]
        read = self._read[state.name]
        if facts.begun and "activity-begun" not in read:
            facts = facts._replace(begun=False)
        if facts.failed and not read & {"step-failed", "attempts-exhausted"}:
            facts = facts._replace(failed=False)
        if facts.abort_requested and "abort-requested" not in read and not node.world.job:
            facts = facts._replace(abort_requested=False)  # who wants it may ask again
        world = node.world
        if not world.pools and node.decides and facts.planned and state.kind is not StateKind.FINAL:
            # What comes next may open them again, before it releases them.
            world = world._replace(pools=True)
        if (facts.rescue_requested or facts.given_up) and not (
            world.source.altered or world.destination.altered
        ):
            facts = facts._replace(rescue_requested=False, given_up=False)
        heading = node.heading_for
        if heading and node.decides and self.spec.states[heading].blocks <= state.blocks:
            heading = ""
        if facts is node.facts and world is node.world and heading == node.heading_for:
            return node  # as most are
        return node._replace(facts=facts, world=world, heading_for=heading)

    def verdict(self, state: str, view: View) -> Verdict:
        """What is decided. Raises ``LookupError`` and ``TransitionRefused`` as the machine does."""
        key = (state, view.holding)
        if key not in self._verdicts:
            self._verdicts[key] = self.ask(state, view.seen)
        return self._verdicts[key]

    def ask(self, state: str, seen: Observation) -> Verdict:
        """The same about an observation that is not kept."""
        decision = decide(self.spec, state, seen)
        if decision.verb is Verb.FIRE:
            interpreter = self._interpreter = self._interpreter or Interpreter(self.spec)
            return Verdict(Taken.of(interpreter.fire(state, decision.trigger, seen)))
        activity = self.spec.states[state].activity or ""
        return Verdict(activity=activity if decision.verb is Verb.CONTINUE else "")

    def views(self, node: Node) -> tuple[View, ...]:
        """What may be observed at ``node``."""
        state = self.spec.states[node.facts.state]
        shortage = "space-short" in self._read[state.name]
        return views(node, state.retry, stable=state.kind is StateKind.STABLE, shortage=shortage)

    def decisions(self, node: Node) -> Iterator[tuple[View, Verdict, Next | None]]:
        """Every decision that may come next; a wait leads nowhere."""
        fenced = node.facts.fenced_source or node.facts.fenced_destination
        for view in self.views(node):
            if fenced and (again := _seen_again(node, view.seen)) is not None:
                yield view, NOTED, again
                continue
            verdict = self.verdict(node.facts.state, view)
            yield view, verdict, follow(node, view.seen, verdict)

    def steps(self, node: Node) -> Iterator[Next]:
        """Every step of the engine that is under way in something."""
        if node.taken is not None:
            yield from _act(node, node.taken)
        elif node.activity:
            yield from ACTIVITIES[node.activity](node)
        if not node.decides:
            yield Step(Kind.CRASH, "the engine dies"), node.idle()
            yield Step(Kind.CALL, "wakes up after another engine has taken over", holder="stale"), node.idle()


def _seen_again(node: Node, seen: Observation) -> Next | None:
    """The word that a host is off holds until it is seen again: the first thing that is noted then."""
    facts = node.facts
    here, there = facts.fenced_source, facts.fenced_destination
    if not (here and seen.source.reachable) and not (there and seen.destination.reachable):
        return None
    if not facts.planned:
        return None  # nothing was looked at yet
    after = facts._replace(
        fenced_source=here and not seen.source.reachable,
        fenced_destination=there and not seen.destination.reachable,
    )
    return Step(Kind.NOTE, "seen-again"), node.idle(after)


def follow(node: Node, seen: Observation, verdict: Verdict) -> Next | None:
    """The intent that a decision writes, None for a wait."""
    facts = node.facts
    if verdict.taken is not None:
        taken = verdict.taken
        return Step(Kind.INTENT, taken.trigger, seen=seen), Node(facts, node.world, taken.dest, taken)
    if verdict.activity:
        after = facts._replace(begun=True)
        if verdict.activity in BEGINNING:
            after = BEGINNING[verdict.activity](after)
        step = Step(Kind.BEGIN, verdict.activity, seen=seen)
        return step, Node(after, node.world, node.heading_for, None, verdict.activity)
    return None


def _act(node: Node, taken: Taken) -> Iterator[Next]:
    facts = node.facts
    if node.stage == len(taken.actions):
        moved = facts._replace(state=taken.dest, begun=False, failed=False)
        yield Step(Kind.OUTCOME, taken.trigger), Node(moved, node.world)
        return
    name = taken.actions[node.stage]
    effect = EFFECTS[name]
    fails = node.idle(facts._replace(failed=True))
    yield Step(Kind.ACTION, name, FAILED), fails
    if effect.side and effect.leaves_fenced and facts.fenced(effect.side):
        yield Step(Kind.ACTION, name), node._replace(stage=node.stage + 1)
        return
    if effect.side and not node.world.at(effect.side).up:
        return
    if effect.halfway is not None and (left := effect.halfway(node.world)) is not None:
        yield Step(Kind.ACTION, name, HALFWAY, changes=True), fails._replace(world=left)
    after = effect.apply(facts, node.world)
    if after is None:
        return
    told, world = after
    yield Step(Kind.ACTION, name, changes=True), node._replace(facts=told, world=world, stage=node.stage + 1)
    yield Step(Kind.ACTION, name, LOST, changes=True), fails._replace(world=world)
    yield Step(Kind.CRASH, f"the engine dies behind {name}", changes=True), node.idle(world=world)


__all__ = ["CALM", "DESTINATION", "SOURCE", "Machine", "Verdict", "View", "follow", "views"]
