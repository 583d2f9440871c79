"""The port between the engine and a hypervisor: what the engine may ask of a host, and nothing else.

Two bindings ship: ``fsm.hypervisor.libvirt`` and ``fsm.hypervisor.simulated``. Both pass the same contract
tests. Every method raises ``fsm.errors.HostError`` or one of its kinds: ``NotFound``, ``HostUnreachable``
(a question got no answer) and ``OutcomeUnknown`` (a change was begun and its end not seen). No call hangs for
ever: each has a deadline, except ``migrate``, which ends when its job does or when keepalive gives the
connection up.

Methods that change something make it so: asking again for what is already there succeeds and does nothing.
Once nobody waits for one any more, for its deadline or because the task was cancelled, it goes no further
than the step that is under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fsm.hypervisor.values import (
    DomainFacts,
    FileFacts,
    HostIdentity,
    JobProgress,
    Marker,
    MigrationRequest,
    Overlay,
    PoolState,
    SnapshotMetadata,
    Space,
)

# The calls that change something on a host. An engine that has lost its lease may make none of them.
CHANGES = frozenset(
    (
        "abort_job",
        "allow_downtime",
        "cancel_block_job",
        "create_overlay",
        "create_overlays",
        "create_sparse",
        "cut_migration",
        "define",
        "define_snapshots",
        "destroy",
        "forget_snapshots",
        "lift_throttle",
        "limit_memory",
        "make_durable",
        "mark",
        "migrate",
        "pivot",
        "release",
        "remove",
        "resume",
        "set_threshold",
        "start_commit",
        "start_paused",
        "start_pull",
        "throttle_writes",
        "undefine",
        "unmark",
    )
)

# The questions for which a directory that no active pool covers gets one. Whoever may not act any more may
# not ask them either: nobody would put that back.
OPENERS = frozenset(("free_bytes", "peek", "read", "space", "stat", "writer"))


class DataSink(Protocol):
    """Takes the content of a byte range in ascending order. Either method may raise to stop the transfer."""

    def data(self, offset: int, chunk: bytes) -> None:
        """``chunk`` stands at ``offset``."""

    def hole(self, offset: int, length: int) -> None:
        """``length`` bytes from ``offset`` on are a hole: they read as zeros and take no space."""


class RangeWriter(DataSink, Protocol):
    """Writes into an existing file; holes are skipped, so they stay holes in a file made sparse."""

    def close(self) -> None:
        """Send what is buffered and wait until the host has taken it. Errors of earlier writes come here."""

    def abandon(self) -> None:
        """Give the open stream up after an error; never raises a ``HostError``."""


class DataChannel(Protocol):
    """A connection of its own to one host for bulk data. Blocking: it belongs to one thread."""

    def read(self, path: str, offset: int, length: int, sink: DataSink) -> None:
        """Feed ``length`` bytes from ``offset`` on, cut off at the file's end, to ``sink``."""

    def writer(self, path: str) -> RangeWriter:
        """A writer into the existing file ``path``."""

    def close(self) -> None:
        """Close the connection; what runs on it fails."""


class Watch(Protocol):
    """Wakes a waiter when anything about one domain changed: lifecycle, job, block job, I/O error."""

    async def changed(self, timeout_s: float) -> bool:
        """Wait for a change since the last call; False when ``timeout_s`` passed without one."""

    def close(self) -> None:
        """Stop watching."""


