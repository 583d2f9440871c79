"""Decides again what a log says was decided, from the observations that it recorded. No effects.

Two things are checked. Each intent: would this machine decide the same on that observation? And the course of
each migration: does every record follow from the one before? The first failing is a ``ReplayDivergence``, the
second means that the log itself is not whole, ``JournalCorrupt``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen

from fsm.errors import JournalCorrupt, ReplayDivergence, TransitionRefused
from fsm.machine.conditions import CONDITIONS, Reads
from fsm.machine.decision import Verb, decide
from fsm.machine.interpreter import Interpreter
from fsm.machine.observation import Engine, Host, Observation
from fsm.machine.spec import CONTINUE, WAIT, RecoverRow, Spec

TRANSITION_INTENT = "transition-intent"
TRANSITION_OUTCOME = "transition-outcome"
ACTIVITY_INTENT = "activity-intent"


class Entry(Protocol):
    """One record of a log, as far as replay reads it; ``event`` is its step and phase."""

    @property
    def event(self) -> str: ...
    @property
    def migration(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def dest(self) -> str: ...
    @property
    def error(self) -> str: ...
    @property
    def lease(self) -> int: ...
    @property
    def observation(self) -> Observation | None: ...


@frozen
class Verdict:
    """What the machine decides. ``name`` is the trigger or the activity; ``dest`` is where a trigger leads.

    ``why`` is set where a trigger is refused by its own transitions, for ``guards`` that do not hold; a valid
    machine never comes to that.
    """

    verb: Verb | None
    name: str = ""
    dest: str = ""
    row: RecoverRow | None = None
    why: str = ""
    guards: tuple[str, ...] = ()

    def __str__(self) -> str:
        match self.verb:
            case Verb.FIRE:
                return f"fire {self.name!r} to {self.dest!r}"
            case Verb.CONTINUE:
                return f"continue {self.name!r}" if self.name else "continue"
            case Verb.WAIT:
                return "wait"
            case _:
                return "know nothing to do"


def recorded(entry: Entry) -> Verdict | None:
    """The decision that a record tells of; None for a record that is no intent."""
    match entry.event:
        case "transition-intent":
            return Verdict(Verb.FIRE, entry.name, entry.dest)
        case "activity-intent":
            return Verdict(Verb.CONTINUE, entry.name)
        case _:
            return None


@define
class _StateTable:
    """One state's decisions so far, by the truth values of all the conditions that its rows name.

    A decision depends on nothing else, so it is made once for each combination: the table stays as small as
    the machine is, however long the log.
    """

    of_hosts: tuple[Callable[[Host, Host], bool], ...]
    of_engine: tuple[Callable[[Engine], bool], ...]
    verdicts: dict[tuple[bool, ...], Verdict] = field(factory=dict)


class Decider:
    """Decides on one machine, quickly; the decisions are made by ``decide`` and the interpreter."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._interpreter = Interpreter(spec)
        self._tables = {name: self._table(name) for name in spec.states}

    def _table(self, state: str) -> _StateTable:
        names = {name for row in self.spec.states[state].recover for name in row.when}
        names |= {name for row in self.spec.rows_from(state) for name in row.conditions}
        used = [CONDITIONS[name] for name in sorted(names)]
        return _StateTable(
            tuple(one.predicate for one in used if one.reads is Reads.HOSTS),
            tuple(one.predicate for one in used if one.reads is Reads.ENGINE),
        )

    def decide(self, state: str, seen: Observation) -> Verdict:
        """What the machine decides in ``state`` on this observation. ``KeyError`` for an unknown state."""
        table = self._tables[state]
        source, destination, engine = seen.source, seen.destination, seen.engine
        key = (
            *[holds(source, destination) for holds in table.of_hosts],
            *[holds(engine) for holds in table.of_engine],
        )
        verdict = table.verdicts.get(key)
        if verdict is None:
            verdict = table.verdicts[key] = self._decide(state, seen)
        return verdict

    def _decide(self, state: str, seen: Observation) -> Verdict:
        try:
            decision = decide(self.spec, state, seen)
        except LookupError:
            return Verdict(None, why="no recover row covers what was observed")
        if decision.verb is not Verb.FIRE:
            activity = self.spec.states[state].activity or "" if decision.verb is Verb.CONTINUE else ""
            return Verdict(decision.verb, activity, row=decision.row)
        try:
            row = self._interpreter.fire(state, decision.trigger, seen)
        except TransitionRefused as error:
            return Verdict(Verb.FIRE, decision.trigger, "?", decision.row, str(error), error.failed_guards)
        return Verdict(Verb.FIRE, row.trigger, row.dest, decision.row)

    def explain(
        self, state: str, seen: Observation, was: Verdict, now: Verdict
    ) -> tuple[str, tuple[str, ...]]:
        """Why it is ``now`` and not ``was``: a sentence, and the conditions that make the difference."""
        if now.why or now.row is None:
            return now.why, now.guards
        if (was.verb, was.name) == (now.verb, now.name):
            return "another transition of that trigger is taken", self._transition_guards(state, now)
        wanted = {Verb.FIRE: was.name, Verb.CONTINUE: CONTINUE}.get(was.verb or Verb.WAIT, WAIT)
        rows = self.spec.states[state].recover
        failing = [
            tuple(name for name in row.when if not CONDITIONS[name].holds(seen))
            for row in rows
            if row.do == wanted
        ]
        number = next(index for index, row in enumerate(rows, start=1) if row is now.row)
        if not failing:
            return f"no recover row of {state!r} says {wanted!r}", now.row.when
        if () in failing:
            holding = ", ".join(now.row.when) or "anything"
            return f"recover row {number} comes before the recorded one and holds: {holding}", now.row.when
        nearest = min(failing, key=len)
        return f"{wanted!r} wants what does not hold: {', '.join(nearest)}", nearest

    def _transition_guards(self, state: str, now: Verdict) -> tuple[str, ...]:
        rows = (r for r in self.spec.rows_from(state) if (r.trigger, r.dest) == (now.name, now.dest))
        return tuple(dict.fromkeys(name for row in rows for name in row.conditions))


