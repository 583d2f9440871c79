"""The whole proof of one machine description."""

from __future__ import annotations

from attrs import frozen

from fsm.machine.exploration.calm import FUTURES, Futures
from fsm.machine.exploration.engine import Machine
from fsm.machine.exploration.search import BOUND, Search, Violation
from fsm.machine.spec import Spec


@frozen
class Report:
    """What was gone through, and the first invariant that does not hold, if any.

    ``points`` are the different states of journal, hosts and engine; ``steps`` the ways between them.
    """

    points: int
    steps: int
    violation: Violation | None


def explore(spec: Spec, bound: int = BOUND) -> Report:
    """Search everything that can be reached, then follow every point's calm future to its end.

    Raises ``OutOfBounds`` when there are more than ``bound`` points.
    """
    search = Search(Machine(spec), bound)
    violation = search.run() or broken_promise(search)
    return Report(len(search.nodes), search.steps, violation)


def broken_promise(search: Search) -> Violation | None:
    """The first point met whose calm future is not what it must be."""
    futures = Futures(search.machine)
    for number, node in enumerate(search.nodes):
        future = futures.of(node)
        for kept in FUTURES:
            if not kept(search.machine.spec, node, future):
                before = search.trace(number)
                return Violation(kept.__name__, (*before, *futures.way(node)), calm_from=len(before))
    return None
