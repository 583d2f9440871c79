"""The enumeration of what can be seen misses no observation that the conditions tell apart."""

from __future__ import annotations

from inspect import signature
from itertools import product

from hypothesis import given, settings

from fsm.machine.conditions import CONDITIONS, Condition, Reads
from fsm.machine.observation import Host, Observation
from fsm.machine.space import engine_witnesses, host_witnesses, hosts
from tests.machine_helpers import ABSENT, observations


def vector(seen: Observation, reads: Reads = Reads.HOSTS) -> tuple[bool, ...]:
    return tuple(c.holds(seen) for c in CONDITIONS.values() if c.reads is reads)


COVERED = {vector(seen) for seen in host_witnesses()}
COVERED_ENGINES = {
    vector(Observation(ABSENT, ABSENT, engine), Reads.ENGINE)
    for engine in engine_witnesses(frozenset(CONDITIONS))
}


def told_by(*given: Host | None) -> tuple[bool, ...]:
    """What the conditions say that read these hosts and no others; an absent one would break them."""
    unread = tuple(host is None for host in given)
    return tuple(
        one.predicate(*given)
        for one in CONDITIONS.values()
        if one.reads is Reads.HOSTS and ignored(one) == unread
    )


def ignored(condition: Condition) -> tuple[bool, ...]:
    return tuple(name.startswith("_") for name in signature(condition.predicate).parameters)


def test_merging_hosts_loses_no_combination() -> None:
    views = list(hosts())
    of_source = [told_by(view, None) for view in views]
    of_destination = [told_by(None, view) for view in views]
    joint = [one.predicate for one in CONDITIONS.values() if ignored(one) == (False, False)]
    found = {
        (of_source[here], of_destination[there], *(holds(views[here], views[there]) for holds in joint))
        for here, there in product(range(len(views)), repeat=2)
    }
    assert found == {
        (told_by(one.source, None), told_by(None, one.destination), *told_by(one.source, one.destination))
        for one in host_witnesses()
    }


@given(observations)
@settings(max_examples=1000)
def test_no_observation_is_outside_the_space(seen: Observation) -> None:
    assert vector(seen) in COVERED
    assert vector(seen, Reads.ENGINE) in COVERED_ENGINES
