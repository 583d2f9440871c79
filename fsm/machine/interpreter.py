"""The machine in motion, on the ``transitions`` library; nothing else in this package imports it.

The library's habits that are unfit for this work are shut out here:

- automatic ``to_<state>`` triggers would jump past every guard: off;
- a trigger whose conditions fail returns False without a word: here a typed ``TransitionRefused``;
- callbacks given as strings are looked up by name and even imported: only functions are passed in;
- an exception in a callback leaves the model in either state: no effects run inside the library. ``fire``
  only says which row is taken; the engine runs its actions and then moves to its destination.
"""

from __future__ import annotations

from functools import partial

from transitions import EventData, Machine, MachineError

from fsm.errors import TransitionRefused
from fsm.machine.conditions import CONDITIONS, Condition
from fsm.machine.observation import Observation
from fsm.machine.spec import Row, Spec


class _Position:
    """The model that the library moves: where the machine stands, and the row it took last."""

    _state: str
    taken: Row | None = None


class Interpreter:
    """Runs one machine description. Not for use by several threads at once."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._position = _Position()
        self._machine = Machine(
            model=self._position,
            states=list(spec.states),
            initial=spec.initial,
            # No trigger can have this name; one of the model attribute's name is refused by the library.
            model_attribute="_state",
            auto_transitions=False,
            ignore_invalid_triggers=False,
            send_event=True,
            model_override=False,
        )
        for row in spec.rows:
            self._machine.add_transition(
                row.trigger,
                row.source,
                row.dest,
                conditions=[partial(_holds, CONDITIONS[name]) for name in row.conditions],
                after=partial(self._take, row),
            )

    def fire(self, state: str, trigger: str, seen: Observation) -> Row:
        """The row that ``trigger`` takes from ``state`` on this observation.

        Raises ``TransitionRefused`` when there is none; nothing has happened then.
        """
        if trigger not in self._machine.events:
            raise TransitionRefused(state, trigger)
        self._position.taken = None
        self._machine.set_state(state, self._position)
        try:
            self._machine.events[trigger].trigger(self._position, seen=seen)
        except MachineError as error:
            raise TransitionRefused(state, trigger) from error
        if self._position.taken is None:
            raise TransitionRefused(state, trigger, self._failed_guards(state, trigger, seen))
        return self._position.taken

    def _failed_guards(self, state: str, trigger: str, seen: Observation) -> tuple[str, ...]:
        # The library stops at a row's first condition that fails; the operator wants all of them.
        rows = [row for row in self.spec.rows_from(state) if row.trigger == trigger]
        names = dict.fromkeys(name for row in rows for name in row.conditions)
        return tuple(name for name in names if not CONDITIONS[name].holds(seen))

    def _take(self, row: Row, _event: EventData) -> None:
        self._position.taken = row


def _holds(condition: Condition, event: EventData) -> bool:
    return condition.holds(event.kwargs["seen"])
