"""What must hold, each as a predicate with a name. A docstring is its sentence in reports and in the
documentation.

Here those about a point, and about a step: what it is, and what was before. True means that all is well.
``decision_invariants`` has those about decisions.
"""

from __future__ import annotations

from fsm.machine.exploration import hosts
from fsm.machine.exploration.hosts import BOTH, DESTINATION, Place
from fsm.machine.exploration.node import Node, Step
from fsm.machine.guard import permits
from fsm.machine.observation import Merge
from fsm.machine.operations import HARM, Operation
from fsm.machine.spec import Kind as StateKind
from fsm.machine.spec import Spec


def never_committed_on_two_sides(_spec: Spec, node: Node) -> bool:
    """The overlays of one migration are committed at one side only, be it at different times; unless somebody
    let the guest run at both by hand, and then never at the same time.
    """
    # The way out of a destination that is lost for good: start the source, attest, retry.
    source, destination = node.world.source, node.world.destination
    if source.commit and destination.commit:
        return False
    return not (source.written and destination.written) or node.world.newest == BOTH


def base_never_written_by_two(_spec: Spec, node: Node) -> bool:
    """No base has two writers, of guest, commit and copy; and none is written while it is being copied,
    unless somebody starts a domain that is moved shut off.
    """
    world = node.world
    copying = node.activity == "copy-bases" and node.stage == 0
    at_source, at_destination = _writers(world.source), _writers(world.destination)
    # Such a copy is never taken for a whole one: the base shows that it was written to.
    written = copying and at_source and not (world.meddled and node.facts.merge == Merge.NONE)
    return at_source <= 1 and at_destination + copying <= 1 and not written


def _writers(place: Place) -> int:
    return (place.life == hosts.RUNNING and place.layer == hosts.BASE) + bool(place.commit)


def metadata_always_recoverable(_spec: Spec, node: Node) -> bool:
    """The snapshots' metadata is at a host, or in the journal."""
    world = node.world
    return node.facts.saved or world.source.metadata or world.destination.metadata


def metadata_recoverable_without_the_journal(_spec: Spec, node: Node) -> bool:
    """The snapshots' metadata is at a host, or in the marker of a domain; it outlives a lost journal."""
    source, destination = node.world.source, node.world.destination
    marked = {source.marker, destination.marker} & {hosts.COMPLETE, hosts.INHERITED}
    return source.metadata or destination.metadata or bool(marked)


def overlay_is_marked(_spec: Spec, node: Node) -> bool:
    """A domain that stands on our overlay carries our marker."""
    return all(
        place.life == hosts.NONE or place.layer == hosts.BASE or bool(place.marker)
        for place in (node.world.source, node.world.destination)
    )


def adopted_is_marked_anew(_spec: Spec, node: Node) -> bool:
    """A commit of an adopted migration comes behind its own marker: an engine from before sees it. Where the
    guest was split by hand, the marker may be at the other side.
    """
    if node.world.newest == BOTH:
        return True
    match node.facts.state:
        case "rolling-back-source":
            return node.world.source.marker != hosts.INHERITED
        case "committing-dest":
            return node.world.destination.marker != hosts.INHERITED
    return True


def overlay_is_guarded(spec: Spec, node: Node) -> bool:
    """While a domain stands on an overlay, the guard blocks every operation that would harm it."""
    # What a host that is attested to be off keeps at the end is told; that domain is not this migration's any
    # more.
    ended = spec.states[node.facts.state].kind is StateKind.FINAL
    on_overlay = any(
        place.life != hosts.NONE and place.layer != hosts.BASE and not (ended and fenced)
        for place, fenced in (
            (node.world.source, node.facts.fenced_source),
            (node.world.destination, node.facts.fenced_destination),
        )
    )
    return not on_overlay or _guarded(spec, node.facts.state, node.heading_for)


def migration_is_not_suspended(spec: Spec, node: Node) -> bool:
    """While a migration job runs in the state that is for it, the guard blocks suspending the guest."""
    state = spec.states[node.facts.state]
    return state.name != "transferring" or not node.world.job or Operation.SUSPEND in state.blocks


