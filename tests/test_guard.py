"""The guard: every state with every operation, by the journal, by the marker, and in front of libvirt."""

from __future__ import annotations

import asyncio
import inspect
from itertools import product
from typing import Any

import libvirt
import pytest

from fsm.engine.guard import Guard
from fsm.errors import BadInput, OperationBlocked
from fsm.hypervisor import markers
from fsm.hypervisor.libvirt import GuardedDomain, GuardedVolume
from fsm.hypervisor.libvirt.guarded import _BY_ARGUMENTS
from fsm.hypervisor.values import Marker
from fsm.journal.records import Phase, Record, Step
from fsm.machine import methods
from fsm.machine.loader import load_default
from fsm.machine.operations import HARM, Operation
from tests.cli_rig import cli, world
from tests.simulation import SOURCE, Simulation, simulate

__all__ = ["cli", "world"]  # fixtures
SPEC = load_default()
BLOCKED, UNEXPECTED, BAD_INPUT = 6, 1, 2
MARKED = Marker("f00d", owner="me", overlays=())
LIVE = [name for name in SPEC.states if not SPEC.is_final(name)]
HARMLESS = ("query", "resume", "reboot", "shutdown", "destroy", "core-dump", "tune", "guest")


# What states.yaml says


def test_what_is_blocked_has_its_reason_and_harmless_operations_are_never_blocked() -> None:
    for state, operation in product(SPEC.states.values(), Operation):
        if operation in state.blocks:
            assert operation in HARM, operation
        assert not (operation in state.blocks and operation.value in HARMLESS)
    # A suspension harms while libvirt migrates, and no other time.
    assert set(HARM) | {Operation(name) for name in HARMLESS} == set(Operation)


@pytest.mark.parametrize("state", [name for name in LIVE if name != "planned"])
def test_while_the_overlay_exists_all_that_harms_is_blocked(state: str) -> None:
    harmful = set(HARM) if state == "transferring" else set(HARM) - {Operation.SUSPEND}
    assert SPEC.states[state].blocks == harmful


# libvirt's methods


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        (libvirt.virDomain, {**methods.DOMAIN, **methods.BY_ARGUMENTS}),
        (libvirt.virStorageVol, methods.VOLUME),
        (libvirt.virDomainSnapshot, methods.SNAPSHOT),
        (libvirt.virDomainCheckpoint, methods.CHECKPOINT),
    ],
)
def test_every_method_of_libvirt_is_classified(kind: type, table: dict[str, object]) -> None:
    assert {name for name in dir(kind) if not name.startswith("_")} - set(table) == set()


def test_what_arguments_decide_is_decided_in_one_place() -> None:
    assert set(_BY_ARGUMENTS) == set(methods.BY_ARGUMENTS)
    assert not set(methods.DOMAIN) & set(methods.BY_ARGUMENTS)


INTERNAL = "<domainsnapshot><name>x</name></domainsnapshot>"
EXTERNAL = "<domainsnapshot><disks><disk name='vda' snapshot='external'/></disks></domainsnapshot>"
MEMORY = "<domainsnapshot><memory snapshot='external' file='/x'/></domainsnapshot>"
DISK_ONLY = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
ELEMENT, TITLE = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_METADATA_TITLE


@pytest.mark.parametrize(
    ("name", "arguments", "operation"),
    [
        ("snapshotCreateXML", (INTERNAL,), "snapshot-create-internal"),
        (
            "snapshotCreateXML",
            (INTERNAL, DISK_ONLY),
            "snapshot-create-external",
        ),
        ("snapshotCreateXML", (EXTERNAL,), "snapshot-create-external"),
        ("snapshotCreateXML", (MEMORY,), "snapshot-create-external"),
        ("snapshotCreateXML", (EXTERNAL, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE), "snapshot-redefine"),
        ("blockRebase", ("vda", None), "block-rebase"),
        ("blockRebase", ("vda", "/x", 0, libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY), "block-copy"),
        ("updateDeviceFlags", ("<disk type='file' device='cdrom'/>", 1), "change-media"),
        ("updateDeviceFlags", ("<disk type='file'/>", 1), "update-device"),
        ("updateDeviceFlags", ("<interface/>",), "update-device"),
        ("setMetadata", (ELEMENT, "<x/>", "fsm", markers.NAMESPACE), "set-metadata"),
        ("setMetadata", (ELEMENT, "<x/>", "x", "urn:other"), "tune"),
        ("setMetadata", (TITLE, "a title", None, None), "tune"),
    ],
)
def test_flags_matter(name: str, arguments: tuple[Any, ...], operation: str) -> None:
    given = inspect.signature(getattr(libvirt.virDomain, name)).bind(None, *arguments).arguments
    assert _BY_ARGUMENTS[name](given) == operation
    assert Operation(operation) in methods.BY_ARGUMENTS[name]