@define
class _Course:
    """How far one migration has come in the log."""

    sequence: int
    lease: int
    state: str
    intent: tuple[str, str] | None = None
    diverges: bool = False


class Replay:
    """Replays a log, record by record; the records of several migrations may be mixed.

    Keeps a few words for each migration that has not ended, and nothing else. ``migrations`` counts those
    seen, ``diverging`` those with at least one divergence. ``missing`` counts records that the log does not
    have although nothing is wrong with it: it begins in the middle of a migration, or the engine that drove
    one died before it logged them.
    """

    def __init__(self, spec: Spec) -> None:
        self.migrations = self.diverging = self.missing = 0
        self._decider = Decider(spec)
        self._spec = spec
        self._courses: dict[str, _Course] = {}

    def take(self, entry: Entry) -> Verdict | None:
        """What is decided at the next record; None at one that tells of no decision.

        Raises ``ReplayDivergence`` when the machine decides otherwise and ``JournalCorrupt`` when the record
        does not follow from those before it. Either way the record is counted: one may go on with the next.
        """
        course = self._follow(entry)
        if entry.event == TRANSITION_INTENT or entry.event == ACTIVITY_INTENT:
            return self._decide(entry, course)
        return None

    def _decide(self, entry: Entry, course: _Course) -> Verdict:
        seen = entry.observation
        if seen is None:
            raise _damaged(entry, "is an intent without the observation that it was decided from")
        try:
            now = self._decider.decide(entry.state, seen)
        except KeyError:
            now = Verdict(None, why=f"it has no state {entry.state!r}")
        if now.name == entry.name and now.dest == entry.dest:
            return now
        was = recorded(entry)
        assert was is not None  # noqa: S101  # take() asked
        self.diverging += not course.diverges
        course.diverges = True
        why, guards = self._decider.explain(entry.state, seen, was, now)
        raise ReplayDivergence(entry.migration, entry.sequence, entry.state, str(was), str(now), why, guards)

    def _follow(self, entry: Entry) -> _Course:
        course = self._courses.get(entry.migration)
        if course is None:
            course = self._courses[entry.migration] = _Course(0, 0, entry.state)
            self.migrations += 1
        missing = entry.sequence - course.sequence - 1
        # What an engine had not logged when it died is missing for good; another one has gone on.
        excused = missing > 0 and (course.sequence == 0 or entry.lease > course.lease)
        expected, begun = course.state, course.intent
        course.sequence, course.lease = entry.sequence, entry.lease
        self._advance(course, entry)
        if missing and not excused:
            raise _damaged(entry, _gap(missing, entry.sequence))
        if missing:
            self.missing += missing
            return course
        if entry.state != expected:
            raise _damaged(entry, f"says state {entry.state!r}; the records before it lead to {expected!r}")
        if entry.event == TRANSITION_OUTCOME and begun != (entry.name, entry.dest):
            raise _damaged(entry, f"is the outcome of {entry.name!r} to {entry.dest!r}, which was not begun")
        return course

    def _advance(self, course: _Course, entry: Entry) -> None:
        course.state = entry.state
        if entry.event == TRANSITION_INTENT:
            course.intent = (entry.name, entry.dest)
        elif entry.event == ACTIVITY_INTENT:
            course.intent = None
        elif entry.event == TRANSITION_OUTCOME:
            course.intent = None
            if not entry.error:
                course.state = entry.dest
                if entry.dest in self._spec.states and self._spec.is_final(entry.dest):
                    del self._courses[entry.migration]


def _gap(missing: int, sequence: int) -> str:
    if missing < 0:
        return "comes a second time, or too late"
    return f"follows on record {sequence - missing - 1}: {missing} between them are missing"


def _damaged(entry: Entry, what: str) -> JournalCorrupt:
    return JournalCorrupt(
        f"record {entry.sequence} of migration {entry.migration} {what}",
        remedy="replay the journal itself, or the whole log with its rotated files",
    )
