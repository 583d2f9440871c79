"""Two abstract hosts with one domain: what a call, a job or an accident makes of them.

The rules are those of ``fsm.hypervisor.simulated``; a test drives both side by side and compares what can be
observed. One disk stands for all: a domain with some disks on overlays and some on bases is decided on as one
on its overlay. Values are tuples of strings, since the search hashes millions of them. Every function returns
the world after it, or None when the hosts refuse and nothing has happened.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from fsm.machine.observation import BlockJob, Disk, Domain, DomainState, Host, Job, Layer

SOURCE, DESTINATION = "source", "destination"

# The life of the domain at one host.
NONE = "none"
RUNNING = "running"
PAUSED = "paused"  # started paused, for a commit
HANDED_OVER = "handed-over"  # paused by a migration; with a job: in its switch-over
INCOMING = "incoming"  # waits for its memory
SHUT_OFF = "shut-off"
ACTIVE = frozenset({RUNNING, PAUSED, HANDED_OVER, INCOMING})

BASE, OVERLAY, FOREIGN = "base", "overlay", "foreign"  # a foreign layer lies on our overlay

# A migration job, from its beginning to its end.
COPYING, SWITCHING, CONFIRMING = "copying", "switching", "confirming"

RUNS, READY = "runs", "ready"  # a block commit

EMPTY, DATA = "empty", "data"  # an overlay file
HOLE, WHOLE, OUTDATED = "hole", "whole", "outdated"  # the copied base
DIRTY = "dirty"  # a migration that merges has begun to write into it

MARKED, COMPLETE = "marked", "complete"  # the marker in the domain's metadata
INHERITED = "inherited"  # a complete one, of the engine before an adoption
BOTH = "both"  # acknowledged writes lie on either side: split brain


class Place(NamedTuple):
    """What one host has. ``overlay`` and ``commit`` are empty when there is none.

    ``metadata``: the snapshots are defined here. ``written``: a commit has written into the base here.
    ``altered``: somebody put something into the overlay that its commit would destroy. ``marker`` is what the
    domain's own metadata says; complete, with the snapshots' metadata.
    """

    life: str = NONE
    layer: str = BASE
    commit: str = ""
    overlay: str = ""
    metadata: bool = False
    written: bool = False
    marker: str = ""
    altered: bool = False
    up: bool = True


class World(NamedTuple):
    """Both hosts, and what is true although no host tells it.

    ``copy`` is the base's copy at the destination, empty when there is none; ``newest`` says where the
    acknowledged writes are. ``asked``: libvirt was asked to migrate. ``meddled``: somebody did what the guard
    is there to prevent.
    """

    source: Place = Place(RUNNING, metadata=True)
    destination: Place = Place()
    job: str = ""
    copy: str = ""
    newest: str = SOURCE
    pools: bool = False
    asked: bool = False
    meddled: bool = False

    def at(self, side: str) -> Place:
        """One of the two hosts."""
        return self.source if side == SOURCE else self.destination

    def put(self, side: str, **changes: object) -> World:
        """The world with changes at one host."""
        place = self.at(side)._replace(**changes)  # type: ignore[arg-type]  # NamedTuple's own signature
        return self._replace(source=place) if side == SOURCE else self._replace(destination=place)


def other(side: str) -> str:
    """The opposite side."""
    return DESTINATION if side == SOURCE else SOURCE


def _idle(world: World, side: str) -> bool:
    """No migration holds the domain here."""
    return world.at(side).life != INCOMING and not (side == SOURCE and world.job)


# Calls of the port


def create_overlays(world: World) -> World | None:
    """The overlay becomes the source's active layer."""
    here = world.source
    if here.life == NONE or here.layer == FOREIGN:
        return None
    if here.layer == OVERLAY:
        return world
    if not _idle(world, SOURCE) or here.commit or here.overlay:
        return None
    return world.put(SOURCE, layer=OVERLAY, overlay=DATA)