# In front of libvirt's objects


class FakeDomain:
    """Answers as a virDomain does, and notes what reached it."""

    def __init__(self, marker: Marker | None = None) -> None:
        xml = "<domain type='qemu'><name>web</name><metadata/></domain>"
        self.xml = markers.marked(xml, marker) if marker else xml
        self.called: list[str] = []

    def XMLDesc(self, flags: int = 0) -> str:  # noqa: N802
        return self.xml

    def UUIDString(self) -> str:  # noqa: N802
        return "uuid"

    def __getattr__(self, name: str) -> Any:
        def method(*_arguments: Any) -> str:
            self.called.append(name)
            return "done"

        if name in methods.BY_ARGUMENTS:
            method.__signature__ = inspect.signature(
                getattr(libvirt.virDomain, name)
            ).replace(  # type: ignore[attr-defined]
                parameters=list(inspect.signature(getattr(libvirt.virDomain, name)).parameters.values())[1:]
            )
        return method


PLAIN = sorted(methods.DOMAIN)


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("XMLDesc", "UUIDString")])
def test_a_marked_domain_lets_nothing_harmful_through(name: str) -> None:
    domain = FakeDomain(MARKED)
    if methods.DOMAIN[name] in HARM:
        with pytest.raises(OperationBlocked) as refusal:
            getattr(GuardedDomain(domain), name)()
        assert refusal.value.operation == methods.DOMAIN[name]
        assert "f00d" in refusal.value.remedy
        assert domain.called == []
    else:
        assert getattr(GuardedDomain(domain), name)() == "done"
        assert domain.called == [name]
    unmarked = FakeDomain()
    assert getattr(GuardedDomain(unmarked), name)() == "done"


def test_a_snapshot_of_a_marked_domain_is_guarded_by_its_flags() -> None:
    domain = FakeDomain(MARKED)
    guarded = GuardedDomain(domain)
    with pytest.raises(OperationBlocked, match="snapshot-create-internal"):
        guarded.snapshotCreateXML(INTERNAL, flags=0)
    with pytest.raises(OperationBlocked, match="set-metadata"):
        guarded.setMetadata(ELEMENT, None, "fsm", markers.NAMESPACE, 0)
    assert guarded.setMetadata(TITLE, "x", None, None, 0) == "done"


def test_whoever_else_knows_is_asked_as_well() -> None:
    def check(uuid: str, operation: Operation) -> None:
        if operation is Operation.SAVE:
            raise OperationBlocked("snapshotted", operation, remedy=uuid)

    domain = GuardedDomain(FakeDomain(), check)
    assert domain.blockCommit() == "done"
    with pytest.raises(OperationBlocked, match="snapshotted"):
        domain.save("/x")


def test_a_method_that_nobody_has_classified_is_not_let_through() -> None:
    with pytest.raises(BadInput, match="newInLibvirt13"):
        GuardedDomain(FakeDomain()).newInLibvirt13()


# Through the journal


def stand_in(simulation: Simulation, state: str, heading_for: str = "") -> None:
    """Have a migration of the domain stand in a state, as its journal says."""
    journal, migration = simulation.journal, simulation.engine.migrations()[-1].migration
    journal.append(migration, Record(Step.TRANSITION, Phase.OUTCOME, "go", "planned", state), final=False)
    if heading_for:
        journal.append(migration, Record(Step.TRANSITION, Phase.INTENT, "go", state, heading_for))


def held_at_copying() -> Simulation:
    """A migration that was let go of with its overlays made."""

    async def prepare() -> Simulation:
        simulation = await simulate()
        handle = await simulation.engine.start(simulation.request())
        copying = asyncio.Event()
        simulation.world.at("make_durable", copying.set)
        await copying.wait()
        await handle.detach()
        await simulation.engine._heart.stop()
        return simulation

    return asyncio.run(prepare())


@pytest.fixture(scope="module")
def held() -> Simulation:
    return held_at_copying()


