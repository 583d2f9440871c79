"""The conditions, case by case where they are tricky."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from fsm.machine.conditions import CONDITIONS, Reads
from fsm.machine.observation import (
    Activity,
    BlockJob,
    Disk,
    Domain,
    DomainState,
    Engine,
    Host,
    Job,
    Layer,
    Merge,
    Observation,
    Preflight,
    Size,
)
from fsm.machine.space import engine_witnesses, host_witnesses
from tests.machine_helpers import (
    ABSENT,
    BASE,
    FENCED,
    FOREIGN,
    GONE,
    OVERLAY,
    host,
    paused,
    running,
    shut_off,
)

CRASHED = host(DomainState.CRASHED, "panicked")
HANDED_OVER = paused("migration")
# Nothing here may write to a disk that the other host writes to as well.
INCOMING = paused("migration", Job.MIGRATION_IN)
COMMITTING = (Disk("vda", Layer.BASE, block_job=BlockJob("active-commit", ready=True)),)
MIXED = (Disk("vda", Layer.BASE), Disk("vdb", Layer.OVERLAY))
TANGLED = (Disk("vda", Layer.OVERLAY), Disk("vdb", Layer.FOREIGN))


def holds(name: str, source: Host, destination: Host = ABSENT, engine: Engine | None = None) -> bool:
    return CONDITIONS[name].holds(Observation(source, destination, engine or Engine()))


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (running(), ABSENT, True),
        (running(), FENCED, True),
        (running(), GONE, False),
        (running(), running(), False),
        (running(), INCOMING, False),
        (running(), shut_off(), False),
        (running(Job.MIGRATION_OUT), ABSENT, False),
        (running(Job.OTHER), ABSENT, False),
        (paused("user"), ABSENT, True),
        (paused("io-error"), FENCED, True),
        (CRASHED, ABSENT, True),
        (shut_off(), ABSENT, True),
        # Handed over: the destination may have run before it went, unless it was seen to have nothing.
        (HANDED_OVER, ABSENT, True),
        (HANDED_OVER, FENCED, False),
        (HANDED_OVER, GONE, False),
        (paused("postcopy"), ABSENT, False),
        (paused("postcopy-failed"), ABSENT, False),
        (ABSENT, ABSENT, False),
        (GONE, ABSENT, False),
        (FENCED, ABSENT, False),
    ],
)
def test_owned_by_source(source: Host, destination: Host, expected: bool) -> None:  # noqa: FBT001
    assert holds("owned-by-source", source, destination) is expected


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (ABSENT, running(), True),
        (shut_off(), running(), True),
        (FENCED, running(), True),
        (GONE, running(), False),
        (running(), running(), False),
        (HANDED_OVER, running(), False),
        (CRASHED, running(), False),
        (ABSENT, paused("user"), True),
        (ABSENT, paused("io-error"), True),
        (ABSENT, paused("migration"), False),
        (ABSENT, paused("starting-up"), False),
        (ABSENT, INCOMING, False),
        (ABSENT, running(Job.MIGRATION_IN), False),
        (ABSENT, shut_off(), True),
        (ABSENT, ABSENT, False),
        (ABSENT, GONE, False),
    ],
)
def test_owned_by_destination(source: Host, destination: Host, expected: bool) -> None:  # noqa: FBT001
    assert holds("owned-by-destination", source, destination) is expected


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (HANDED_OVER, running(), True),
        (paused("postcopy"), running(), True),
        (paused("postcopy-failed"), running(), True),
        (paused("user"), running(), False),
        (running(), running(), False),
        (shut_off(), running(), False),
        (ABSENT, running(), False),
        (GONE, running(), False),
        (paused("migration", Job.MIGRATION_OUT), running(), False),
        (HANDED_OVER, paused("user"), True),
        (HANDED_OVER, shut_off(), True),
        (HANDED_OVER, running(Job.MIGRATION_IN), False),
        (HANDED_OVER, INCOMING, False),
        (HANDED_OVER, ABSENT, False),
        (HANDED_OVER, GONE, False),
    ],
)
def test_source_superseded(source: Host, destination: Host, expected: bool) -> None:  # noqa: FBT001
    assert holds("source-superseded", source, destination) is expected


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (running(), running(), True),
        (running(), paused("user"), True),
        (paused("user"), running(), True),
        (CRASHED, running(), True),
        (running(Job.OTHER), running(), True),
        (running(Job.MIGRATION_OUT), running(), False),
        (running(), INCOMING, False),
        (running(), paused("starting-up"), False),
        (HANDED_OVER, running(), False),
        (shut_off(), running(), False),
        (running(), shut_off(), False),
        (running(), GONE, False),
        (GONE, running(), False),
        (FENCED, running(), False),
    ],
)
def test_both_run(source: Host, destination: Host, expected: bool) -> None:  # noqa: FBT001
    assert holds("both-run", source, destination) is expected


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize(
    ("seen", "unknown"), [(GONE, True), (FENCED, False), (ABSENT, False), (running(), False)]
)
def test_unknown_means_unreachable_and_not_fenced(side: str, seen: Host, unknown: bool) -> None:  # noqa: FBT001
    pair = (seen, ABSENT) if side == "source" else (ABSENT, seen)
    assert holds(f"{side}-unknown", *pair) is unknown
    assert holds(f"{side}-known", *pair) is not unknown


@pytest.mark.parametrize(
    ("seen", "true_names"),
    [
        (running(disks=OVERLAY), {"on-overlay", "untangled"}),
        (running(disks=BASE), {"on-base", "untangled", "off-overlay"}),
        (running(disks=MIXED), {"on-overlay", "untangled"}),
        (running(disks=COMMITTING), {"untangled", "off-overlay"}),
        (running(disks=FOREIGN), {"foreign"}),
        (running(disks=TANGLED), {"foreign"}),
        (running(disks=()), {"untangled", "off-overlay"}),
        (shut_off(BASE), {"on-base", "untangled", "off-overlay"}),
        (ABSENT, {"off-overlay"}),
        (FENCED, set()),
        (GONE, set()),
    ],
)
def test_layers_at_the_source(seen: Host, true_names: set[str]) -> None:
    names = ("on-overlay", "on-base", "untangled", "foreign", "off-overlay")
    assert {name for name in names if holds(f"source-{name}", seen)} == true_names
    for name in ("on-base", "untangled", "foreign"):
        assert holds(f"destination-{name}", ABSENT, seen) is (name in true_names)


def disk(layer: Layer, kind: str = "", **content: Any) -> tuple[Disk, ...]:
    job = BlockJob(kind) if kind else None
    return Disk("vda", layer, block_job=job, **content), Disk("vdb", Layer.BASE)


def with_unrecorded(disks: tuple[Disk, ...]) -> Host:
    domain = Domain(DomainState.RUNNING, "booted", disks=disks, snapshots=("s1", "x"), unrecorded=("x",))
    return Host(reachable=True, domain=domain)


@pytest.mark.parametrize(
    ("seen", "altered"),
    [
        (running(disks=OVERLAY), False),
        (running(disks=COMMITTING), False),
        (running(disks=FOREIGN), False),
        (ABSENT, False),
        (GONE, False),
        (running(disks=disk(Layer.OVERLAY, stored=("x",))), True),
        (shut_off(disk(Layer.OVERLAY, stored=("x",))), True),
        (running(disks=disk(Layer.OVERLAY, "active-commit", stored=("x",))), True),
        (running(disks=disk(Layer.OVERLAY, size=Size.UNFIT)), True),
        # QEMU lets the base grow with the commit.
        (running(disks=disk(Layer.OVERLAY, size=Size.GROWN)), False),
        (running(disks=disk(Layer.OVERLAY, damage="it is torn")), True),
        (running(disks=disk(Layer.OVERLAY, "copy")), True),
        (running(disks=disk(Layer.BASE, "pull")), True),
        # A migration mirrors its disks by such jobs.
        (running(Job.MIGRATION_OUT, disks=disk(Layer.OVERLAY, "copy")), False),
        (with_unrecorded(disk(Layer.OVERLAY)), True),
        # Taken into the base, where it belongs.
        (with_unrecorded(disk(Layer.BASE)), False),
    ],
)
def test_altered(seen: Host, altered: bool) -> None:  # noqa: FBT001
    for side, pair in (("source", (seen, ABSENT)), ("destination", (ABSENT, seen))):
        assert holds(f"{side}-altered", *pair) is altered
        assert holds(f"{side}-unaltered", *pair) is not altered


@pytest.mark.parametrize(
    ("seen", "true_names"),
    [
        (running(), {"active"}),
        (running(Job.MIGRATION_OUT), {"active", "migrating"}),
        (running(Job.MIGRATION_IN), {"active"}),
        (paused("user"), {"active"}),
        (paused("io-error"), {"active"}),
        (CRASHED, {"stopped"}),
        (HANDED_OVER, set()),
        (paused("migration", Job.MIGRATION_OUT), {"migrating"}),
        (shut_off(), {"stopped"}),
        # Read by two calls between which the domain went: there is no job without a process.
        (host(DomainState.SHUT_OFF, "failed", Job.MIGRATION_OUT), {"stopped"}),
        (ABSENT, set()),
        (GONE, set()),
        (FENCED, set()),
    ],
)
def test_process_at_the_source(seen: Host, true_names: set[str]) -> None:
    names = ("active", "stopped", "migrating")
    assert {name for name in names if holds(f"source-{name}", seen)} == true_names


@pytest.mark.parametrize(
    ("seen", "absent"),
    [(ABSENT, True), (FENCED, False), (GONE, False), (shut_off(), False), (running(), False)],
)
def test_destination_absent(seen: Host, absent: bool) -> None:  # noqa: FBT001
    assert holds("destination-absent", running(), seen) is absent


@pytest.mark.parametrize(
    ("source", "destination", "missing"),
    [
        (ABSENT, ABSENT, True),
        (FENCED, ABSENT, True),
        (ABSENT, FENCED, True),
        (GONE, ABSENT, False),
        (ABSENT, GONE, False),
        (shut_off(), ABSENT, False),
        (ABSENT, INCOMING, False),
    ],
)
def test_domain_missing(source: Host, destination: Host, missing: bool) -> None:  # noqa: FBT001
    assert holds("domain-missing", source, destination) is missing


@pytest.mark.parametrize(
    ("engine", "true_names"),
    [
        (Engine(), {"preflight-not-passed", "transfer-not-begun"}),
        (
            Engine(preflight=Preflight.REFUSED),
            {"preflight-not-passed", "preflight-refused", "transfer-not-begun"},
        ),
        (
            Engine(preflight=Preflight.PASSED, transfer_begun=True, activity=Activity.FAILED),
            {"preflight-passed", "transfer-begun", "activity-begun"},
        ),
        (Engine(step_failed=True), {"preflight-not-passed", "transfer-not-begun", "step-failed"}),
        # Having no attempt left matters only to a step that failed.
        (Engine(attempts_left=False), {"preflight-not-passed", "transfer-not-begun"}),
        (
            Engine(step_failed=True, attempts_left=False),
            {"preflight-not-passed", "transfer-not-begun", "step-failed", "attempts-exhausted"},
        ),
        (
            Engine(copies_verified=True, overdue=True, retry_due=True, abort_requested=True),
            {
                "preflight-not-passed",
                "transfer-not-begun",
                "copies-verified",
                "overdue",
                "retry-due",
                "abort-requested",
            },
        ),
    ],
)
def test_engine_conditions(engine: Engine, true_names: set[str]) -> None:
    names = {name for name, condition in CONDITIONS.items() if condition.reads is Reads.ENGINE}
    assert {name for name in names if holds(name, ABSENT, engine=engine)} == {
        *true_names,
        "merges-by-commit",
        "moves-live",
    }


def test_one_way_to_merge_holds_at_a_time() -> None:
    by_mirror = Engine(merge=Merge.MIRROR)
    assert holds("merges-by-mirror", ABSENT, engine=by_mirror)
    assert not holds("merges-by-commit", ABSENT, engine=by_mirror)
    assert not holds("merges-by-mirror", ABSENT)


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_is_documented_and_comes_to_both_values(name: str) -> None:
    condition = CONDITIONS[name]
    assert condition.meaning.endswith(".")
    seen = host_witnesses()
    if condition.reads is Reads.ENGINE:
        seen = tuple(evolve(seen[0], engine=engine) for engine in engine_witnesses(frozenset({name})))
    assert {condition.holds(one) for one in seen} == {False, True}