def one_migration_at_a_time(spec: Spec, node: Node) -> bool:
    """Until a migration has ended, the guard blocks another one of the same domain."""
    state = spec.states[node.facts.state]
    return state.kind is StateKind.FINAL or Operation.MIGRATE in state.blocks


# To suspend a guest harms only a migration job.
HARMS_AN_OVERLAY = frozenset(HARM) - {Operation.SUSPEND}

_guards: dict[tuple[frozenset[Operation], frozenset[Operation]], bool] = {}


def _guarded(spec: Spec, state: str, heading_for: str) -> bool:
    key = (spec.states[state].blocks, spec.states[heading_for or state].blocks)
    if key not in _guards:
        _guards[key] = all(
            not permits(spec, state, operation, heading_for=heading_for or None).permitted
            for operation in HARMS_AN_OVERLAY
        )
    return _guards[key]


def writes_are_never_lost(_spec: Spec, node: Node) -> bool:
    """The host with the newest acknowledged writes has the domain and every layer that holds them."""
    world = node.world
    if world.newest == BOTH:
        return world.meddled
    home = world.at(world.newest)
    if home.life == hosts.NONE:
        return False
    return home.layer == hosts.BASE or home.overlay == hosts.DATA


def destination_stands_on_a_whole_copy(_spec: Spec, node: Node) -> bool:
    """A domain that runs at the destination has a base that is like the original."""
    return node.world.newest != DESTINATION or node.world.copy == hosts.WHOLE


def split_only_by_meddling(_spec: Spec, node: Node) -> bool:
    """The guest never runs at both hosts, unless somebody besides the engine started it there."""
    running = node.world.source.life == node.world.destination.life == hosts.RUNNING
    return not running or node.world.meddled


def states_mean_what_they_say(_spec: Spec, node: Node) -> bool:
    """Copying has bases recorded and files to fill, a transfer verified copies, a commit there a transfer
    before it.
    """
    facts = node.facts
    match facts.state:
        case "snapshotted":
            return facts.saved and bool(node.world.copy) and not facts.transfer_begun
        case "transferring":
            return facts.copies_verified or facts.adopted
        case "committing-dest" | "committed":
            return facts.transfer_begun
        case "refused":
            return not node.world.source.written
        case "rolled-back":
            return facts.planned
    return True


def end_is_clean(spec: Spec, node: Node) -> bool:
    """A final state means what it says: the domain is where it should be, whole, and nothing is left behind
    untold.
    """
    # What a host that was attested to be off keeps is told to whoever asked for the migration.
    if spec.states[node.facts.state].kind is not StateKind.FINAL:
        return True
    facts, world = node.facts, node.world
    if world.pools:
        return False
    if facts.state == "committed":
        gone = facts.fenced_source or (world.source.life == hosts.NONE and not world.source.overlay)
        return gone and facts.verified and _at_home(world.destination, told=facts.fenced_destination)
    bare = facts.fenced_destination or (not world.destination.overlay and not world.copy)
    nobody = (hosts.NONE, hosts.SHUT_OFF) if world.meddled else (hosts.NONE,)
    return bare and world.destination.life in nobody and _at_home(world.source, told=facts.fenced_source)


def _at_home(place: Place, *, told: bool) -> bool:
    return (
        place.life in (hosts.RUNNING, hosts.PAUSED, hosts.SHUT_OFF)
        and place.layer == hosts.BASE
        and not place.commit
        and (told or not place.overlay)
        and (told or not place.marker)
        and place.metadata
    )


POINTS = (
    never_committed_on_two_sides,
    base_never_written_by_two,
    metadata_always_recoverable,
    metadata_recoverable_without_the_journal,
    overlay_is_marked,
    adopted_is_marked_anew,
    overlay_is_guarded,
    one_migration_at_a_time,
    migration_is_not_suspended,
    writes_are_never_lost,
    destination_stands_on_a_whole_copy,
    split_only_by_meddling,
    states_mean_what_they_say,
    end_is_clean,
)


def no_action_after_a_lost_lease(_before: Node, step: Step, _after: Node) -> bool:
    """An engine whose lease another one has taken changes nothing on any host."""
    return step.holder == "engine" or not step.changes


STEPS = (no_action_after_a_lost_lease,)
