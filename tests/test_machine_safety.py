"""Safety of what is decided, over everything that can be observed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from attrs import frozen

from fsm.machine.conditions import CONDITIONS
from fsm.machine.decision import Decision, Verb, decide
from fsm.machine.interpreter import Interpreter
from fsm.machine.loader import load_default
from fsm.machine.observation import (
    Activity,
    DomainState,
    Engine,
    Host,
    Job,
    Layer,
    Merge,
    Observation,
    Preflight,
)
from fsm.machine.spec import Row
from tests.machine_helpers import space

SPEC = load_default()
INTERPRETER = Interpreter(SPEC)
LIVE = [name for name in SPEC.states if not SPEC.is_final(name)]
OVERLAY_EXISTS = [name for name in LIVE if name != "planned"]


@frozen
class Case:
    """Something observable in a state, what is decided on it, and the row taken if a trigger is fired."""

    state: str
    seen: Observation
    decision: Decision
    row: Row | None

    @property
    def source(self) -> Host:
        return self.seen.source

    @property
    def destination(self) -> Host:
        return self.seen.destination

    @property
    def engine(self) -> Engine:
        return self.seen.engine

    def continues(self) -> bool:
        return self.decision.verb is Verb.CONTINUE

    def does(self, action: str) -> bool:
        return self.row is not None and action in self.row.actions

    def leads_to(self, state: str) -> bool:
        return self.row is not None and self.row.dest == state

    def holds(self, *names: str) -> bool:
        return all(CONDITIONS[name].holds(self.seen) for name in names)


def taken(state: str, seen: Observation, decision: Decision) -> Row | None:
    fires = decision.verb is Verb.FIRE
    return INTERPRETER.fire(state, decision.trigger, seen) if fires else None


@cache
def everything(state: str) -> tuple[Case, ...]:
    cases = []
    for seen in space(SPEC, state, "transfer-begun", "abort-requested", "copies-verified"):
        decision = decide(SPEC, state, seen)
        cases.append(Case(state, seen, decision, taken(state, seen, decision)))
    return tuple(cases)


def where(chosen: Callable[[Case], bool], *states: str) -> list[Case]:
    """All cases of that kind; there must be some, or the test that asks would prove nothing."""
    cases = [case for state in states or LIVE for case in everything(state) if chosen(case)]
    assert cases
    return cases


def runs(host: Host) -> bool:
    return host.domain is not None and host.domain.active


def writes(host: Host) -> bool:
    """A QEMU process that may write: not one that waits for its memory, nor one that gave it away."""
    quiet = ("migration", "postcopy", "postcopy-failed", "starting-up")
    return runs(host) and not (host.domain.state is DomainState.PAUSED and host.domain.reason in quiet)


def unknown(host: Host) -> bool:
    return not host.reachable and not host.fenced


def layers(host: Host) -> set[Layer]:
    return {disk.layer for disk in host.domain.disks} if host.domain else set()


COMMITTING = ("committing-dest", "rolling-back-source")


def test_nothing_is_committed_while_both_sides_run() -> None:
    for case in where(Case.continues, *COMMITTING):
        assert not (writes(case.source) and writes(case.destination)), case


def test_both_running_leads_to_stuck() -> None:
    both = where(lambda case: writes(case.source) and writes(case.destination), "transferring", *COMMITTING)
    for case in both:
        if case.source.domain.job is Job.NONE and case.destination.domain.job is Job.NONE:
            assert case.leads_to("stuck"), case


def test_nothing_is_committed_while_the_source_is_unknown() -> None:
    assert not any(unknown(case.source) for case in where(Case.continues, *COMMITTING))


def test_nothing_is_committed_while_the_destination_is_unknown_and_may_have_the_domain() -> None:
    for case in where(Case.continues, *COMMITTING):
        if unknown(case.destination):
            assert case.state == "rolling-back-source", case
            assert not case.engine.transfer_begun, case


def test_the_source_is_made_whole_when_the_destination_went_before_the_transfer() -> None:
    assert where(
        lambda case: case.continues() and unknown(case.destination) and not case.engine.transfer_begun,
        "rolling-back-source",
    )


def test_commit_at_the_destination_needs_the_domain_there_and_no_process_at_the_source() -> None:
    for case in where(lambda case: case.continues() or case.leads_to("committed"), "committing-dest"):
        assert case.destination.domain is not None, case
        assert not runs(case.source), case
        assert not unknown(case.source), case
        assert Layer.FOREIGN not in layers(case.destination), case


def test_commit_at_the_source_needs_the_domain_there_and_none_at_the_destination() -> None:
    for case in where(lambda case: case.continues() or case.leads_to("rolled-back"), "rolling-back-source"):
        assert case.source.domain is not None, case
        assert case.destination.domain is None, case
        assert Layer.FOREIGN not in layers(case.source), case


@pytest.mark.parametrize(("final", "side"), [("committed", "destination"), ("rolled-back", "source")])
def test_success_is_claimed_only_on_the_base_alone(final: str, side: str) -> None:
    for case in where(lambda case: case.leads_to(final)):
        host = getattr(case, side)
        assert layers(host) == {Layer.BASE}, case
        assert not any(disk.block_job for disk in host.domain.disks), case


def test_transfer_begins_only_with_verified_copies_on_a_free_destination() -> None:
    for case in where(lambda case: case.decision.trigger == "transfer"):
        assert case.engine.copies_verified, case
        assert case.destination.domain is None, case
        assert not unknown(case.destination), case
        if case.engine.merge is Merge.NONE:
            assert case.source.domain.state is DomainState.SHUT_OFF, case
            assert layers(case.source) == {Layer.BASE}, case
            continue
        assert runs(case.source), case
        assert Layer.OVERLAY in layers(case.source), case


def test_libvirt_is_asked_to_migrate_anew_only_where_the_source_has_it_all() -> None:
    """Taking over a running job aside."""
    anew = where(lambda case: case.continues() and not case.holds("source-migrating"), "transferring")
    for case in anew:
        assert case.holds("owned-by-source"), case
        assert case.engine.activity is Activity.NOT_BEGUN, case


def test_start_needs_preflight_and_a_source_without_foreign_layers() -> None:
    for case in where(lambda case: case.decision.trigger == "start"):
        assert case.engine.preflight is Preflight.PASSED, case
        assert case.source.domain is not None, case
        assert Layer.FOREIGN not in layers(case.source), case


def test_source_is_destroyed_only_after_it_handed_over_to_a_domain_that_arrived() -> None:
    for case in where(lambda case: case.does("destroy-source-instance")):
        assert not writes(case.source), case
        assert case.source.domain.job is Job.NONE, case
        arrived = case.destination.domain
        assert arrived is not None, case
        assert arrived.job is not Job.MIGRATION_IN, case
        assert not (arrived.state is DomainState.PAUSED and arrived.reason in ("migration", "starting-up")), (
            case
        )


def test_copies_are_removed_only_while_the_destination_has_no_domain() -> None:
    for case in where(lambda case: case.does("remove-copies"), *OVERLAY_EXISTS):
        assert case.destination.domain is None, case
        assert not unknown(case.destination) or not case.engine.transfer_begun, case


def test_source_overlays_are_removed_only_when_no_process_stands_on_them() -> None:
    for case in where(lambda case: case.does("remove-source-overlays")):
        assert not unknown(case.source), case
        assert Layer.OVERLAY not in layers(case.source) or not runs(case.source), case


def test_source_bases_are_removed_only_when_the_destination_stands_on_its_own() -> None:
    for case in where(lambda case: case.does("remove-source-bases")):
        assert case.leads_to("committed"), case
        assert layers(case.destination) <= {Layer.BASE}, case
        assert not unknown(case.destination), case
        assert not runs(case.source), case
        assert not unknown(case.source) or case.source.fenced, case


def test_a_disk_is_flattened_only_when_all_is_committed_and_the_source_has_gone() -> None:
    for case in where(lambda case: case.does("flatten-destination")):
        assert case.leads_to("committed"), case
        assert layers(case.destination) <= {Layer.BASE}, case
        assert not runs(case.source), case


def test_the_source_is_resumed_only_where_nothing_runs_at_the_destination() -> None:
    for case in where(lambda case: case.does("resume-source")):
        assert not runs(case.destination), case
        assert not unknown(case.destination), case
        # One that is merely attested to be off may have run, and acknowledged writes, before it went.
        assert writes(case.source) or not runs(case.source) or not case.destination.fenced, case


def test_no_way_leads_to_refused_once_overlays_exist() -> None:
    for case in where(lambda case: case.leads_to("refused")):
        assert case.state == "planned", case
        if case.engine.preflight is Preflight.PASSED:
            assert not unknown(case.source), case
            assert Layer.OVERLAY not in layers(case.source), case


def test_abort_begins_nothing_that_the_way_back_does_not_need() -> None:
    sound = where(
        lambda case: case.engine.abort_requested and case.holds("source-untangled"),
        "planned",
        "snapshotted",
        "transferring",
    )
    for case in sound:
        assert case.decision.trigger != "transfer", case
        if case.continues():
            # Preflight touches nothing; a running job is taken over by the activity, which cancels it.
            assert case.holds("preflight-not-passed") or case.holds("source-migrating"), case


@pytest.mark.parametrize("state", ["snapshotted", "transferring"])
def test_abort_is_honoured_wherever_the_source_has_the_domain(state: str) -> None:
    sound = where(
        lambda case: case.engine.abort_requested and case.holds("owned-by-source", "source-untangled"), state
    )
    for case in sound:
        if case.holds("source-altered"):
            assert case.leads_to("stuck"), case
        elif not case.holds("step-failed", "overdue"):
            assert case.leads_to("rolling-back-source"), case


def altered(host: Host) -> bool:
    """Something is seen on the host that a commit would destroy or trip over."""
    domain = host.domain
    return domain is not None and any(
        disk.stored or (disk.block_job and disk.block_job.kind != "active-commit" and domain.job is Job.NONE)
        for disk in domain.disks
    )


def test_nothing_is_committed_nor_transferred_while_an_overlay_is_altered() -> None:
    for case in where(lambda case: case.continues() and not case.holds("source-migrating"), "transferring"):
        assert not altered(case.source), case
    for case in where(lambda case: case.continues() or case.leads_to("committed"), "committing-dest"):
        assert not altered(case.destination), case
    for case in where(lambda case: case.continues() or case.leads_to("rolled-back"), "rolling-back-source"):
        assert not altered(case.source), case
    assert not any(
        altered(case.source) for case in where(lambda case: case.leads_to("transferring"), "snapshotted")
    )


@pytest.mark.parametrize("state", ["snapshotted", "transferring", "rolling-back-source"])
def test_an_altered_source_that_has_the_domain_alone_leads_to_stuck(state: str) -> None:
    for case in where(lambda case: altered(case.source) and case.holds("owned-by-source"), state):
        if not case.holds("step-failed", "overdue"):
            assert case.leads_to("stuck"), case


def test_an_altered_destination_leads_to_stuck() -> None:
    for case in where(
        lambda case: altered(case.destination) and case.holds("owned-by-destination"), "committing-dest"
    ):
        assert case.leads_to("stuck"), case


def test_stuck_is_left_only_when_nothing_is_altered_where_the_domain_is() -> None:
    for case in where(lambda case: case.leads_to("rolling-back-source"), "stuck"):
        assert not altered(case.source), case
    for case in where(lambda case: case.leads_to("committing-dest"), "stuck"):
        assert not altered(case.destination), case


def test_snapshots_are_rescued_only_when_somebody_asked_and_the_domain_is_in_one_place() -> None:
    for case in where(Case.continues, "stuck"):
        assert case.engine.rescue_requested, case
        assert case.holds("owned-by-source") or case.holds("owned-by-destination"), case
        assert altered(case.source) or altered(case.destination), case


def test_behind_the_point_of_no_return_the_only_success_is_committed() -> None:
    reached, todo = set(), [row.dest for row in SPEC.rows if row.point_of_no_return]
    assert todo
    while todo:
        state = todo.pop()
        # Out of stuck only what both hosts show leads on.
        if state not in reached and state != "stuck":
            reached.add(state)
            todo += [row.dest for row in SPEC.rows_from(state)]
    assert {state for state in reached if SPEC.is_final(state)} == {"committed"}


def test_time_alone_never_ends_a_migration_whose_outcome_is_unknown() -> None:
    lost = where(
        lambda case: (
            case.engine.overdue
            and case.engine.transfer_begun
            and (unknown(case.source) or unknown(case.destination))
        ),
        "transferring",
        *COMMITTING,
    )
    assert not any(case.row is not None and SPEC.is_final(case.row.dest) for case in lost)


def test_waiting_ends_in_every_state_but_stuck() -> None:
    for case in where(lambda case: case.decision.verb is Verb.WAIT):
        assert case.state == "stuck" or not case.engine.overdue, case
