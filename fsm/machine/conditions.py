"""The conditions that ``states.yaml`` may name: pure predicates over an observation.

A condition reads either the two hosts or the engine's own facts, never both. That split is enforced by what
each function is given, and it is what lets ``space`` enumerate all observations instead of sampling them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

from attrs import frozen

from fsm.machine import traits
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


class Reads(StrEnum):
    """Which half of an observation a condition depends on."""

    HOSTS = "hosts"
    ENGINE = "engine"


@frozen
class Condition:
    """A named predicate; ``meaning`` is the sentence that documents it. ``predicate`` takes what it reads."""

    name: str
    meaning: str
    reads: Reads
    holds: Callable[[Observation], bool]
    predicate: Callable[..., bool]


_registry: dict[str, Condition] = {}
CONDITIONS: Mapping[str, Condition] = MappingProxyType(_registry)


def _register(function: Callable[..., bool], reads: Reads, holds: Callable[[Observation], bool]) -> None:
    name = function.__name__.replace("_", "-")
    if name in _registry:
        raise ValueError(f"condition {name!r} is defined twice")
    _registry[name] = Condition(name, (function.__doc__ or "").strip(), reads, holds, function)


def _of_hosts(function: Callable[[Host, Host], bool]) -> Callable[[Host, Host], bool]:
    _register(function, Reads.HOSTS, lambda seen: function(seen.source, seen.destination))
    return function


def _of_engine(function: Callable[[Engine], bool]) -> Callable[[Engine], bool]:
    _register(function, Reads.ENGINE, lambda seen: function(seen.engine))
    return function


@_of_hosts
def source_unknown(source: Host, _destination: Host) -> bool:
    """The source can't be reached and nobody has attested that it is off."""
    return not source.reachable and not source.fenced


@_of_hosts
def destination_unknown(_source: Host, destination: Host) -> bool:
    """The destination can't be reached and nobody has attested that it is off."""
    return not destination.reachable and not destination.fenced


@_of_hosts
def source_known(source: Host, _destination: Host) -> bool:
    """The source was read, or is attested to be off."""
    return source.reachable or source.fenced


@_of_hosts
def destination_known(_source: Host, destination: Host) -> bool:
    """The destination was read, or is attested to be off."""
    return destination.reachable or destination.fenced


@_of_hosts
def source_active(source: Host, _destination: Host) -> bool:
    """The source has a QEMU process of the domain that may go on: running, or paused by its user."""
    domain = traits.active(source)
    return domain is not None and not traits.handed_over(domain) and domain.state is not DomainState.CRASHED


@_of_hosts
def source_stopped(source: Host, _destination: Host) -> bool:
    """The guest at the source has ended: it is shut off, or crashed and kept for somebody to look at."""
    domain = source.domain
    return domain is not None and (not domain.active or domain.state is DomainState.CRASHED)


@_of_hosts
def source_shut_off(source: Host, _destination: Host) -> bool:
    """At the source the domain is defined and has no QEMU process."""
    return source.domain is not None and not source.domain.active


@_of_hosts
def source_migrating(source: Host, _destination: Host) -> bool:
    """A migration job runs at the source."""
    domain = traits.active(source)
    return domain is not None and domain.job is Job.MIGRATION_OUT


@_of_hosts
def source_on_overlay(source: Host, _destination: Host) -> bool:
    """At the source some disk is on its overlay, none on a foreign layer, and the domain is not another's."""
    return traits.on_overlay(source)


@_of_hosts
def source_on_base(source: Host, _destination: Host) -> bool:
    """At the source every disk is on its base alone, without a block job, and not another's."""
    return traits.on_base(source)


@_of_hosts
def source_untangled(source: Host, _destination: Host) -> bool:
    """At the source every disk is on its base or on our overlay, and no marker says that it is another's."""
    return source.domain is not None and not traits.foreign(source)


@_of_hosts
def source_foreign(source: Host, _destination: Host) -> bool:
    """At the source some disk is on a layer that this migration did not make, or the marker is another's."""
    return traits.foreign(source)


@_of_hosts
def source_altered(source: Host, _destination: Host) -> bool:
    """At the source somebody put into the overlay, or upon its disk, what a commit would destroy."""
    return traits.is_altered(source)


@_of_hosts
def source_unaltered(source: Host, _destination: Host) -> bool:
    """At the source no snapshot, resize or block job is seen that this migration does not know."""
    return not traits.is_altered(source)


@_of_hosts
def source_off_overlay(source: Host, _destination: Host) -> bool:
    """The source was read, and no disk there is on our overlay or on a layer that may hide it."""
    # That a host is off does not tell what its domain's definition names.
    off = not any(traits.some_disk_on(source, layer) for layer in (Layer.OVERLAY, Layer.FOREIGN))
    return source.reachable and off


@_of_hosts
def destination_untangled(_source: Host, destination: Host) -> bool:
    """At the destination every disk is on its base or on our overlay, and the domain is not another's."""
    return destination.domain is not None and not traits.foreign(destination)


