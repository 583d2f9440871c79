"""What each action makes of the abstract hosts: one line each, bound by name as in the engine.

An effect returns the facts that its outcome record adds up to and the world, or None when it fails and
nothing has happened. That a host does not answer is not its business: the steps around it see to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from fsm.machine.exploration import hosts
from fsm.machine.exploration.facts import Facts
from fsm.machine.exploration.hosts import DESTINATION, SOURCE, World
from fsm.machine.observation import Merge

After = tuple[Facts, World] | None
Change = Callable[[World], World | None]


class Effect(NamedTuple):
    """``side`` is the host that the action has to reach, empty where it gets by without.

    ``leaves_fenced``: it leaves a host alone that is attested to be off, and succeeds. ``halfway`` is what it
    may leave behind when it fails; None: all or nothing.
    """

    side: str
    apply: Callable[[Facts, World], After]
    leaves_fenced: bool = False
    halfway: Change | None = None


def _on_hosts(change: Change, facts: Facts, world: World) -> After:
    after = change(world)
    return None if after is None else (facts, after)


def _call(side: str, change: Change) -> Effect:
    """An action that needs nothing but the hosts."""
    return Effect(side, partial(_on_hosts, change))


def _leave_overlay_file(world: World) -> World | None:
    """libvirt makes all overlays the active layers, or none; a file may be left in either case."""
    here = world.source
    made = here.life != hosts.NONE and here.layer == hosts.BASE and not here.overlay
    return world.put(SOURCE, overlay=hosts.DATA) if made else None


def _save_bases(facts: Facts, world: World) -> After:
    here = world.source
    altered = here.altered and here.layer == hosts.OVERLAY and not facts.given_up
    if here.life == hosts.NONE or world.job or altered:
        return None
    # What is there now is what counts: recorded after the metadata is gone, it would be gone for good.
    return facts._replace(saved=world.source.metadata), world


def _create_copies(facts: Facts, world: World) -> After:
    if not facts.saved or world.copy:
        return facts, world
    return facts, world._replace(copy=hosts.HOLE)


def _create_destination_overlays(facts: Facts, world: World) -> After:
    if facts.merge != Merge.COMMIT:
        return facts, world
    # They get the size that the disk has by now, which is read from the source's overlay.
    readable = facts.saved and bool(world.source.overlay)
    return (facts, world.put(DESTINATION, overlay=hosts.EMPTY)) if readable else None


def _forget_snapshots(facts: Facts, world: World) -> After:
    """Never what the journal does not have."""
    if (world.source.metadata and not facts.saved) or world.source.altered:
        return None
    return _on_hosts(hosts.forget_snapshots, facts, world)


def _restore_snapshots(side: str, facts: Facts, world: World) -> After:
    after = hosts.define_snapshots(world, side)
    if after is None:
        return None
    return facts, after if facts.saved else world


def _verify_snapshots(facts: Facts, world: World) -> After:
    there = world.destination
    if there.life == hosts.NONE or (facts.saved and not there.metadata):
        return None
    return facts._replace(verified=True), world


def _resume_source(world: World) -> World | None:
    return hosts.resume(world, SOURCE) if world.source.life == hosts.HANDED_OVER else world


def _destroy_source(world: World) -> World | None:
    if world.source.life in (hosts.NONE, hosts.SHUT_OFF):
        return world
    paused = world.source.life in (hosts.HANDED_OVER, hosts.PAUSED)
    return hosts.stop(world, SOURCE) if paused else None


def _remove_overlays(side: str, facts: Facts, world: World) -> After:
    here = world.at(side)
    if side == SOURCE and not facts.saved and here.life in hosts.ACTIVE and here.layer != hosts.BASE:
        return None  # QEMU itself is asked
    if here.altered and not facts.given_up:
        return facts, world  # it is left behind, and told
    # Of a domain that is shut off only the active layer is known to be in use.
    used = here.layer != hosts.BASE if here.life in hosts.ACTIVE else here.layer == hosts.OVERLAY
    if used and here.life != hosts.NONE:
        return None
    return facts, world.put(side, overlay="", altered=False)


def _cancel_commits(world: World, side: str) -> World | None:
    return world.put(side, commit="")


def _remove_copies(facts: Facts, world: World) -> After:
    there = world.destination
    # Of a domain that is shut off only the active layer is known to be in use.
    used = there.life in hosts.ACTIVE or (there.life == hosts.SHUT_OFF and there.layer == hosts.BASE)
    return None if world.copy and used else (facts, world._replace(copy=""))


def _mark(side: str, facts: Facts, world: World) -> After:
    """The marker says what the journal knows by now."""
    wanted = hosts.COMPLETE if facts.saved and world.copy else hosts.MARKED
    if world.at(side).marker == wanted:
        return facts, world
    return _on_hosts(partial(hosts.mark, side=side, marker=wanted), facts, world)


def _unmark(side: str, facts: Facts, world: World) -> After:
    if world.at(side).life == hosts.NONE:
        return facts, world
    return _on_hosts(partial(hosts.mark, side=side, marker=""), facts, world)


EFFECTS: Mapping[str, Effect] = {
    "mark-source": Effect(SOURCE, partial(_mark, SOURCE)),
    "complete-marker": Effect(SOURCE, partial(_mark, SOURCE)),
    "mark-destination": Effect(DESTINATION, partial(_mark, DESTINATION)),
    "unmark-source": Effect(SOURCE, partial(_unmark, SOURCE), leaves_fenced=True),
    "unmark-destination": Effect(DESTINATION, partial(_unmark, DESTINATION), leaves_fenced=True),
    "create-source-overlays": _call(SOURCE, hosts.create_overlays)._replace(halfway=_leave_overlay_file),
    "save-bases": Effect(SOURCE, _save_bases),
    "create-copies": Effect(DESTINATION, _create_copies),
    "remove-source-overlays": Effect(SOURCE, partial(_remove_overlays, SOURCE), leaves_fenced=True),
    "create-destination-overlays": Effect(DESTINATION, _create_destination_overlays),
    "remove-destination-overlays": Effect(
        DESTINATION, partial(_remove_overlays, DESTINATION), leaves_fenced=True
    ),
    "remove-copies": Effect(DESTINATION, _remove_copies, leaves_fenced=True),
    "forget-source-snapshots": Effect(SOURCE, _forget_snapshots),
    "restore-source-snapshots": Effect(SOURCE, partial(_restore_snapshots, SOURCE)),
    "restore-destination-snapshots": Effect(DESTINATION, partial(_restore_snapshots, DESTINATION)),
    "verify-destination-snapshots": Effect(DESTINATION, _verify_snapshots),
    "cancel-source-commits": _call(SOURCE, partial(_cancel_commits, side=SOURCE)),
    "cancel-destination-commits": _call(DESTINATION, partial(_cancel_commits, side=DESTINATION)),
    "resume-source": _call(SOURCE, _resume_source),
    "destroy-source-instance": _call(SOURCE, _destroy_source),
    "undefine-source": _call(SOURCE, partial(hosts.undefine, side=SOURCE))._replace(leaves_fenced=True),
    # Nobody looks at the source's base any more; what can't be removed stays, and is told.
    "remove-source-bases": _call("", lambda world: world),
    # A pull that has begun goes on by itself; one that has not is told.
    "flatten-destination": _call("", lambda world: world),
    # How fast a guest writes decides nothing.
    "lift-source-throttle": _call(SOURCE, lambda world: world)._replace(leaves_fenced=True),
    "lift-destination-throttle": _call(DESTINATION, lambda world: world)._replace(leaves_fenced=True),
    "release-pools": _call("", lambda world: world._replace(pools=False)),
}
