"""What must hold of every decision: what was seen, and what the machine makes of it.

As in ``invariants``, each is a predicate with a name and a sentence. ``ANSWERS`` are about what is seen and
what is decided then, wherever that is; ``DECISIONS`` also about what is true although nobody sees it.
"""

from __future__ import annotations

from fsm.machine.conditions import CONDITIONS
from fsm.machine.exploration import hosts
from fsm.machine.exploration.activities import COMMITS
from fsm.machine.exploration.engine import Verdict
from fsm.machine.exploration.hosts import BOTH, DESTINATION, SOURCE, other
from fsm.machine.exploration.node import Node
from fsm.machine.observation import Host, Layer, Observation, Preflight
from fsm.machine.spec import Kind as StateKind
from fsm.machine.spec import Spec


def never_commits_beside_an_unknown(node: Node, seen: Observation, verdict: Verdict) -> bool:
    """No commit is begun or gone on with while the other side is unknown, not fenced, and may have the
    domain.
    """
    side = COMMITS.get(verdict.activity)
    if side is None:
        return True
    host = seen.source if side == DESTINATION else seen.destination
    unknown = not host.reachable and not host.fenced
    return not unknown or (side == SOURCE and not node.world.asked)


def never_commits_while_both_run(node: Node, _seen: Observation, verdict: Verdict) -> bool:
    """No commit is begun or gone on with while the guest also runs at the other side."""
    side = COMMITS.get(verdict.activity)
    return side is None or node.world.at(other(side)).life != hosts.RUNNING


def never_commits_old_data(node: Node, _seen: Observation, verdict: Verdict) -> bool:
    """A commit is begun only at the side that has the newest acknowledged writes."""
    side = COMMITS.get(verdict.activity)
    return side is None or node.world.newest == side or node.world.newest == BOTH


def waiting_ends(spec: Spec, state: str, seen: Observation, verdict: Verdict) -> bool:
    """Outside a stable state nobody waits on when the state's time is up."""
    waits = verdict.taken is None and not verdict.activity
    return not (waits and seen.engine.overdue) or spec.states[state].kind is StateKind.STABLE


def stops_for_a_reason(spec: Spec, _state: str, seen: Observation, verdict: Verdict) -> bool:
    """Stuck only when time is up, no attempt is left, or what is seen can't be explained; not for one missed
    look.
    """
    if verdict.taken is None or spec.states[verdict.taken.dest].kind is not StateKind.STABLE:
        return True
    engine = seen.engine
    if (
        engine.overdue
        or verdict.taken.trigger == "adopt"
        or (engine.step_failed and not engine.attempts_left)
    ):
        return True
    names = (*TELLING, "source-altered", "destination-altered")
    if any(CONDITIONS[name].holds(seen) for name in names) or seen.source.fenced or seen.destination.fenced:
        return True
    unread = _unread(seen.source) or _unread(seen.destination)
    return verdict.taken.trigger == "find-unexpected" and not unread


# What this migration can't have made.
TELLING = ("source-foreign", "destination-foreign", "both-run", "domain-missing")


def _unread(host: Host) -> bool:
    return not host.reachable and not host.fenced


def begins_only_what_can_move(_spec: Spec, _state: str, seen: Observation, verdict: Verdict) -> bool:
    """A domain is put on an overlay only while it is active and the destination is free for it."""
    if not _makes_overlay(seen, verdict):
        return True
    domain = seen.source.domain
    free = seen.destination.reachable and seen.destination.domain is None
    return domain is not None and domain.active and free


def no_attempt_left_ends_trying(node: Node, seen: Observation, verdict: Verdict) -> bool:
    """When no attempt is left nothing is tried again; a job that runs is watched on."""
    used_up = seen.engine.step_failed and not seen.engine.attempts_left
    # What failed may have been the way back from a shortage that is over.
    first = verdict.activity == "migrate" and not node.facts.begun
    return not used_up or first or not _begins(node, seen, verdict)


