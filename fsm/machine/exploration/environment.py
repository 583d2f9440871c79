"""What happens at any moment without the engine: jobs go on, guests and hosts die, people intervene."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from fsm.machine.exploration import hosts
from fsm.machine.exploration.facts import Facts
from fsm.machine.exploration.hosts import DESTINATION, SOURCE, World, other
from fsm.machine.exploration.node import Kind, Next, Node, Step
from fsm.machine.observation import Merge

SIDES = (SOURCE, DESTINATION)
ADOPTION = Step(Kind.REQUEST, "adopt")


def steps(node: Node) -> Iterator[Next]:
    """Every step of the environment."""
    for name, world in accidents(node.world):
        yield Step(Kind.HOSTS, name), node._replace(world=world)
    for name, changed in meddling(node):
        if changed is not None and changed != node.world:
            yield Step(Kind.HOSTS, name), node._replace(world=changed)
    if node.decides:
        yield from _requests(node)
        yield from _adoption(node)


@cache  # many points share a world
def accidents(world: World) -> tuple[tuple[str, World], ...]:
    """What may become of the hosts."""
    return tuple((name, after) for name, after in _accidents(world) if after is not None and after != world)


def _accidents(world: World) -> Iterator[tuple[str, World | None]]:
    # None and the same world mean that it can't happen now.
    yield "the migration goes on", progress(world)
    yield "the migration fails", hosts.fail_migration(world)
    yield "the source's libvirtd dies in the switch-over", hosts.lose_migration(world)
    for side in SIDES:
        here = world.at(side)
        yield f"the commit at the {side} is ready", hosts.advance_commit(world, side)
        yield f"the commit at the {side} fails", hosts.fail_commit(world, side)
        if here.life in hosts.ACTIVE:
            yield f"the domain's process at the {side} dies", hosts.stop(world, side)
        if not here.up:
            yield f"the {side} is back", world.put(side, up=True)


def power_off(world: World, side: str) -> World:
    """A host loses its power. That it does not answer needs no such step: any look and any call may fail."""
    return hosts.stop(hosts.fail_migration(world), side).put(side, up=False)


def progress(world: World) -> World | None:
    """The migration's next step, as long as both hosts are up."""
    return hosts.advance_migration(world) if world.source.up and world.destination.up else None


def meddling(node: Node) -> Iterator[tuple[str, World | None]]:
    """What the guard is there to prevent, and what it permits although it may split the domain; at most one.

    Never at a host that was attested to be off: the word holds for the whole migration.
    """
    if not node.world.meddled:
        for side in SIDES:
            if node.world.at(side).up and not node.facts.fenced(side):
                facts = node.facts
                offline = facts.merge == Merge.NONE
                for name, world in _meddling(node.world, side, begun=facts.transfer_begun, offline=offline):
                    yield name, world and world._replace(meddled=True)


def _meddling(world: World, side: str, *, begun: bool, offline: bool) -> Iterator[tuple[str, World | None]]:
    # A domain that somebody defines at the destination after the transfer has begun can't be told from ours.
    here = world.at(side)
    if here.life == hosts.RUNNING and here.layer == hosts.OVERLAY and not here.commit and not world.job:
        yield f"somebody puts a layer on the overlay at the {side}", world.put(side, layer=hosts.FOREIGN)
        yield f"somebody takes a snapshot into the overlay at the {side}", world.put(side, altered=True)
    if side == DESTINATION:
        if here.life == hosts.NONE and not begun:
            yield "somebody defines the domain at the destination", world.put(side, life=hosts.SHUT_OFF)
        return
    if here.life == hosts.HANDED_OVER and not world.job:
        yield "somebody resumes the source's instance", hosts.resume(world, SOURCE)
    if here.life == hosts.SHUT_OFF and (offline or world.newest != SOURCE):
        started = hosts.start_paused(world, SOURCE)
        yield "somebody starts the domain at the source", started and hosts.resume(started, SOURCE)


def _adoption(node: Node) -> Iterator[Next]:
    """The journal is lost, and somebody adopts the migration from the domain's marker. Once in a history.

    ``fsm.engine.adoption`` refuses it where something goes on, or where disks are not as the marker says.
    """
    facts, world = node.facts, node.world
    sides = [side for side in SIDES if world.at(side).life != hosts.NONE and world.at(side).up]
    goes_on = world.job or any(world.at(side).commit == hosts.RUNS for side in sides)
    stranger = world.destination.life != hosts.NONE and not world.destination.marker
    if facts.adopted or goes_on or stranger or any(world.at(side).layer == hosts.FOREIGN for side in sides):
        return
    for side in sides:
        marker = world.at(side).marker
        # An incomplete marker is from a time when nothing was dropped, and when the domain was at the source.
        known = marker == hosts.COMPLETE or (marker and side == SOURCE and DESTINATION not in sides)
        if known:
            saved = marker == hosts.COMPLETE or world.source.metadata
            paused = any(world.at(one).life == hosts.PAUSED for one in sides)
            new = Facts("planned", merge=facts.merge, transfer_begun=True, saved=saved, adopted=True)
            # The journal's header says from the first moment on where the adoption leads.
            after = Node(new._replace(started_paused=paused), _inherited(world), heading_for="stuck")
            yield ADOPTION, after


def _inherited(world: World) -> World:
    """Each marker names the engine that set it."""
    for side in SIDES:
        if world.at(side).marker == hosts.COMPLETE:
            world = world.put(side, marker=hosts.INHERITED)
    return world


def _requests(node: Node) -> Iterator[Next]:
    facts, world = node.facts, node.world
    if not facts.abort_requested:
        yield Step(Kind.REQUEST, "abort"), node.idle(facts._replace(abort_requested=True))
    if (world.source.altered or world.destination.altered) and not facts.given_up:
        if facts.state == "stuck" and not facts.rescue_requested:
            yield Step(Kind.REQUEST, "rescue"), node.idle(facts._replace(rescue_requested=True))
        yield Step(Kind.REQUEST, "retry --accept-loss"), node.idle(facts._replace(given_up=True))
    for side in SIDES:
        # The word is true, and is given for one of the two at most.
        if not facts.fenced(side) and not facts.fenced(other(side)):
            fenced = facts._replace(**{f"fenced_{side}": True})  # type: ignore[arg-type]  # one of two fields
            yield Step(Kind.REQUEST, f"retry --fenced {side}"), node.idle(fenced, power_off(world, side))