@_of_hosts
def destination_foreign(_source: Host, destination: Host) -> bool:
    """At the destination some disk is on a layer that we did not make, or the marker is another's."""
    return traits.foreign(destination)


@_of_hosts
def destination_altered(_source: Host, destination: Host) -> bool:
    """At the destination somebody put into the overlay, or upon its disk, what a commit would destroy."""
    return traits.is_altered(destination)


@_of_hosts
def destination_unaltered(_source: Host, destination: Host) -> bool:
    """At the destination no snapshot, resize or block job is seen that this migration does not know."""
    return not traits.is_altered(destination)


@_of_hosts
def destination_on_base(_source: Host, destination: Host) -> bool:
    """At the destination every disk is on its base alone, without a block job, and not another's."""
    return traits.on_base(destination)


@_of_hosts
def destination_absent(_source: Host, destination: Host) -> bool:
    """The destination was read and has no such domain: it is free for it."""
    return destination.reachable and destination.domain is None


@_of_hosts
def owned_by_source(source: Host, destination: Host) -> bool:
    """The domain is at the source alone, without a job, and was not handed over."""
    return traits.owned_by_source(source, destination)


@_of_hosts
def owned_by_destination(source: Host, destination: Host) -> bool:
    """The domain has arrived at the destination and the source is known to have no instance of it."""
    return traits.owned_by_destination(source, destination)


@_of_hosts
def source_superseded(source: Host, destination: Host) -> bool:
    """The source is paused after handing over, its job is done, and the destination has the domain."""
    return traits.superseded(source, destination)


@_of_hosts
def both_run(source: Host, destination: Host) -> bool:
    """Both hosts have an instance that may write, and no migration job explains it: split brain."""
    return traits.both_run(source, destination)


@_of_hosts
def domain_missing(source: Host, destination: Host) -> bool:
    """Both hosts are known and neither has the domain."""
    known = (source.reachable or source.fenced) and (destination.reachable or destination.fenced)
    return known and source.domain is None and destination.domain is None


@_of_engine
def preflight_passed(engine: Engine) -> bool:
    """Preflight has found nothing against the migration."""
    return engine.preflight is Preflight.PASSED


@_of_engine
def preflight_not_passed(engine: Engine) -> bool:
    """Preflight has not passed, so nothing was touched."""
    return engine.preflight is not Preflight.PASSED


@_of_engine
def preflight_refused(engine: Engine) -> bool:
    """Preflight has found a reason against the migration."""
    return engine.preflight is Preflight.REFUSED


@_of_engine
def merges_by_commit(engine: Engine) -> bool:
    """The destination gets an overlay of its own, to be committed after the switch-over."""
    return engine.merge is Merge.COMMIT


@_of_engine
def merges_by_mirror(engine: Engine) -> bool:
    """libvirt's migration writes the overlays' content straight into the copied bases."""
    return engine.merge is Merge.MIRROR


@_of_engine
def moves_live(engine: Engine) -> bool:
    """The domain had a QEMU process when it was planned: an overlay takes what it writes."""
    return engine.merge is not Merge.NONE


@_of_engine
def moves_shut_off(engine: Engine) -> bool:
    """The domain was shut off when it was planned: nothing writes to its base, and there is no overlay."""
    return engine.merge is Merge.NONE


@_of_engine
def copies_verified(engine: Engine) -> bool:
    """Every base was copied, made durable and compared with its original."""
    return engine.copies_verified


@_of_engine
def transfer_begun(engine: Engine) -> bool:
    """libvirt was asked to migrate at least once: the destination may have the domain."""
    return engine.transfer_begun


@_of_engine
def transfer_not_begun(engine: Engine) -> bool:
    """libvirt was never asked to migrate: the destination can't have the domain, reachable or not."""
    return not engine.transfer_begun


@_of_engine
def activity_begun(engine: Engine) -> bool:
    """The state's activity was begun during this stay, whatever became of it."""
    return engine.activity is not Activity.NOT_BEGUN


@_of_engine
def step_failed(engine: Engine) -> bool:
    """The last action or activity in this state failed."""
    return engine.step_failed


@_of_engine
def attempts_exhausted(engine: Engine) -> bool:
    """The last step failed and the state's retry policy has no attempt left."""
    return engine.step_failed and not engine.attempts_left


@_of_engine
def overdue(engine: Engine) -> bool:
    """The state's timeout has passed without progress."""
    return engine.overdue


@_of_engine
def retry_due(engine: Engine) -> bool:
    """The operator asked for another try, or the state's retry policy has come to one."""
    return engine.retry_due


@_of_engine
def abort_requested(engine: Engine) -> bool:
    """Somebody asked to abort the migration."""
    return engine.abort_requested


@_of_engine
def space_short(engine: Engine) -> bool:
    """A host's file system would get full before the overlay is committed."""
    return engine.space_short


@_of_engine
def adopted(engine: Engine) -> bool:
    """The migration was made from what both hosts show, as the journal that began it is lost."""
    return engine.adopted


@_of_engine
def rescue_requested(engine: Engine) -> bool:
    """Somebody asked to save the snapshots in the overlay before they are lost."""
    return engine.rescue_requested