def time_up_ends_trying(_spec: Spec, _state: str, seen: Observation, verdict: Verdict) -> bool:
    """When a state's time is up no copy and no commit is begun, and no overlay made."""
    tries = verdict.activity == "copy-bases" or verdict.activity in COMMITS or _makes_overlay(seen, verdict)
    return not (seen.engine.overdue and tries)


def abort_begins_nothing(node: Node, seen: Observation, verdict: Verdict) -> bool:
    """Once an abort was asked for, nothing is begun that the way back does not need."""
    asked = seen.engine.abort_requested and verdict.activity not in COMMITS
    return not asked or not _begins(node, seen, verdict)


def shortage_begins_nothing(node: Node, seen: Observation, verdict: Verdict) -> bool:
    """Once space gets short, nothing is begun that the way back does not need."""
    short = seen.engine.space_short and verdict.activity not in COMMITS
    return not short or not _begins(node, seen, verdict)


def _begins(node: Node, seen: Observation, verdict: Verdict) -> bool:
    actions = verdict.taken.actions if verdict.taken else ()
    # What was asked for by name is done, and a job that runs is watched on.
    goes_on = verdict.activity == "rescue-snapshots" or (verdict.activity == "migrate" and node.world.job)
    begins_activity = bool(verdict.activity) and not goes_on
    return begins_activity or "create-destination-overlays" in actions or _makes_overlay(seen, verdict)


def _makes_overlay(seen: Observation, verdict: Verdict) -> bool:
    """Whether a domain comes to stand on an overlay that does not; to finish what was begun is another
    matter.
    """
    if verdict.taken is None or "create-source-overlays" not in verdict.taken.actions:
        return False
    domain = seen.source.domain
    return domain is None or any(disk.layer is Layer.BASE for disk in domain.disks)


def unexplained_is_not_waited_for(spec: Spec, state: str, seen: Observation, verdict: Verdict) -> bool:
    """Where both hosts are known and show what this migration can't have made, nobody waits for it to go
    away.
    """
    waits = verdict.taken is None and not verdict.activity
    if not waits or spec.states[state].kind is StateKind.STABLE:
        return True
    migrates = CONDITIONS["source-migrating"].holds(seen)
    read = not (_unread(seen.source) or _unread(seen.destination) or migrates)
    return not (read and any(CONDITIONS[name].holds(seen) for name in TELLING))


def split_brain_stops(spec: Spec, _state: str, seen: Observation, verdict: Verdict) -> bool:
    """Where the guest is seen to run at both hosts, nothing is done but to stop."""
    if not CONDITIONS["both-run"].holds(seen):
        return True
    return not verdict.activity and (verdict.taken is None or _stable(spec, verdict.taken.dest))


def unknown_leads_to_nothing_else(spec: Spec, _state: str, seen: Observation, verdict: Verdict) -> bool:
    """Once the transfer has begun, nothing is decided beside an unknown host but to stop."""
    known = not (_unread(seen.source) or _unread(seen.destination))
    if known or verdict.taken is None or not seen.engine.transfer_begun:
        return True
    return _stable(spec, verdict.taken.dest) or CONDITIONS["source-migrating"].holds(seen)


def failed_commit_stops(spec: Spec, state: str, seen: Observation, verdict: Verdict) -> bool:
    """A commit that has no attempt left leads to a stop."""
    used_up = seen.engine.step_failed and not seen.engine.attempts_left
    commits = spec.states[state].activity in COMMITS
    return not (used_up and commits) or verdict.taken is None or _stable(spec, verdict.taken.dest)


def _stable(spec: Spec, state: str) -> bool:
    return spec.states[state].kind is StateKind.STABLE


def names_its_reason(_spec: Spec, _state: str, seen: Observation, verdict: Verdict) -> bool:
    """What is called an abort was asked for, what is called lost was waited for, a split was seen."""
    demanded = REASONS.get(verdict.taken.trigger if verdict.taken else "")
    return demanded is None or CONDITIONS[demanded].holds(seen)