class Storage(Protocol):
    """Files of one host, by absolute path, through its storage pools.

    A block device is shown as a raw file, or by what its head says, that takes all of its length; the time of
    its last write need not change with a write. Nothing below ``/dev`` is created or removed: ``HostError``.

    Where no active pool covers a file's directory, one is made for the purpose (or the user's own inactive
    one is started); ``release`` puts that back.
    """

    async def pool_state(self, directory: str) -> PoolState:
        """How ``directory`` is covered at present by pools that are not ours. Changes nothing."""

    async def pool_directory(self, pool: str) -> str:
        """The directory whose files are the volumes of the storage pool with this name.

        ``NotFound`` where there is no such pool, ``HostError`` for one whose volumes are no files of a
        directory, or may not be there yet. Changes nothing.
        """

    async def stat(self, path: str) -> FileFacts | None:
        """The file at ``path``, None when there is none. ``NotFound`` when its directory does not exist."""

    async def peek(self, path: str, offset: int, length: int) -> bytes:
        """A small piece of the file's content, less where the file ends. ``NotFound`` without a file."""

    async def free_bytes(self, directory: str) -> int:
        """Free space of the file system that holds ``directory``. ``NotFound`` when it does not exist."""

    async def space(self, directory: str, paths: Sequence[str]) -> Space:
        """Its free space, and files in it, in one look. ``NotFound`` when it does not exist."""

    async def create_sparse(self, path: str, size_bytes: int) -> None:
        """Create a file of ``size_bytes`` that is one hole. ``HostError`` when ``path`` exists."""

    async def create_overlay(self, overlay: Overlay, capacity_bytes: int) -> None:
        """Create an empty qcow2 file on ``overlay.base``. ``HostError`` when its path exists."""

    async def make_durable(self, path: str) -> bool:
        """Have the file's content written to stable storage; False where no way exists."""

    async def remove(self, path: str) -> None:
        """Remove the file at ``path``; nothing happens when there is none."""

    async def release(self, directory: str, was: PoolState) -> None:
        """Bring the coverage of ``directory`` back to ``was``: pools of ours vanish, started ones stop."""


