"""The shipped machine against everything that can happen; the model against the engine's own fold."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fsm.cli import exploration, main
from fsm.cli.exit_codes import ExitCode
from fsm.engine.history import fold
from fsm.journal import events
from fsm.journal.records import Header, Record
from fsm.machine.decision import decide
from fsm.machine.exploration.activities import ACTIVITIES
from fsm.machine.exploration.decision_invariants import DECISIONS
from fsm.machine.exploration.effects import EFFECTS
from fsm.machine.exploration.engine import Machine, View
from fsm.machine.exploration.explore import broken_promise, explore
from fsm.machine.exploration.hosts import BOTH, DESTINATION
from fsm.machine.exploration.invariants import POINTS, STEPS
from fsm.machine.exploration.node import Kind, Next, Node
from fsm.machine.exploration.node import Step as ExploredStep
from fsm.machine.exploration.search import OutOfBounds, Search, Violation, steps
from fsm.machine.exploration.trace import MEANINGS, lines, mermaid
from fsm.machine.loader import load_default, loads
from fsm.machine.replay import Replay
from fsm.machine.spec import Spec
from fsm.machine.vocabulary import ACTIONS
from fsm.machine.vocabulary import ACTIVITIES as ACTIVITY_NAMES
from tests.machine_helpers import changed, plain_text, shipped

SPEC = load_default()


def test_every_action_and_activity_has_a_model() -> None:
    assert set(EFFECTS) == set(ACTIONS)
    assert set(ACTIVITIES) == set(ACTIVITY_NAMES)


def test_every_invariant_says_what_it_means() -> None:
    assert all(MEANINGS.values())
    assert len(MEANINGS) > len((*POINTS, *DECISIONS, *STEPS))


def test_the_shipped_machine_keeps_every_promise(searched: Search) -> None:
    assert broken_promise(searched) is None


def test_everything_is_reached(searched: Search) -> None:
    """An exploration that reaches nothing proves nothing."""
    assert {node.facts.state for node in searched.nodes} == set(SPEC.states)
    taken = {(node.taken.trigger, node.taken.source) for node in searched.nodes if node.taken}
    # Once the source is being committed, no second instance can come up there that both looks would show.
    unreached = {("find-split-brain", "rolling-back-source")}
    assert {(row.trigger, row.source) for row in SPEC.rows} - taken == unreached
    assert {node.world.newest for node in searched.nodes} == {"source", DESTINATION, BOTH}
    assert any(node.world.source.life == node.world.destination.life == "running" for node in searched.nodes)


def test_a_search_too_large_says_so() -> None:
    with pytest.raises(OutOfBounds, match="more than 500 points"):
        explore(SPEC, bound=500)


# -- that it bites ------------------------------------------------------------------------------------------


def violation_of(spec: Spec) -> Violation:
    violation = explore(spec).violation
    assert violation is not None
    return violation


def test_committing_beside_an_unknown_is_found_with_the_shortest_trace() -> None:
    def edit(data: dict[str, Any]) -> None:
        for row in data["states"]["rolling-back-source"]["recover"]:
            if row["when"][:2] == ["transfer-begun", "destination-unknown"]:
                row["when"].append("abort-requested")
            if row["do"] == "continue":
                row["when"] = [name for name in row["when"] if name != "transfer-not-begun"]

    violation = violation_of(changed(edit))
    assert violation.invariant == "never_commits_beside_an_unknown"
    # Nothing shorter can do: the transfer has to begin before a destination may have the domain.
    names = [step.name for step, _ in violation.trace]
    assert "transfer" in names
    assert names[-1] == "commit-at-source"


def test_a_domain_that_somebody_else_defined_is_never_taken_for_ours() -> None:
    def edit(data: dict[str, Any]) -> None:
        for row in data["states"]["transferring"]["recover"]:
            if row["do"] == "switch-over":
                row["when"].remove("transfer-begun")
        for row in data["transitions"]:
            if row["trigger"] == "switch-over":
                row["conditions"].remove("transfer-begun")

    violation = violation_of(changed(edit))
    assert "somebody defines the domain at the destination" in [step.name for step, _ in violation.trace]


def test_an_engine_that_acts_without_its_lease_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Machine.steps

    def reckless(self: Machine, node: Node) -> Iterator[Next]:
        for step, after in sound(self, node):
            yield step, after
            if step.kind == Kind.ACTION and step.changes:
                yield step._replace(holder="stale"), after

    monkeypatch.setattr(Machine, "steps", reckless)
    assert violation_of(SPEC).invariant == "no_action_after_a_lost_lease"


def test_a_machine_that_has_no_answer_is_found() -> None:
    spec = changed(lambda data: data["states"]["snapshotted"]["recover"].pop())
    violation = violation_of(spec)
    assert "no recover row" in violation.trace[-1][0].name


def test_a_trace_reads_as_lines_and_as_a_diagram() -> None:
    violation = violation_of(without_guard())
    told = list(lines(violation))
    assert told[0].startswith("overlay_is_guarded does not hold: While a domain stands on an overlay")
    assert len(told) == len(violation.trace) + 2
    drawn = mermaid(violation).splitlines()
    assert drawn[0] == "sequenceDiagram"
    assert "  engine->>journal: intent start" in drawn


def shipped_without_guard() -> dict[str, Any]:
    data = shipped()
    data["states"]["snapshotted"]["blocks"].remove("block-resize")
    return data


def without_guard() -> Spec:
    return loads(plain_text(shipped_without_guard()))


# -- the trace as records -----------------------------------------------------------------------------------


def test_traces_replay(searched: Search) -> None:
    """Every decision in them is the one that the machine takes on the recorded observation."""
    decided = 0
    for number in sampled(searched):
        replay = Replay(SPEC)
        for line in exploration.log(SPEC, Violation("", searched.trace(number))).splitlines():
            decided += replay.take(events.decode(line)) is not None
    assert decided > 1000


def test_the_command_prints_a_violation_and_a_log_that_replays(tmp_path: Path) -> None:
    machine, log = tmp_path / "unguarded.yaml", tmp_path / "trace.jsonl"
    machine.write_text(plain_text(shipped_without_guard()), "utf-8")
    result = CliRunner().invoke(main, ["check", "--explore", "--trace", str(log), str(machine)])
    assert result.exit_code == ExitCode.BAD_INPUT
    assert "overlay_is_guarded does not hold" in result.stderr
    assert "sequenceDiagram" in result.stdout
    replayed = CliRunner().invoke(main, ["--states", str(machine), "replay", str(log)])
    assert (replayed.exit_code, replayed.stderr) == (0, "")
    assert "decides as recorded" in replayed.stdout


def test_the_command_says_when_nothing_is_proven() -> None:
    result = CliRunner().invoke(main, ["check", "--explore", "--bound", "500"])
    assert result.exit_code == ExitCode.BAD_INPUT
    assert "nothing is proven" in result.stderr


def records_to(searched: Search, number: int) -> list[Record]:
    violation = Violation("", searched.trace(number))
    return list(exploration.records(SPEC, violation))


def sampled(searched: Search) -> Iterator[int]:
    """Points all over the search, each state's first ones among them."""
    yield from range(0, len(searched.nodes), max(1, len(searched.nodes) // 1500))


def test_the_facts_are_those_of_the_engines_own_fold(searched: Search) -> None:
    for number in sampled(searched):
        node, history = searched.nodes[number], fold(SPEC.initial, records_to(searched, number))
        facts = node.facts
        state = SPEC.states[facts.state]
        seen = history.facts(state.retry, overdue=False, retry_due=False, space_short=False)
        assert (history.state, history.preflight.value) == (facts.state, facts.preflight)
        assert (seen.copies_verified, seen.transfer_begun) == (facts.copies_verified, facts.transfer_begun)
        # A request that makes no difference any more may be forgotten: it can be made again.
        assert seen.abort_requested or not facts.abort_requested
        assert seen.rescue_requested or not facts.rescue_requested
        assert history.given_up or not facts.given_up
        assert history.started_paused == facts.started_paused
        assert {side.value for side in history.fenced} == {
            side for side in ("source", "destination") if facts.fenced(side)
        }
        plain = searched.machine.plain(node._replace(facts=facts._replace(failed=seen.step_failed)))
        assert plain == node


def test_the_guards_second_state_is_that_of_the_journals_header(searched: Search) -> None:
    for number in sampled(searched):
        node = searched.nodes[number]
        heading_for = "stuck" if searched.nodes[number].facts.adopted else ""
        header = Header("m", exploration._BEGAN, "web", "", "", SPEC.initial, heading_for)
        for record in records_to(searched, number):
            header = header.after(record, final=False)
        assert header.state == node.facts.state
        # What makes no difference was forgotten before the activity began.
        plain = searched.machine.plain(node._replace(heading_for=header.heading_for, activity=""))
        assert plain.heading_for == node.heading_for


def test_points_follow_from_each_other(searched: Search) -> None:
    """The traces are real: each step is one that may follow the point before it."""
    for number in list(sampled(searched))[::20]:
        way = [(ExploredStep("", ""), searched.nodes[0]), *searched.trace(number)]
        for (_, before), (_, after) in pairwise(way):
            following = {searched.machine.plain(node) for _, node in steps(searched.machine, before)}
            assert after in following


def test_what_a_machine_can_tell_apart_is_told_apart(searched: Search) -> None:
    """Views with the same conditions holding are decided on alike, so that one of them stands for all."""
    views: dict[tuple[str, int], View] = {}
    for node in searched.nodes[::50]:
        if not node.decides or SPEC.is_final(node.facts.state):
            continue
        for view in searched.machine.views(node):
            first = views.setdefault((node.facts.state, view.holding), view)
            same = decide(SPEC, node.facts.state, first.seen), decide(SPEC, node.facts.state, view.seen)
            assert same[0] == same[1]
