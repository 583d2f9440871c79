"""What each activity does step by step, with every way that it may fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from fsm.machine.exploration import hosts
from fsm.machine.exploration.hosts import DESTINATION, SOURCE, World
from fsm.machine.exploration.node import Kind, Next, Node, Step
from fsm.machine.observation import Merge

Activity = Callable[[Node], Iterator[Next]]

LOST = "the answer got lost"
FAILED = "it failed and nothing has happened"
HALFWAY = "it failed and left something behind"


def done(node: Node, **facts: object) -> Next:
    """The activity's outcome: it succeeded."""
    told = node.facts._replace(failed=False, **facts)  # type: ignore[arg-type]  # NamedTuple's own signature
    return Step(Kind.END, node.activity), node.idle(told)


def failed(node: Node, error: str) -> Next:
    """The activity's outcome: it failed."""
    return Step(Kind.END, node.activity, error), node.idle(node.facts._replace(failed=True))


def _goes_on(node: Node, name: str, world: World | None, stage: int) -> Iterator[Next]:
    """A call that changes a host, or is refused; either way its answer may get lost."""
    if world is None:
        return
    after = node._replace(world=world)
    yield Step(Kind.CALL, name, changes=True), after._replace(stage=stage)
    step, lost = failed(after, LOST)
    yield step._replace(changes=True), lost


def _preflight(node: Node) -> Iterator[Next]:
    # It puts back what it had to open, but that may fail.
    node = node._replace(world=node.world._replace(pools=True))
    yield failed(node, FAILED)
    yield done(node, preflight="refused")
    for merge in fit(node.world):
        yield done(node, preflight="passed", merge=merge.value)


def fit(world: World) -> tuple[Merge, ...]:
    """The ways of merging that are possible where preflight has nothing to find fault with."""
    here, there = world.source, world.destination
    fine = here.up and here.layer == hosts.BASE and here.metadata
    if not fine or not there.up or there.life != hosts.NONE or there.overlay or world.copy:
        return ()
    if here.life == hosts.SHUT_OFF:
        return (Merge.NONE,)
    return (Merge.COMMIT, Merge.MIRROR) if here.life == hosts.RUNNING else ()


def _copy_bases(node: Node) -> Iterator[Next]:
    world = node.world
    yield failed(node, FAILED)
    if node.stage == 1:
        yield done(node, copies_verified=True)
    elif world.copy and world.source.up and world.destination.up:
        here = world.source
        still = here.life == hosts.SHUT_OFF or (here.layer != hosts.BASE and not here.commit)
        copied = world._replace(copy=hosts.WHOLE if still else hosts.OUTDATED)
        yield from _goes_on(node, "copy and compare", copied, 1)


def _migrate(node: Node) -> Iterator[Next]:
    world = node.world
    yield failed(node, FAILED)
    if node.facts.merge == Merge.NONE:
        yield from _move_definition(node)
        return
    mirror = node.facts.merge == Merge.MIRROR
    if node.stage == 0 and not world.job:
        yield from _goes_on(node, "migrate", hosts.begin_migration(world, mirror=mirror), 1)
        return
    if node.stage == 0:
        yield Step(Kind.CALL, "watch the job that runs"), node._replace(stage=1)
        return
    if not world.job:
        yield done(node)
    elif world.source.up:
        yield from _goes_on(node, "abort the job", hosts.abort_migration(world), 1)


def _move_definition(node: Node) -> Iterator[Next]:
    if node.stage == 0:
        yield from _goes_on(node, "define at the destination", hosts.define_shut_off(node.world), 1)
    else:
        yield done(node)


# The stages of a commit.
LOOK, START, BEGIN, READY, STOP, END = range(6)


def _commit(side: str, node: Node) -> Iterator[Next]:
    world, here = node.world, node.world.at(side)
    yield from _give_up(node, side)
    if not here.up or (here.life == hosts.NONE and node.stage != END):
        return
    if node.stage == LOOK and here.life == hosts.SHUT_OFF:
        noted = node.facts._replace(started_paused=True)
        yield Step(Kind.NOTE, "start-paused"), node._replace(facts=noted, stage=START)
    elif node.stage == LOOK:
        yield Step(Kind.CALL, "look"), node._replace(stage=BEGIN)
    elif node.stage == START:
        yield from _goes_on(node, "start paused", hosts.start_paused(world, side), BEGIN)
    elif node.stage in (BEGIN, READY) and _altered(node, side):
        return
    elif node.stage == BEGIN:
        yield from _goes_on(node, "begin the commit", hosts.start_commit(world, side), READY)
    elif node.stage == READY and here.life in hosts.ACTIVE:
        pivoted = world if here.layer == hosts.BASE else hosts.pivot(world, side)
        yield from _goes_on(node, "pivot", pivoted, STOP)
    elif node.stage == STOP:
        yield from _stop_again(node, side)
    elif node.stage == END:
        yield done(node)


def _altered(node: Node, side: str) -> bool:
    """Whether a last look shows something in the overlay that a commit would destroy."""
    return node.world.at(side).altered and not node.facts.given_up


def _stop_again(node: Node, side: str) -> Iterator[Next]:
    if not node.facts.started_paused:
        yield Step(Kind.CALL, "look"), node._replace(stage=END)
        return
    if node.world.at(side).life == hosts.PAUSED:
        yield Step(Kind.CALL, "stop again", changes=True), node._replace(world=_stopped(node.world, side))
        return
    noted = node.facts._replace(started_paused=False)
    yield Step(Kind.NOTE, "start-paused"), node._replace(facts=noted, stage=END)


def _stopped(world: World, side: str) -> World:
    return hosts.stop(world, side) if world.at(side).life == hosts.PAUSED else world


def _give_up(node: Node, side: str) -> Iterator[Next]:
    """The commit fails: what was started for it is stopped again, where the host answers."""
    yield failed(node, FAILED)
    if node.facts.started_paused and node.world.at(side).up:
        noted = node.facts._replace(started_paused=False)
        step, after = failed(node._replace(facts=noted, world=_stopped(node.world, side)), FAILED)
        yield step._replace(changes=True), after


def _rescue(node: Node) -> Iterator[Next]:
    world = node.world
    yield _rescued(failed(node, FAILED))
    home = DESTINATION if world.destination.life != hosts.NONE else SOURCE
    if node.stage == 1:
        yield _rescued(done(node))
    elif world.at(home).up and world.at(home).altered:
        noted = node.facts._replace(given_up=True)
        yield Step(Kind.NOTE, "rescue-snapshot"), node._replace(facts=noted, stage=1)


def _rescued(following: Next) -> Next:
    """Asked for once, tried once."""
    step, after = following
    return step, after._replace(facts=after.facts._replace(rescue_requested=False))


ACTIVITIES: Mapping[str, Activity] = {
    "preflight": _preflight,
    "copy-bases": _copy_bases,
    "migrate": _migrate,
    "commit-at-destination": partial(_commit, DESTINATION),
    "commit-at-source": partial(_commit, SOURCE),
    "rescue-snapshots": _rescue,
}
COMMITS: Mapping[str, str] = {"commit-at-destination": DESTINATION, "commit-at-source": SOURCE}