@pytest.mark.parametrize(("state", "operation"), list(product(LIVE, Operation)))
def test_the_journal_tells_of_every_state_and_operation(
    held: Simulation, state: str, operation: Operation
) -> None:
    stand_in(held, state)
    verdict = held.engine.guard.permits(held.uuid, operation)
    assert verdict.permitted is (operation not in SPEC.states[state].blocks)
    assert held.engine.guard.permits("web", operation) == verdict
    assert held.engine.guard.permits("another", operation).permitted
    if not verdict.permitted:
        assert verdict.state == state
        assert verdict.harm == HARM[operation]
        assert "committed" in verdict.until
        with pytest.raises(OperationBlocked) as refusal:
            held.engine.guard.check(held.uuid, operation)
        assert (refusal.value.state, refusal.value.operation) == (state, operation)
        assert HARM[operation] in refusal.value.remedy


def test_under_way_counts_and_the_end_frees(held: Simulation) -> None:
    stand_in(held, "planned", "snapshotted")
    assert not held.engine.guard.permits(held.uuid, "block-resize").permitted
    assert [v.operation for v in held.engine.guard.table("web")] == list(Operation)


def test_the_guard_knows_the_files_of_a_migration(held: Simulation) -> None:
    stand_in(held, "snapshotted")
    asking = held.engine.guard
    base = "/var/lib/libvirt/images/web-vda.qcow2"
    (migration,) = [header.migration for header in held.engine.migrations()]
    for path in (base, f"{base}.fsm-{migration}"):
        assert not asking.permits_volume(path, "volume-wipe").permitted
        assert asking.permits_volume(path, "query").permitted
    assert asking.permits_volume("/var/lib/libvirt/images/other.qcow2", "volume-delete").permitted

    class FakeVolume:
        def path(self) -> str:
            return base

        def wipe(self, flags: int = 0) -> int:
            return flags

    with pytest.raises(OperationBlocked, match="volume-wipe"):
        GuardedVolume(FakeVolume(), asking.check_volume).wipe(0)


async def test_a_decorated_function_is_checked_before_it_begins(held: Simulation) -> None:
    stand_in(held, "snapshotted")
    done = []

    @held.engine.guard.guards("block-resize")
    def resize(domain: str, size: int) -> int:
        done.append(domain)
        return size

    @held.engine.guard.guards(Operation.SAVE, domain="who")
    async def save(path: str, who: str) -> str:
        done.append(who)
        return path

    assert (resize("another", 3), await save("/x", who="another")) == (3, "/x")
    with pytest.raises(OperationBlocked):
        resize(size=3, domain="web")
    with pytest.raises(OperationBlocked):
        await save("/x", held.uuid)
    assert done == ["another", "another"]
    with pytest.raises(BadInput, match="who"):
        held.engine.guard.guards("save", domain="who")(resize)
    with pytest.raises(BadInput, match="no operation 'nonsense'"):
        held.engine.guard.guards("nonsense")


def test_a_held_operation_may_ask_again(held: Simulation) -> None:
    stand_in(held, "planned")
    with held.engine.guard.holding("web", "backup-begin") as operation:
        operation.check()
        stand_in(held, "snapshotted")
        with pytest.raises(OperationBlocked):
            operation.check()
    with pytest.raises(OperationBlocked), held.engine.guard.holding("web", "backup-begin"):
        pytest.fail("it was let in")


async def test_after_the_end_all_is_permitted() -> None:
    simulation = await simulate()
    result = await simulation.migrate()
    assert result.state == "committed"
    for domain in ("web", simulation.uuid):
        assert all(verdict.permitted for verdict in simulation.engine.guard.table(domain))


# By the marker alone


@pytest.mark.parametrize("operation", Operation)
def test_the_marker_alone_blocks_what_any_state_may_block(operation: Operation) -> None:
    alone = Guard(SPEC)
    verdict = alone.permits_marked(MARKED, operation)
    assert verdict.permitted is (operation not in HARM)
    assert alone.permits_marked(None, operation).permitted
    assert alone.permits("web", operation).permitted


async def test_a_host_without_the_journal_is_asked_for_the_marker(held: Simulation) -> None:
    alone = Guard(SPEC, None, held.world)
    by_name = {verdict.operation: verdict for verdict in await alone.look(SOURCE, "web")}
    (migration,) = [header.migration for header in held.engine.migrations()]
    assert {operation for operation, verdict in by_name.items() if not verdict.permitted} == set(HARM)
    assert {verdict.migration for verdict in by_name.values()} == {migration}


async def test_the_journal_knows_better_than_the_marker(held: Simulation) -> None:
    stand_in(held, "snapshotted")
    verdicts = {verdict.operation: verdict for verdict in await held.engine.guard.look(SOURCE, "web")}
    blocked = {operation for operation, verdict in verdicts.items() if not verdict.permitted}
    assert blocked == set(SPEC.states["snapshotted"].blocks) != set(HARM)