def mark(world: World, side: str, marker: str) -> World | None:
    """Write the marker into the domain's metadata, or remove it."""
    if world.at(side).life == NONE or not _idle(world, side):
        return None
    return world.put(side, marker=marker)


def forget_snapshots(world: World) -> World | None:
    """Drop the metadata at the source."""
    if world.source.life == NONE or not _idle(world, SOURCE):
        return None
    return world.put(SOURCE, metadata=False)


def define_snapshots(world: World, side: str) -> World | None:
    """Define the metadata."""
    if world.at(side).life == NONE or not _idle(world, side):
        return None
    return world.put(side, metadata=True)


def begin_migration(world: World, *, mirror: bool = False) -> World | None:
    """The destination's instance appears and waits: on its overlay, or (``mirror``) on the copied base."""
    here, there = world.source, world.destination
    # A domain that is paused could migrate too; it would have to be paused again behind a failure.
    ready = here.life == RUNNING and not here.commit and not here.metadata and not world.job
    ready = ready and not here.altered  # libvirt knows that snapshot
    if not ready or there.life != NONE or world.copy in ("", HOLE):
        return None
    if not mirror and not there.overlay:
        return None
    if not (here.up and there.up):
        return None
    begun = world._replace(job=COPYING, asked=True, copy=DIRTY if mirror else world.copy)
    layer = BASE if mirror else OVERLAY
    return begun.put(DESTINATION, life=INCOMING, layer=layer, marker=here.marker)


def define_shut_off(world: World) -> World | None:
    """Define a domain that is shut off at the destination as well; its base was looked at just before."""
    here, there = world.source, world.destination
    if here.life != SHUT_OFF or here.layer != BASE or there.life != NONE or world.copy != WHOLE:
        return None
    if not (here.up and there.up):
        return None
    # The two are alike; what is written from now on would be written there.
    arrived = world._replace(newest=DESTINATION, asked=True)
    return arrived.put(DESTINATION, life=SHUT_OFF, marker=here.marker)


def abort_migration(world: World) -> World | None:
    """End the job while the destination has not run; later it can't be aborted."""
    return None if world.job == CONFIRMING else fail_migration(world)


def start_commit(world: World, side: str) -> World | None:
    """Begin to commit the overlay, unless that is done or under way."""
    here = world.at(side)
    if here.life not in ACTIVE or here.layer == FOREIGN:
        return None
    if here.commit or here.layer == BASE:
        return world
    if not _idle(world, side):
        return None
    return _base_written(world.put(side, commit=RUNS, written=True), side)


def pivot(world: World, side: str) -> World | None:
    """The base becomes the active layer."""
    if world.at(side).life not in ACTIVE or world.at(side).commit != READY:
        return None
    return world.put(side, commit="", layer=BASE, altered=False)


def start_paused(world: World, side: str) -> World | None:
    """Start the defined domain, paused."""
    here = world.at(side)
    if here.life in ACTIVE:
        return world
    if (
        here.life == NONE
        or (here.layer != BASE and not here.overlay)
        or (side == DESTINATION and not world.copy)
    ):
        return None
    return world.put(side, life=PAUSED)


def resume(world: World, side: str) -> World | None:
    """Let the guest run."""
    here = world.at(side)
    if here.life == RUNNING:
        return world
    if here.life not in ACTIVE or not _idle(world, side):
        return None
    return _run(world, side)


def _run(world: World, side: str) -> World:
    newest = world.newest if world.newest == side else BOTH
    running = world._replace(newest=newest).put(side, life=RUNNING)
    return _base_written(running, side) if running.at(side).layer == BASE else running


def _base_written(world: World, side: str) -> World:
    """What is written into the source's base makes its copy an old one."""
    return world._replace(copy=OUTDATED) if side == SOURCE and world.copy == WHOLE else world


def stop(world: World, side: str) -> World:
    """The domain's process ends, for whatever reason; its definition stays."""
    here = world.at(side)
    if here.life == INCOMING:
        return fail_migration(world)
    if here.life not in ACTIVE:
        return world
    after = fail_migration(world) if side == SOURCE and world.job else world
    return after.put(side, life=SHUT_OFF, commit="")


