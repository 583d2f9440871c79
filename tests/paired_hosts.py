"""The abstract hosts and the simulated hypervisor side by side: each step is done to both, then compared."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from functools import partial

from attrs import define, field

from fsm.engine.actions import ACTIONS
from fsm.engine.context import Context, Hosts
from fsm.engine.history import History
from fsm.engine.observe import look
from fsm.engine.plan import Plan, Request, Side
from fsm.errors import ActionFailed, HostError
from fsm.hypervisor.domain_xml import with_disk_sources
from fsm.hypervisor.simulated import SimulatedWorld, commit, domains, migration
from fsm.hypervisor.simulated.core import Pace
from fsm.hypervisor.simulated.state import Denied, HostState, LiveDisk, MigrationJob, Phase
from fsm.hypervisor.values import MigrationRequest, Overlay
from fsm.journal.records import Phase as RecordPhase
from fsm.journal.records import Record, Step
from fsm.machine.exploration import hosts
from fsm.machine.exploration.effects import EFFECTS
from fsm.machine.exploration.facts import Facts
from fsm.machine.exploration.hosts import DESTINATION, SOURCE, World
from fsm.machine.observation import Domain, Merge
from fsm.machine.traits import HANDED_OVER as HANDED_OVER_REASONS

URIS = {SOURCE: "sim://alpha/system", DESTINATION: "sim://beta/system"}
IMAGES = "/var/lib/libvirt/images"
STEPS_A_PHASE = 50


@define
class Pair:
    """A simulated world and the abstract one that should be like it."""

    real: SimulatedWorld
    uuid: str
    overlay: Overlay
    context: Context
    facts: Facts
    world: World = field(factory=World)

    def host(self, side: str) -> HostState:
        return self.real.state.hosts[URIS[side]]

    def disk(self, side: str) -> LiveDisk | None:
        record = self.host(side).domains.get(self.uuid)
        return record.instance.disks.get("vda") if record and record.instance else None

    def job(self) -> MigrationJob | None:
        record = self.host(SOURCE).domains.get(self.uuid)
        return record.instance.migration if record and record.instance else None

    def phase(self) -> str:
        job = self.job()
        if job is None:
            return ""
        if job.phase is Phase.CONFIRM:
            return hosts.CONFIRMING
        return hosts.SWITCHING if job.handed_over else hosts.COPYING


async def pair(merge: Merge = Merge.COMMIT) -> Pair:
    real = SimulatedWorld(pace=Pace.MANUAL)
    for uri in URIS.values():
        real.add_host(uri)
        real.add_pool(uri, IMAGES)
    uuid = real.add_domain(URIS[SOURCE], "web", disks=("vda",), snapshots={"s1": None})
    facts = domains.facts(real.state.hosts[URIS[SOURCE]], uuid)
    assert facts is not None
    base = facts.disks[0].source
    overlay = Overlay("vda", f"{base}.fsm-test", base, "qcow2")
    request = Request("web", destination_uri=URIS[DESTINATION], source_uri=URIS[SOURCE])

    async def nothing(*_arguments: object) -> None:
        """Records and claims are another test's."""

    history = History("planned", plan=Plan(uuid, "web", (overlay,), owners=("m",), merge=merge))
    made = Context(
        "m",
        "journal",
        request,
        Hosts(real, request),
        asyncio.Semaphore(),
        real.clock,
        history,
        300.0,
        nothing,
        nothing,
    )
    return Pair(real, uuid, overlay, made, Facts("planned", merge=merge.value))


# -- steps: each does the same to both, and says whether both agreed to do it --------------------------------


async def act(both: Pair, name: str) -> None:
    """An action, by the engine on one side and by its abstract effect on the other."""
    both.context.outcome = {}
    before = both.facts, both.world
    after = EFFECTS[name].apply(*before)
    try:
        await ACTIONS[name](both.context)
    except (HostError, ActionFailed) as refusal:
        error = str(refusal)
    else:
        error = ""
    assert (after is None) == bool(error), f"{name}: {error or 'done'}, unlike its model"
    if after is None:
        return
    both.facts, both.world = after
    record = Record(Step.ACTION, RecordPhase.OUTCOME, name, "planned", data=both.context.outcome)
    both.context.history = both.context.history.after(record)


