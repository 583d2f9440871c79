"""Journals that are lost in the middle of a migration on two real hosts: the domains tell how to go on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator

import pytest
from attrs import evolve

from fsm.lab import GuestSpec, LabError, LabHost
from fsm.lab.process import wait_until
from tests.faults.scene import COMMIT, SLOW, WEB, begun, copying, memory_moves
from tests.lab_rig import LONG_LAB, Before, Event, Rig, check_kept, check_untouched, domains, look, watched

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK, STUCK, OTHER = 0, 3, 4, 5


@pytest.fixture
def guest(rig: Rig) -> Iterator[tuple[GuestSpec, Before]]:
    """A guest at alpha, and all that it has."""
    spec = evolve(WEB, disks=tuple(evolve(disk, path=None) for disk in WEB.disks))
    rig.lab.define_guest(rig.alpha, spec)
    yield spec, look(rig, rig.alpha, spec)
    rig.destroy(spec)


def killed_and_forgotten(rig: Rig, spec: GuestSpec, moment: Callable[[Event], bool]) -> None:
    """The engine is killed at a moment of the migration, and its journal removed."""
    with rig.migrating(spec.name, rig.alpha, *SLOW, *COMMIT) as running:
        assert running.until(moment), running.errors.read_text()
        running.send(signal.SIGKILL)
    for path in rig.journal.parent.glob(f"{rig.journal.name}*"):
        path.unlink()


def asked(host: LabHost, domain: str, *words: str) -> str:
    """What virsh says of the domain, empty where it has left the host, also between two questions."""
    try:
        return host.virsh(*words, "--domain", domain)
    except LabError:
        if domain in domains(host):
            raise
        return ""


def wait_for_libvirt(rig: Rig, domain: str) -> None:
    """Until libvirt's own migration has ended, and block commits are ready: they go on without an engine."""

    def is_quiet(host: LabHost) -> bool:
        xml = asked(host, domain, "dumpxml")
        return "<mirror" not in xml or "ready='yes'" in xml

    def has_left_or_stays() -> bool:
        job = asked(rig.alpha, domain, "domjobinfo")
        return not job or "None" in job

    wait_until(has_left_or_stays, timeout=60, what="the end of the migration")
    wait_until(lambda: all(map(is_quiet, rig.lab.hosts)), timeout=60, what="the end of the commit")


def doctor(rig: Rig, *words: str) -> tuple[int, list[Event], str]:
    """Examine both hosts."""
    hosts = [word for host in rig.lab.hosts for word in ("--host", host.uri)]
    ended = rig.fsm("doctor", *hosts, "--json", *words)
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


@pytest.mark.parametrize(
    ("moment", "wanted"),
    [
        (begun("start"), {COMMITTED, ROLLED_BACK}),
        (copying, {ROLLED_BACK}),
        (memory_moves, {COMMITTED, ROLLED_BACK}),
        (begun("commit-at-destination"), {COMMITTED}),
        (begun("finish-commit"), {COMMITTED}),
    ],
    ids=["start", "copy", "memory", "commit", "finish"],
)
def test_a_killed_engine_without_its_journal(
    rig: Rig, guest: tuple[GuestSpec, Before], moment: Callable[[Event], bool], wanted: set[int]
) -> None:
    spec, before = guest
    with watched(rig, spec) as watch:
        killed_and_forgotten(rig, spec, moment)
        wait_for_libvirt(rig, spec.name)
        code, events, errors = doctor(rig)
        cases = [event for event in events if event["event"] == "domain"]
        if cases:  # killed right at the start it may have done nothing yet
            assert code == STUCK, errors
            assert {case["kind"] for case in cases} == {"lost"}
            assert all("--adopt" in case["remedy"] for case in cases)
            code, events, errors = doctor(rig, "--adopt")
            assert code in wanted, (events[-5:], errors)
            assert events[-1]["left_behind"] == []
        else:
            assert code == COMMITTED, errors
            code = ROLLED_BACK
    at = rig.beta if code == COMMITTED else rig.alpha
    check_kept(rig, spec, before, at, watch.acks)
    if code == ROLLED_BACK:
        check_untouched(rig, before, rig.beta)
    code, events, _ = doctor(rig)
    assert [event for event in events if event["event"] == "domain"] == []
    assert code == COMMITTED


def test_what_a_migration_in_progress_is_told_to_be(rig: Rig, guest: tuple[GuestSpec, Before]) -> None:
    """Driven, with its journal; without it not to be adopted while libvirt's job runs."""
    spec, before = guest
    with watched(rig, spec) as watch:
        with rig.migrating(spec.name, rig.alpha, "--bandwidth", "5", *COMMIT) as running:
            assert running.until(memory_moves), running.errors.read_text()
            code, events, errors = doctor(rig)
            assert code == COMMITTED, errors
            assert {event["kind"] for event in events if event["event"] == "domain"} == {"driven"}
            other = Rig(rig.lab, rig.journal.with_name("other.db"))
            code, events, _ = doctor(other, "--adopt")
            assert code == STUCK
            assert "is not adopted" in json.dumps(events)
            code, result = running.finish()
        assert code == COMMITTED, result
    check_kept(rig, spec, before, rig.beta, watch.acks)


def test_layers_that_another_tool_has_left(rig: Rig, guest: tuple[GuestSpec, Before]) -> None:
    spec, _ = guest
    snapshot = ("--disk-only", "--atomic", "--no-metadata", "--diskspec", "vdb,snapshot=no")
    rig.alpha.virsh("snapshot-create-as", "--domain", spec.name, *snapshot)
    code, events, errors = doctor(rig)
    (case,) = [event for event in events if event["event"] == "domain"]
    assert (code, case["kind"], case["waits"]) == (OTHER, "layered", False), errors
    assert "vda" in case["what"]
