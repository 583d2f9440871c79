"""The asynchronous port to a simulated host: each method passes one function of the state to the core."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from attrs import define, field

from fsm.errors import HostError, OutcomeUnknown
from fsm.hypervisor.port import Storage, Watch
from fsm.hypervisor.simulated import commit, domains, marking, migration, pull
from fsm.hypervisor.simulated import overlays as layering
from fsm.hypervisor.simulated import snapshots as metadata
from fsm.hypervisor.simulated.core import WorldCore
from fsm.hypervisor.simulated.faults import When
from fsm.hypervisor.simulated.state import HostState, MigrationJob, WorldState
from fsm.hypervisor.simulated.storage import SimulatedStorage
from fsm.hypervisor.simulated.watches import SimulatedThresholdWatch, SimulatedWatch
from fsm.hypervisor.values import (
    DomainFacts,
    HostIdentity,
    JobProgress,
    Marker,
    MigrationRequest,
    Overlay,
    SnapshotMetadata,
)

T = TypeVar("T")

_LONGEST_MIGRATION = 10_000_000


@define(eq=False)
class SimulatedHost:
    """See ``fsm.hypervisor.port.Host``."""

    uri: str
    _core: WorldCore
    storage: Storage = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.storage = SimulatedStorage(self.uri, self._core)

    async def _call(
        self, name: str, arguments: tuple[object, ...], effect: Callable[[WorldState, HostState], T]
    ) -> T:
        # Others get a turn on both sides of the effect: calls over a network are no single moment, and a
        # task may be cancelled before or after what it asked for was done.
        await asyncio.sleep(0)
        result = self._core.perform(self.uri, name, arguments, effect)
        await asyncio.sleep(0)
        return result

    async def identity(self) -> HostIdentity:
        """See the port."""
        return await self._call("identity", (), lambda _, host: _identity(host))

    async def domains(self) -> tuple[str, ...]:
        """See the port."""
        return await self._call("domains", (), lambda _, host: tuple(host.domains))

    async def resolve(self, domain: str) -> str:
        """See the port."""
        return await self._call("resolve", (domain,), lambda _, host: domains.resolve(host, domain))

    async def domain(self, uuid: str) -> DomainFacts | None:
        """See the port. A look is a step of the domain's jobs."""
        self._core.look(uuid)
        return await self._call("domain", (uuid,), lambda _, host: domains.facts(host, uuid))

    async def uses(self, uuid: str, path: str) -> bool:
        """See the port."""
        return await self._call("uses", (uuid, path), lambda _, host: domains.uses(host, uuid, path))

    async def has_run(self, uuid: str) -> bool:
        """See the port."""
        return await self._call("has_run", (uuid,), lambda _, host: domains.has_run(host, uuid))

    async def domain_xml(self, uuid: str) -> str:
        """See the port."""
        return await self._call("domain_xml", (uuid,), lambda _, host: domains.current_xml(host, uuid))

    async def persistent_xml(self, uuid: str) -> str:
        """See the port."""
        return await self._call("persistent_xml", (uuid,), lambda _, host: domains.persistent_xml(host, uuid))

    async def objections(self, domain_xml: str) -> tuple[str, ...]:
        """See the port."""
        return await self._call(
            "objections", (domain_xml,), lambda _, host: domains.objections(host, domain_xml)
        )

    async def snapshots(self, uuid: str) -> tuple[SnapshotMetadata, ...]:
        """See the port."""
        return await self._call("snapshots", (uuid,), lambda _, host: metadata.listed(host, uuid))

    async def public_snapshots(self, uuid: str) -> tuple[SnapshotMetadata, ...]:
        """See the port."""
        return await self._call("public_snapshots", (uuid,), lambda _, host: metadata.public(host, uuid))

    async def mark(self, uuid: str, marker: Marker) -> None:
        """See the port."""
        await self._call("mark", (uuid, marker), lambda state, host: marking.mark(state, host, uuid, marker))

    async def unmark(self, uuid: str) -> None:
        """See the port."""
        await self._call("unmark", (uuid,), lambda state, host: marking.unmark(state, host, uuid))

    async def create_overlays(self, uuid: str, overlays: Sequence[Overlay]) -> None:
        """See the port."""
        wanted = tuple(overlays)
        await self._call(
            "create_overlays",
            (uuid, wanted),
            lambda state, host: layering.create(state, host, uuid, wanted),
        )

    async def forget_snapshots(self, uuid: str, names: Sequence[str]) -> None:
        """See the port."""
        wanted = tuple(names)
        await self._call(
            "forget_snapshots",
            (uuid, wanted),
            lambda state, host: metadata.forget(state, host, uuid, wanted),
        )

    async def define_snapshots(self, uuid: str, snapshots: Sequence[SnapshotMetadata]) -> None:
        """See the port."""
        wanted = tuple(snapshots)
        await self._call(
            "define_snapshots",
            (uuid, wanted),
            lambda state, host: metadata.define(state, host, uuid, wanted),
        )

    async def migrate(self, uuid: str, request: MigrationRequest) -> None:
        """See the port. The migration goes on when the awaiting task has gone, as others look at it."""
        await asyncio.sleep(0)
        with self._core.passing(self.uri, "migrate", (uuid, request)) as call:
            with self._core.changing() as state:
                job = migration.begin(state, call.enter(), uuid, request)
                call.leave(When.DURING)
            await self._until_ended(uuid, job)
            call.leave()

    async def _until_ended(self, uuid: str, job: MigrationJob) -> None:
        for _ in range(_LONGEST_MIGRATION):
            if job.ended or not self._core.reaches(self.uri):
                break
            await self._core.turn(self.uri, uuid, None)
        if job.lost or not job.ended:
            raise OutcomeUnknown("the connection broke", host=self.uri, call="migrate")
        if job.failure:
            raise HostError(job.failure, host=self.uri, call="migrate")

    async def migration_progress(self, uuid: str) -> JobProgress | None:
        """See the port. A look is a step of the domain's jobs."""
        self._core.look(uuid)
        return await self._call("migration_progress", (uuid,), lambda _, host: migration.progress(host, uuid))

    async def limit_memory(self, uuid: str, mib_per_s: int, was_mib_per_s: int = 0) -> None:
        """See the port."""
        await self._call(
            "limit_memory",
            (uuid, mib_per_s, was_mib_per_s),
            lambda _, host: migration.limit_memory(host, uuid, mib_per_s, was_mib_per_s),
        )

    async def allow_downtime(self, uuid: str, max_downtime_ms: int) -> None:
        """See the port."""
        await self._call(
            "allow_downtime",
            (uuid, max_downtime_ms),
            lambda _, host: migration.allow_downtime(host, uuid, max_downtime_ms),
        )

    async def throttle_writes(self, uuid: str, target: str, bytes_per_s: int, per_s: int = 0) -> None:
        """See the port."""
        await self._call(
            "throttle_writes",
            (uuid, target, bytes_per_s, per_s),
            lambda _, host: domains.throttle(host, uuid, target, bytes_per_s),
        )

    async def lift_throttle(self, uuid: str, target: str) -> None:
        """See the port."""
        await self._call("lift_throttle", (uuid, target), lambda _, host: domains.lift(host, uuid, target))

    async def abort_job(self, uuid: str) -> None:
        """See the port."""
        await self._call("abort_job", (uuid,), lambda state, host: migration.abort(state, host, uuid))

    async def cut_migration(self, uuid: str) -> None:
        """See the port."""
        await self._call("cut_migration", (uuid,), lambda state, host: migration.cut(state, host, uuid))

    async def start_commit(self, uuid: str, overlay: Overlay, bandwidth_mib_per_s: int = 0) -> None:
        """See the port."""
        await self._call(
            "start_commit",
            (uuid, overlay, bandwidth_mib_per_s),
            lambda state, host: commit.start(state, host, uuid, overlay, bandwidth_mib_per_s),
        )

    async def start_pull(self, uuid: str, target: str, image: str) -> None:
        """See the port."""
        await self._call(
            "start_pull",
            (uuid, target, image),
            lambda state, host: pull.start(state, host, uuid, target, image),
        )

    async def pivot(self, uuid: str, target: str) -> None:
        """See the port."""
        await self._call("pivot", (uuid, target), lambda state, host: commit.pivot(state, host, uuid, target))

    async def cancel_block_job(self, uuid: str, target: str) -> None:
        """See the port."""
        await self._call(
            "cancel_block_job", (uuid, target), lambda state, host: commit.cancel(state, host, uuid, target)
        )

    async def start_paused(self, uuid: str) -> None:
        """See the port."""
        await self._call("start_paused", (uuid,), lambda state, host: domains.start_paused(state, host, uuid))

    async def resume(self, uuid: str) -> None:
        """See the port."""
        await self._call("resume", (uuid,), lambda state, host: domains.resume(state, host, uuid))

    async def destroy(self, uuid: str) -> None:
        """See the port."""
        await self._call("destroy", (uuid,), lambda state, host: domains.destroy(state, host, uuid))

    async def define(self, domain_xml: str) -> None:
        """See the port."""
        await self._call(
            "define", (domain_xml,), lambda state, host: domains.define_new(state, host, domain_xml)
        )

    async def undefine(self, uuid: str) -> None:
        """See the port."""
        await self._call("undefine", (uuid,), lambda state, host: domains.undefine(state, host, uuid))

    async def set_threshold(self, uuid: str, target: str, offset_bytes: int) -> None:
        """See the port."""
        await self._call(
            "set_threshold",
            (uuid, target, offset_bytes),
            lambda _, host: commit.set_threshold(host, uuid, target, offset_bytes),
        )

    def watch(self, uuid: str) -> Watch:
        """See the port."""
        return SimulatedWatch(self.uri, uuid, self._core)

    def watch_thresholds(self, uuid: str) -> Watch:
        """See the port."""
        return SimulatedThresholdWatch(self.uri, uuid, self._core)

    async def close(self) -> None:
        """See the port. A closed host opens again by itself when it is asked something."""
        await asyncio.sleep(0)


def _identity(host: HostState) -> HostIdentity:
    return HostIdentity(
        host.uuid, host.hostname, host.libvirt_version, host.hypervisor_version, host.security_models
    )