def change(both: Pair, after: World | None, effect: Callable[[], object]) -> None:
    """A call or an event: refused by both or by none."""
    try:
        with both.real.changing():
            effect()
    except Denied as refusal:
        error = str(refusal)
    else:
        error = ""
    assert error or after is not None, "it was done, and its model refuses"
    assert not error or after in (None, both.world), f"refused, unlike in its model: {error}"
    both.world = after or both.world


def request_of(both: Pair) -> MigrationRequest:
    sources = both.context.planned.arrivals
    here = both.host(SOURCE)
    running = with_disk_sources(domains.current_xml(here, both.uuid), sources)
    defined = with_disk_sources(domains.persistent_xml(here, both.uuid), sources)
    return MigrationRequest(URIS[DESTINATION], running, defined, ("vda",))


def begin(both: Pair) -> None:
    change(
        both,
        hosts.begin_migration(both.world, mirror=both.facts.merge == Merge.MIRROR),
        lambda: migration.begin(both.real.state, both.host(SOURCE), both.uuid, request_of(both)),
    )


def advance(both: Pair) -> None:
    def steps() -> None:
        phase = both.phase()
        for _ in range(STEPS_A_PHASE):
            if both.phase() != phase:
                return
            migration.advance(both.real.state, both.host(SOURCE), both.uuid)
        raise AssertionError(f"the migration stays {phase}")

    change(both, hosts.advance_migration(both.world), steps)


def ready(side: str, both: Pair) -> None:
    def steps() -> None:
        for _ in range(STEPS_A_PHASE):
            if (disk := both.disk(side)) is None or disk.commit is None or disk.commit.ready:
                return
            commit.advance(both.real.state, both.host(side), both.uuid, disk)
        raise AssertionError("the commit does not become ready")

    change(both, hosts.advance_commit(both.world, side), steps)


def lose_commit(side: str, both: Pair) -> None:
    disk = both.disk(side)
    assert disk is not None
    state, host = both.real.state, both.host(side)
    change(both, hosts.fail_commit(both.world, side), lambda: commit.fail(state, host, both.uuid, disk))


def copy_base(both: Pair) -> None:
    def copied() -> None:
        (source,) = {both.host(SOURCE).mounts[mount] for mount in both.host(SOURCE).mounts}
        (there,) = {both.host(DESTINATION).mounts[mount] for mount in both.host(DESTINATION).mounts}
        files = both.real.state.filesystems
        files[there].files[both.overlay.base] = copy.deepcopy(files[source].files[both.overlay.base])

    change(both, both.world._replace(copy=hosts.WHOLE) if both.world.copy else None, copied)


def simple(
    model: Callable[[World, str], World | None], real: Callable[[Pair, str], object], side: str
) -> Callable[[Pair], None]:
    return lambda both: change(both, model(both.world, side), lambda: real(both, side))


def _start_commit(both: Pair, side: str) -> None:
    commit.start(both.real.state, both.host(side), both.uuid, both.overlay)


def _pivot(both: Pair, side: str) -> None:
    commit.pivot(both.real.state, both.host(side), both.uuid, "vda")


def _start_paused(both: Pair, side: str) -> None:
    domains.start_paused(both.real.state, both.host(side), both.uuid)


def _stop(both: Pair, side: str) -> None:
    both.real.kill_qemu(URIS[side], both.uuid)


def _layer(both: Pair, side: str) -> None:
    both.real.add_layer(URIS[side], both.uuid, "vda", f"{IMAGES}/somebodys.qcow2")


def _take_snapshot(both: Pair, side: str) -> None:
    both.real.take_snapshot(URIS[side], both.uuid, "theirs")


def _altered(world: World, side: str) -> World | None:
    return world.put(side, altered=True)


def _foreign(world: World, side: str) -> World | None:
    return world.put(side, layer=hosts.FOREIGN)


def _fail(both: Pair) -> None:
    migration.fail(both.real.state, both.uuid, "failed")