class Host(Protocol):
    """One hypervisor host. Reconnects by itself when its connection broke; should another host answer then
    than the one that ``identity`` has told of, this one counts as unreachable.
    """

    uri: str
    storage: Storage

    async def identity(self) -> HostIdentity:
        """Who this host is."""

    async def domains(self) -> tuple[str, ...]:
        """The UUIDs of all domains of the host, running or only defined."""

    async def resolve(self, domain: str) -> str:
        """The UUID of the domain with this name or UUID. ``NotFound`` when there is none."""

    async def domain(self, uuid: str) -> DomainFacts | None:
        """The domain at this moment, None when the host has none."""

    async def uses(self, uuid: str, path: str) -> bool:
        """Whether the domain's QEMU has this file in a disk's chain. QEMU itself is asked.

        A libvirtd that was killed does not know what its QEMU did last for it.
        """

    async def has_run(self, uuid: str) -> bool:
        """Whether the guest has made use of a disk since its process began here; False without a process.

        One that was started with its CPUs paused has not, until somebody lets it run.
        """

    async def domain_xml(self, uuid: str) -> str:
        """The migratable XML of the running (else the defined) domain, secrets included."""

    async def persistent_xml(self, uuid: str) -> str:
        """The definition that the next start will use, secrets included."""

    async def objections(self, domain_xml: str) -> tuple[str, ...]:
        """Why this host could not run a domain of this XML: machine type, CPU, emulator. Empty: it can."""

    async def snapshots(self, uuid: str) -> tuple[SnapshotMetadata, ...]:
        """All snapshots' metadata, parents before children, secrets included."""

    async def public_snapshots(self, uuid: str) -> tuple[SnapshotMetadata, ...]:
        """The same without secrets: what a client sees that may only read."""

    async def mark(self, uuid: str, marker: Marker) -> None:
        """Write ``marker`` into the metadata of the domain's process and of its definition.

        It replaces a marker that is there. ``HostError`` while a migration holds the domain.
        """

    async def unmark(self, uuid: str) -> None:
        """Remove the marker, so that the definition is again what it was; no marker, no domain: no effect."""

    async def create_overlays(self, uuid: str, overlays: Sequence[Overlay]) -> None:
        """Put all of ``overlays`` over their disks in one atomic step; disks not named are left alone."""

    async def forget_snapshots(self, uuid: str, names: Sequence[str]) -> None:
        """Drop the metadata of these snapshots; the snapshots in the images stay."""

    async def define_snapshots(self, uuid: str, snapshots: Sequence[SnapshotMetadata]) -> None:
        """Define metadata, given parents first, including which one is current."""

    async def migrate(self, uuid: str, request: MigrationRequest) -> None:
        """Migrate live, peer to peer, and return when the domain runs at the destination.

        Cancelling the awaiting task leaves a migration running that has begun. ``HostError``: it failed and
        libvirt says so. ``OutcomeUnknown``: the connection broke; the hosts go on by themselves.
        """

    async def migration_progress(self, uuid: str) -> JobProgress | None:
        """Progress of the migration job, None when there is none."""

    async def limit_memory(self, uuid: str, mib_per_s: int, was_mib_per_s: int = 0) -> None:
        """Give memory another limit in a migration that runs; the disks keep the one that they began with.

        Nothing happens without a migration, nor where another limit is in force than ``was_mib_per_s``, as
        somebody has set that; 0: whatever is in force.
        """

    async def allow_downtime(self, uuid: str, max_downtime_ms: int) -> None:
        """Let the guest stand still for so long at the end of a migration that runs.

        Nothing happens without a migration. One that fails leaves nothing of it behind.
        """

    async def throttle_writes(self, uuid: str, target: str, bytes_per_s: int, per_s: int = 0) -> None:
        """Let the guest write no more to a disk, in bytes and in writes a second (0: as many as it likes).

        Also while a migration or a block job is under way. The domain's description stays as it is, and with
        it the tighter limits of its user; a domain that arrives elsewhere does so without the throttle.
        """

    async def lift_throttle(self, uuid: str, target: str) -> None:
        """Bring back the limits that the domain's description has; no effect where it does not run."""

    async def abort_job(self, uuid: str) -> None:
        """Abort the migration job, if there is one."""

    async def cut_migration(self, uuid: str) -> None:
        """Cut the connections of a migration out of here, so that what waits for answers over them fails now.

        For a link that has fallen silent. ``abort_job`` waits for the other host, and QEMU, and with it the
        guest, for as long. Nothing happens where there is no migration.
        """

    async def start_commit(self, uuid: str, overlay: Overlay, bandwidth_mib_per_s: int = 0) -> None:
        """Begin an active block commit of ``overlay`` into its base; one that runs already is left alone.

        Limit none that may run out of space: QEMU 7.2 then aborts, and the guest with it.
        """

    async def start_pull(self, uuid: str, target: str, image: str) -> None:
        """Begin a block pull of all that is below ``image``, the disk's active layer, into it.

        It goes on by itself, and behind its end the disk stands on ``image`` alone. One that runs already is
        left alone, and so is a disk that stands on nothing else.
        """

    async def pivot(self, uuid: str, target: str) -> None:
        """End a commit that is ready: the base becomes the active layer. ``HostError`` when not ready."""

    async def cancel_block_job(self, uuid: str, target: str) -> None:
        """Cancel a block job, if there is one; the active layer stays what it was."""

    async def start_paused(self, uuid: str) -> None:
        """Start the defined domain with its CPUs paused."""

    async def resume(self, uuid: str) -> None:
        """Resume a paused domain."""

    async def destroy(self, uuid: str) -> None:
        """Stop the domain's process at once; its definition stays."""

    async def define(self, domain_xml: str) -> None:
        """Define a domain that is to stay shut off. ``HostError`` where one of its UUID or name exists."""

    async def undefine(self, uuid: str) -> None:
        """Remove a shut-off domain's definition; its images, NVRAM and TPM state stay."""

    async def set_threshold(self, uuid: str, target: str, offset_bytes: int) -> None:
        """Have the next write behind ``offset_bytes`` of a disk's active layer reported, once.

        The last call for a disk counts. ``HostError`` while a migration holds the domain, perhaps late.
        """

    def watch(self, uuid: str) -> Watch:
        """Watch one domain for changes."""

    def watch_thresholds(self, uuid: str) -> Watch:
        """Watch one domain for writes behind its thresholds, and for nothing else."""

    async def close(self) -> None:
        """Close the connection."""


class Connector(Protocol):
    """Opens hosts by URI."""

    def check(self, uri: str) -> None:
        """Raise ``BadInput`` for a URI that is wrong in itself. Asks no host."""

    async def connect(self, uri: str) -> Host:
        """Connect, or raise ``HostUnreachable`` with what to do, ``BadInput`` for a malformed URI."""

    def open_channel(self, uri: str) -> DataChannel:
        """Open a bulk data connection of its own. Blocking.

        ``HostUnreachable`` where another host answers by now than the one that has told its ``identity``.
        """
