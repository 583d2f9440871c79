"""One libvirt host as the port wants it: each method is one piece of work under a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from fsm.hypervisor.libvirt import (
    blockjobs,
    compatibility,
    lifecycle,
    marking,
    migration,
    monitor,
    reading,
    throttle,
)
from fsm.hypervisor.libvirt import snapshots as metadata
from fsm.hypervisor.libvirt.link import Link
from fsm.hypervisor.libvirt.storage import LibvirtStorage
from fsm.hypervisor.libvirt.watch import Watches
from fsm.hypervisor.libvirt.workers import run_alone
from fsm.hypervisor.port import Storage, Watch
from fsm.hypervisor.uris import safe_uri
from fsm.hypervisor.values import (
    DomainFacts,
    HostIdentity,
    JobProgress,
    Marker,
    MigrationRequest,
    Overlay,
    SnapshotMetadata,
)

# Calls that start or stop QEMU, or make it flush what it holds, may take longer than a question.
SLOW_DEADLINE_S = 120.0


class LibvirtHost:
    """See ``fsm.hypervisor.port.Host``. Belongs to one asyncio event loop.

    ``told`` is given the host's UUID when that is known.
    """

    storage: Storage

    def __init__(self, uri: str, deadline_s: float, told: Callable[[str], None] = lambda _uuid: None) -> None:
        self.uri = safe_uri(uri)
        self._uri = uri
        self._told = told
        self._watches = Watches()
        self._thresholds = Watches()
        self._link = Link(uri, deadline_s, self._watches.notify, self._thresholds.notify)
        self._slow_s = max(deadline_s, SLOW_DEADLINE_S)
        self.storage = LibvirtStorage(self._link)

    async def open(self) -> None:
        """Connect now instead of at the first call."""
        await self._link.open()

    async def identity(self) -> HostIdentity:
        """Who this host is."""
        found = await self._link.ask("identity", reading.identity)
        self._link.expect(found.uuid)
        self._told(found.uuid)
        return found

    async def domains(self) -> tuple[str, ...]:
        """The UUIDs of all domains of the host, running or only defined."""
        return await self._link.ask("domains", reading.domains)

    async def resolve(self, domain: str) -> str:
        """The UUID of the domain with this name or UUID. ``NotFound`` when there is none."""
        return await self._link.ask("resolve", lambda call: reading.resolve(call, domain))

    async def domain(self, uuid: str) -> DomainFacts | None:
        """The domain at this moment, None when the host has none."""
        return await self._link.ask("domain", lambda call: reading.read_domain(call, uuid))

    async def uses(self, uuid: str, path: str) -> bool:
        """Whether the domain's QEMU has this file in a disk's chain."""
        return await self._link.ask("uses", lambda call: monitor.uses(call, uuid, path))

    async def has_run(self, uuid: str) -> bool:
        """Whether the guest has made use of a disk since its process began here; False without a process."""
        return await self._link.ask("has_run", lambda call: reading.has_run(call, uuid))

    async def domain_xml(self, uuid: str) -> str:
        """The migratable XML of the running (else the defined) domain, secrets included."""
        return await self._link.ask("domain_xml", lambda call: reading.migratable_xml(call, uuid))

    async def persistent_xml(self, uuid: str) -> str:
        """The definition that the next start will use, secrets included."""
        return await self._link.ask("persistent_xml", lambda call: reading.persistent_xml(call, uuid))

    async def objections(self, domain_xml: str) -> tuple[str, ...]:
        """Why this host could not run a domain of this XML. Empty: it can."""
        return await self._link.ask("objections", lambda call: compatibility.objections(call, domain_xml))

    async def snapshots(self, uuid: str) -> tuple[SnapshotMetadata, ...]:
        """All snapshots' metadata, parents before children, secrets included."""
        return await self._link.ask("snapshots", lambda call: metadata.list_snapshots(call, uuid))

    async def public_snapshots(self, uuid: str) -> tuple[SnapshotMetadata, ...]:
        """The same without secrets: what a client sees that may only read."""
        return await self._link.ask("public_snapshots", lambda call: metadata.list_public(call, uuid))

    async def mark(self, uuid: str, marker: Marker) -> None:
        """Write ``marker`` into the metadata of the domain's process and of its definition."""
        await self._link.change("mark", lambda call: marking.mark(call, uuid, marker))

    async def unmark(self, uuid: str) -> None:
        """Remove the marker; the definition is again what it was."""
        await self._link.change("unmark", lambda call: marking.unmark(call, uuid))

    async def create_overlays(self, uuid: str, overlays: Sequence[Overlay]) -> None:
        """Put all of ``overlays`` over their disks in one atomic step; disks not named are left alone."""
        await self._link.change(
            "create_overlays", lambda call: metadata.create_overlays(call, uuid, overlays), self._slow_s
        )

    async def forget_snapshots(self, uuid: str, names: Sequence[str]) -> None:
        """Drop the metadata of these snapshots; the snapshots in the images stay."""
        await self._link.change("forget_snapshots", lambda call: metadata.forget_snapshots(call, uuid, names))

    async def define_snapshots(self, uuid: str, snapshots: Sequence[SnapshotMetadata]) -> None:
        """Define metadata, given parents first, including which one is current."""
        await self._link.change(
            "define_snapshots", lambda call: metadata.define_snapshots(call, uuid, snapshots)
        )

    async def migrate(self, uuid: str, request: MigrationRequest) -> None:
        """Migrate live, peer to peer. Cancelling the awaiting task leaves the migration running."""
        given_up = threading.Event()
        future = run_alone(lambda: migration.migrate(self._uri, uuid, request, given_up), f"migrate {uuid}")
        try:
            await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            given_up.set()  # takes it back if it has not begun
            raise

    async def migration_progress(self, uuid: str) -> JobProgress | None:
        """Progress of the migration job, None when there is none."""
        return await self._link.ask("migration_progress", lambda call: migration.progress(call, uuid))

    async def limit_memory(self, uuid: str, mib_per_s: int, was_mib_per_s: int = 0) -> None:
        """Give memory another limit in a migration that runs."""
        await self._link.change(
            "limit_memory", lambda call: migration.limit_memory(call, uuid, mib_per_s, was_mib_per_s)
        )

    async def allow_downtime(self, uuid: str, max_downtime_ms: int) -> None:
        """Let the guest stand still for so long at the end of a migration that runs."""
        await self._link.change(
            "allow_downtime", lambda call: migration.allow_downtime(call, uuid, max_downtime_ms)
        )

    async def throttle_writes(self, uuid: str, target: str, bytes_per_s: int, per_s: int = 0) -> None:
        """Let the guest write no more to a disk, in bytes and in writes a second."""
        await self._link.change(
            "throttle_writes", lambda call: throttle.throttle_writes(call, uuid, target, bytes_per_s, per_s)
        )

    async def lift_throttle(self, uuid: str, target: str) -> None:
        """Bring back the limits that the domain's description has."""
        await self._link.change("lift_throttle", lambda call: throttle.lift_throttle(call, uuid, target))

    async def abort_job(self, uuid: str) -> None:
        """Abort the migration job, if there is one."""
        await self._link.change("abort_job", lambda call: migration.abort(call, uuid))

    async def cut_migration(self, uuid: str) -> None:
        """Cut the connections of a migration out of here, so that what waits for answers over them fails."""
        await self._link.change("cut_migration", lambda call: monitor.cut_migration(call, uuid))

    async def start_commit(self, uuid: str, overlay: Overlay, bandwidth_mib_per_s: int = 0) -> None:
        """Begin an active block commit of ``overlay`` into its base; one that runs already is left alone."""
        await self._link.change(
            "start_commit", lambda call: blockjobs.start_commit(call, uuid, overlay, bandwidth_mib_per_s)
        )

    async def start_pull(self, uuid: str, target: str, image: str) -> None:
        """Begin a block pull of all that is below ``image`` into it; one that runs already is left alone."""
        await self._link.change("start_pull", lambda call: blockjobs.start_pull(call, uuid, target, image))

    async def pivot(self, uuid: str, target: str) -> None:
        """End a commit that is ready: the base becomes the active layer. ``HostError`` when not ready."""
        await self._link.change("pivot", lambda call: blockjobs.pivot(call, uuid, target), self._slow_s)

    async def cancel_block_job(self, uuid: str, target: str) -> None:
        """Cancel a block job, if there is one; the active layer stays what it was."""
        await self._link.change(
            "cancel_block_job", lambda call: blockjobs.cancel(call, uuid, target), self._slow_s
        )

    async def start_paused(self, uuid: str) -> None:
        """Start the defined domain with its CPUs paused."""
        await self._link.change("start_paused", lambda call: lifecycle.start_paused(call, uuid), self._slow_s)

    async def resume(self, uuid: str) -> None:
        """Resume a paused domain."""
        await self._link.change("resume", lambda call: lifecycle.resume(call, uuid))

    async def destroy(self, uuid: str) -> None:
        """Stop the domain's process at once; its definition stays."""
        await self._link.change("destroy", lambda call: lifecycle.destroy(call, uuid), self._slow_s)

    async def define(self, domain_xml: str) -> None:
        """Define a domain that is to stay shut off; none of its UUID or name may exist."""
        await self._link.change("define", lambda call: lifecycle.define(call, domain_xml))

    async def undefine(self, uuid: str) -> None:
        """Remove a shut-off domain's definition; its images, NVRAM and TPM state stay."""
        await self._link.change("undefine", lambda call: lifecycle.undefine(call, uuid))

    async def set_threshold(self, uuid: str, target: str, offset_bytes: int) -> None:
        """Have the next write behind ``offset_bytes`` of a disk's active layer reported, once."""
        await self._link.change(
            "set_threshold", lambda call: blockjobs.set_threshold(call, uuid, target, offset_bytes)
        )

    def watch(self, uuid: str) -> Watch:
        """Watch one domain for changes."""
        return self._watches.add(uuid)

    def watch_thresholds(self, uuid: str) -> Watch:
        """Watch one domain for writes behind its thresholds, and for nothing else."""
        return self._thresholds.add(uuid)

    async def close(self) -> None:
        """Close the connection when the last call on it has ended. A migration goes on."""
        await self._link.close()
