"""A point of the search, and the steps between points."""

from __future__ import annotations

from typing import NamedTuple

from fsm.machine.exploration.facts import Facts
from fsm.machine.exploration.hosts import World
from fsm.machine.observation import Observation
from fsm.machine.spec import Row


class Taken(NamedTuple):
    """A transition under way, as far as it matters for what follows."""

    trigger: str
    source: str
    dest: str
    actions: tuple[str, ...]
    failure: bool = False

    @classmethod
    def of(cls, row: Row) -> Taken:
        """That of a row."""
        return cls(row.trigger, row.source, row.dest, row.actions, row.failure)


class Node(NamedTuple):
    """The journal, the hosts, and where the engine is.

    ``taken`` is the transition whose actions it runs, ``stage`` how many are done; ``activity`` the activity
    that it is in, ``stage`` how far. With neither it is about to observe and decide, or is not there: whoever
    comes next begins there. ``heading_for`` is the state of the last intent that has no good outcome.
    """

    facts: Facts
    world: World = World()
    heading_for: str = ""
    taken: Taken | None = None
    activity: str = ""
    stage: int = 0

    @property
    def decides(self) -> bool:
        """Whether the engine is between two steps."""
        return self.taken is None and not self.activity

    def idle(self, facts: Facts | None = None, world: World | None = None) -> Node:
        """The engine between two steps, with other facts or another world."""
        return Node(facts or self.facts, world or self.world, self.heading_for)


class Kind:
    """What a step is: those that write records, and those that don't."""

    INTENT = "intent"  # of a transition
    ACTION = "action"
    OUTCOME = "outcome"  # of a transition
    BEGIN = "begin"  # the intent of an activity
    END = "end"  # the outcome of an activity
    NOTE = "note"  # a record in the midst of an activity
    REQUEST = "request"
    CALL = "call"  # a call in the midst of an activity
    CRASH = "crash"
    HOSTS = "hosts"  # something that hosts, guests or people do


class Step(NamedTuple):
    """One step. ``holder`` does it; only the holder of the lease may change a host."""

    kind: str
    name: str
    error: str = ""
    seen: Observation | None = None
    holder: str = "engine"
    changes: bool = False  # it changes a host, or may have


Next = tuple[Step, Node]