STEPS: dict[str, Callable[[Pair], None]] = {
    "copy": copy_base,
    "migrate": begin,
    "advance": advance,
    "fail": lambda both: change(both, hosts.fail_migration(both.world), lambda: _fail(both)),
    # On real hosts a source whose libvirtd dies in the switch-over may stay paused: the exploration has that
    # as well (``lose_migration``), the simulated hypervisor does not.
    "restart": lambda both: change(
        both, hosts.fail_migration(both.world), lambda: both.real.restart_libvirtd(URIS[SOURCE])
    ),
}
for _side in (SOURCE, DESTINATION):
    STEPS |= {
        f"start-commit-{_side}": simple(hosts.start_commit, _start_commit, _side),
        f"pivot-{_side}": simple(hosts.pivot, _pivot, _side),
        f"start-paused-{_side}": simple(hosts.start_paused, _start_paused, _side),
        f"ready-{_side}": partial(ready, _side),
        f"lose-commit-{_side}": partial(lose_commit, _side),
        f"stop-{_side}": simple(hosts.stop, _stop, _side),
        f"layer-{_side}": simple(_foreign, _layer, _side),
        f"snapshot-{_side}": simple(_altered, _take_snapshot, _side),
    }


def possible(facts: Facts, world: World) -> list[str]:
    """What may be tried now: refusals included, what the hosts could not even be asked left out."""
    names = [*EFFECTS, "migrate"]
    if not world.source.metadata:
        names.remove("save-bases")  # a point of the exploration where it is run then is a violation
    there = world.destination.life != hosts.NONE
    if not facts.saved or not world.copy or not world.source.overlay or there:
        names.remove("create-destination-overlays")  # never asked for: nothing to stand on, or in use
    # Left out of the model: to migrate a domain that is paused, over one that somebody has defined, or onto a
    # copy that was never filled.
    paused = world.source.life in (hosts.PAUSED, hosts.HANDED_OVER)
    if world.destination.life == hosts.SHUT_OFF or paused or world.copy == hosts.HOLE:
        names.remove("migrate")
    names += ["copy"] if world.copy else []
    names += ["advance", "fail", "restart"] if world.job else []
    for side in (SOURCE, DESTINATION):
        here = world.at(side)
        # The commit's own look keeps it from pivoting what somebody has altered.
        names += [f"start-commit-{side}", *([] if here.altered else [f"pivot-{side}"])]
        names += [f"start-paused-{side}"] if here.life != hosts.INCOMING else []
        names += [f"ready-{side}", f"lose-commit-{side}"] if here.commit == hosts.RUNS else []
        names += [f"stop-{side}"] if here.life in hosts.ACTIVE else []
        quiet = here.life == hosts.RUNNING and here.layer == hosts.OVERLAY
        quiet = quiet and not here.commit and not world.job
        # One act of meddling at most, as in the exploration.
        names += [f"layer-{side}", f"snapshot-{side}"] if quiet and not here.altered else []
    return names


# -- the same to be seen ------------------------------------------------------------------------------------


COMMIT = "active-commit"
"""The one kind of block job that the model has: a migration's own mirrors are part of its job there."""


def essence(domain: Domain | None) -> tuple[object, ...] | None:
    """What decisions could depend on; reasons as far as conditions tell them apart."""
    if domain is None:
        return None
    (disk,) = domain.disks
    job = (disk.block_job.ready,) if disk.block_job and disk.block_job.kind == COMMIT else ()
    given_away = domain.reason in HANDED_OVER_REASONS
    return domain.state, given_away, domain.job, disk.layer, job, bool(domain.snapshots), bool(disk.stored)


async def compare(both: Pair) -> None:
    for side in (SOURCE, DESTINATION):
        facts = domains.facts(both.host(side), both.uuid)
        found = await look(await both.context.host(Side(side)), Side(side), both.uuid, both.context.history)
        marker = bool(facts and facts.marker)
        assert marker == bool(both.world.at(side).marker), side
        assert essence(found) == essence(hosts.seen(both.world, side).domain), side
        files = both.real.files(URIS[side])
        assert (both.overlay.path in files) == bool(both.world.at(side).overlay), side
    assert (both.overlay.base in both.real.files(URIS[DESTINATION])) == bool(both.world.copy)
    assert both.phase() == both.world.job


async def take(both: Pair, name: str) -> None:
    if name in EFFECTS:
        await act(both, name)
    else:
        STEPS[name](both)
    await compare(both)


async def walk(names: list[str], merge: Merge = Merge.COMMIT) -> Pair:
    both = await pair(merge)
    await compare(both)
    for name in names:
        await take(both, name)
    return both