REASONS = {
    "abort": "abort-requested",
    "lose-sight": "overdue",
    "find-split-brain": "both-run",
    "stop-domain": "source-stopped",
    "run-short": "space-short",
    "retry": "retry-due",
    "adopt": "adopted",
}


def alterations_are_not_committed(node: Node, seen: Observation, verdict: Verdict) -> bool:
    """No commit and no transfer is begun where the overlay shows what it would destroy."""
    side = SOURCE if verdict.activity == "migrate" else COMMITS.get(verdict.activity)
    if side is None or node.world.job:
        return True
    return not CONDITIONS[f"{side}-altered"].holds(seen)


def foreign_layers_are_left_alone(node: Node, seen: Observation, verdict: Verdict) -> bool:
    """No commit and no transfer is begun where a layer lies that this migration did not make."""
    side = SOURCE if verdict.activity == "migrate" else COMMITS.get(verdict.activity)
    if side is None or node.world.job:
        return True
    return not CONDITIONS[f"{side}-foreign"].holds(seen)


def bases_are_copied_once(_spec: Spec, _state: str, seen: Observation, verdict: Verdict) -> bool:
    """What was copied and verified is not copied again."""
    return not (verdict.activity == "copy-bases" and seen.engine.copies_verified)


def failing_actions_end(spec: Spec, state: str, seen: Observation, verdict: Verdict) -> bool:
    """Actions that have failed are not tried on for ever: a stop comes when the state's time is up."""
    failing = seen.engine.step_failed and seen.engine.overdue and verdict.taken and verdict.taken.actions
    if not failing or verdict.taken is None or _stable(spec, state):
        return True
    # Those of a refusal fail at nothing: what can't be put back is told.
    return _stable(spec, verdict.taken.dest) or seen.engine.preflight is not Preflight.PASSED


def alterations_stop(spec: Spec, state: str, seen: Observation, verdict: Verdict) -> bool:
    """Once a migration has started: where its domain is at one side, and altered, only a stop is taken up."""
    if verdict.taken is None or state == spec.initial:
        return True
    altered = any(
        CONDITIONS[f"owned-by-{side}"].holds(seen) and CONDITIONS[f"{side}-altered"].holds(seen)
        for side in (SOURCE, DESTINATION)
    )
    # From the transfer it may have to be looked for at the destination first: that is where it stops.
    return not altered or verdict.taken.dest == "committing-dest" or _stable(spec, verdict.taken.dest)


def rescue_is_done_when_asked(spec: Spec, state: str, seen: Observation, verdict: Verdict) -> bool:
    """Snapshots in an overlay are saved if that is asked for and the domain is known to be at one side."""
    can = any(
        all(CONDITIONS[f"{side}-{what}"].holds(seen) for what in ("untangled", "altered"))
        and CONDITIONS[f"owned-by-{side}"].holds(seen)
        for side in (SOURCE, DESTINATION)
    )
    wanted = can and seen.engine.rescue_requested and _stable(spec, state)
    return wanted == (verdict.activity == "rescue-snapshots")


ANSWERS = (
    alterations_stop,
    rescue_is_done_when_asked,
    bases_are_copied_once,
    failing_actions_end,
    begins_only_what_can_move,
    time_up_ends_trying,
    unexplained_is_not_waited_for,
    split_brain_stops,
    unknown_leads_to_nothing_else,
    failed_commit_stops,
    names_its_reason,
    waiting_ends,
    stops_for_a_reason,
)
DECISIONS = (
    alterations_are_not_committed,
    foreign_layers_are_left_alone,
    no_attempt_left_ends_trying,
    abort_begins_nothing,
    shortage_begins_nothing,
    never_commits_beside_an_unknown,
    never_commits_while_both_run,
    never_commits_old_data,
)