def undefine(world: World, side: str) -> World | None:
    """Remove the definition of a shut-off domain without snapshots."""
    here = world.at(side)
    if here.life == NONE:
        return world
    if here.life != SHUT_OFF or here.metadata or here.altered:
        return None
    return world.put(side, life=NONE, layer=BASE, marker="")


# Jobs


def advance_migration(world: World) -> World | None:
    """One step: the source pauses; the destination runs; the source learns of it and goes."""
    if world.job == COPYING:
        return world._replace(job=SWITCHING).put(SOURCE, life=HANDED_OVER)
    if world.job == SWITCHING:
        arrived = world._replace(job=CONFIRMING, newest=DESTINATION)
        if world.destination.layer == BASE:
            return arrived._replace(copy=WHOLE).put(DESTINATION, life=RUNNING)
        return arrived.put(DESTINATION, life=RUNNING, overlay=DATA)
    if world.job == CONFIRMING:
        return world._replace(job="").put(SOURCE, life=NONE, layer=BASE, commit="", metadata=False, marker="")
    return None


def fail_migration(world: World) -> World:
    """The job ends before its time: the source runs on, unless the destination runs already."""
    if not world.job:
        return world
    ended = world._replace(job="")
    if world.job == CONFIRMING:
        return ended
    return ended.put(SOURCE, life=RUNNING).put(DESTINATION, life=NONE, layer=BASE, marker="")


def lose_migration(world: World) -> World:
    """The source's libvirtd dies in the switch-over: nobody lets the source run on."""
    ended = fail_migration(world)
    return ended.put(SOURCE, life=HANDED_OVER) if world.job == SWITCHING else ended


def advance_commit(world: World, side: str) -> World | None:
    """The commit becomes ready."""
    return world.put(side, commit=READY) if world.at(side).commit == RUNS else None


def fail_commit(world: World, side: str) -> World | None:
    """The commit is gone; the overlay stays the active layer."""
    return world.put(side, commit="") if world.at(side).commit else None


# What can be observed


_STATES = {
    RUNNING: (DomainState.RUNNING, "booted"),
    PAUSED: (DomainState.PAUSED, "user"),
    HANDED_OVER: (DomainState.PAUSED, "migration"),
    INCOMING: (DomainState.PAUSED, "migration"),
    SHUT_OFF: (DomainState.SHUT_OFF, "shutdown"),
}
_LAYERS = {BASE: Layer.BASE, OVERLAY: Layer.OVERLAY, FOREIGN: Layer.FOREIGN}


@cache
def view(
    life: str,
    layer: str,
    commit: str,
    metadata: bool,  # noqa: FBT001  # parts of a key
    altered: bool,  # noqa: FBT001
    migrates: bool,  # noqa: FBT001
) -> Host:
    """A host that answers, in the machine's terms."""
    if life == NONE:
        return Host(reachable=True)
    state, reason = _STATES[life]
    job = Job.MIGRATION_IN if life == INCOMING else Job.MIGRATION_OUT if migrates else Job.NONE
    block_job = BlockJob("active-commit", commit == READY) if commit else None
    # While a migration job runs, nobody looks into the overlay.
    stored = ("theirs",) if altered and layer == OVERLAY and job is Job.NONE else ()
    disks = (Disk("vda", _LAYERS[layer], block_job=block_job, stored=stored),)
    snapshots = (*(("s1",) if metadata else ()), *(("theirs",) if altered else ()))
    current = snapshots[-1] if snapshots else None
    return Host(reachable=True, domain=Domain(state, reason, job, disks, snapshots, current))


def seen(world: World, side: str) -> Host:
    """What a look at this host shows, if it answers and nothing in an overlay was given up."""
    here = world.at(side)
    migrates = side == SOURCE and bool(world.job)
    return view(here.life, here.layer, here.commit, here.metadata, here.altered, migrates)
