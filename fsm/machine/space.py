"""All observations that the machine can tell apart.

Conditions read hosts or the engine, never both, so the space is a product: every distinct combination of
truth values that the host conditions can take, times every one that the engine conditions can take. For each
combination one witness observation is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

from attrs import fields

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
)


def _disk_sets() -> Iterator[tuple[Disk, ...]]:
    """Two disks tell all mixtures of layers apart; a commit may run on one of them."""
    yield ()
    for first, second in product(Layer, repeat=2):
        yield Disk("vda", first), Disk("vdb", second)
    job = BlockJob("active-commit")
    yield Disk("vda", Layer.OVERLAY, block_job=job), Disk("vdb", Layer.BASE)
    yield Disk("vda", Layer.BASE, block_job=job), Disk("vdb", Layer.BASE)
    # Altered: by what the overlay holds, or by a block job, whatever the layers are.
    for layer in Layer:
        yield Disk("vda", layer, block_job=BlockJob("copy")), Disk("vdb", Layer.BASE)
        yield Disk("vda", Layer.OVERLAY, stored=("theirs",)), Disk("vdb", layer)


def _domains() -> Iterator[Domain]:
    """Also what should not be, such as a job of a shut-off domain: its facts are read by several calls."""
    reasons = {
        DomainState.RUNNING: ("booted",),
        DomainState.PAUSED: ("user", "io-error", "migration", "postcopy", "starting-up"),
        DomainState.CRASHED: ("panicked",),
        DomainState.SHUT_OFF: ("shutdown",),
    }
    for disks in _disk_sets():
        for state, reason, job in ((s, r, j) for s, rs in reasons.items() for r in rs for j in Job):
            yield Domain(state, reason, job, disks)
            yield Domain(state, reason, job, disks, marked_by_another=True)


def hosts() -> Iterator[Host]:
    """Every view of one host that a condition could tell from another."""
    yield Host(reachable=False)
    yield Host(reachable=False, fenced=True)
    yield Host(reachable=True)
    for domain in _domains():
        yield Host(reachable=True, domain=domain)


def engines() -> Iterator[Engine]:
    """Every combination of the engine's facts."""
    flags = [each.name for each in fields(Engine) if each.name not in ("preflight", "merge", "activity")]
    for values in product((False, True), repeat=len(flags)):
        named: dict[str, Any] = dict(zip(flags, values, strict=True))
        for preflight, merge, activity in product(Preflight, Merge, Activity):
            yield Engine(preflight=preflight, merge=merge, activity=activity, **named)


def _vector(seen: Observation, reads: Reads) -> tuple[bool, ...]:
    return tuple(c.holds(seen) for c in CONDITIONS.values() if c.reads is reads)


@cache
def host_witnesses() -> tuple[Observation, ...]:
    """One observation for every combination of truth values that host conditions can take.

    Views of one host that no condition tells apart, whatever the other host shows, are merged first, so that
    the pairs stay few.
    """
    probes = list(_probe_hosts())
    nowhere = Host(reachable=True)

    def as_source(host: Host) -> tuple[object, ...]:
        return tuple(_vector(Observation(host, other), Reads.HOSTS) for other in (nowhere, *probes))

    def as_destination(host: Host) -> tuple[object, ...]:
        return tuple(_vector(Observation(other, host), Reads.HOSTS) for other in (nowhere, *probes))

    sources = {as_source(host): host for host in hosts()}.values()
    destinations = {as_destination(host): host for host in hosts()}.values()
    pairs = (Observation(*pair) for pair in product(sources, destinations))
    return tuple({_vector(seen, Reads.HOSTS): seen for seen in pairs}.values())


def host_witnesses_of(names: frozenset[str]) -> tuple[Observation, ...]:
    """One observation for every combination of truth values of the host conditions ``names``."""
    used = sorted(name for name in names if CONDITIONS[name].reads is Reads.HOSTS)
    found: dict[tuple[bool, ...], Observation] = {}
    for seen in host_witnesses():
        found.setdefault(tuple(CONDITIONS[name].holds(seen) for name in used), seen)
    return tuple(found.values())


def observations(names: frozenset[str]) -> list[Observation]:
    """One observation for every combination of truth values of the conditions ``names``."""
    engines = engine_witnesses(names)
    pairs = host_witnesses_of(names)
    return [Observation(pair.source, pair.destination, engine) for pair in pairs for engine in engines]


def _probe_hosts() -> Iterator[Host]:
    """Counterparts that bring out what joint conditions look at in the other host."""
    disks = (Disk("vda", Layer.OVERLAY),)
    yield Host(reachable=False)
    yield Host(reachable=False, fenced=True)
    for state, reason, job in (
        (DomainState.RUNNING, "booted", Job.NONE),
        (DomainState.RUNNING, "booted", Job.MIGRATION_OUT),
        (DomainState.PAUSED, "user", Job.NONE),
        (DomainState.PAUSED, "migration", Job.NONE),
        (DomainState.PAUSED, "migration", Job.MIGRATION_IN),
        (DomainState.SHUT_OFF, "shutdown", Job.NONE),
    ):
        yield Host(reachable=True, domain=Domain(state, reason, job, disks))


@cache
def engine_witnesses(names: frozenset[str]) -> tuple[Engine, ...]:
    """One engine view for every combination of truth values of the engine conditions ``names``."""
    nowhere = Host(reachable=True)
    used = sorted(name for name in names if CONDITIONS[name].reads is Reads.ENGINE)
    found: dict[tuple[bool, ...], Engine] = {}
    for engine in engines():
        seen = Observation(nowhere, nowhere, engine)
        found.setdefault(tuple(CONDITIONS[name].holds(seen) for name in used), engine)
    return tuple(found.values())
