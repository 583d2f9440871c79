"""Plain values that cross the hypervisor port: what a host told, and what it is asked to do."""

from __future__ import annotations

import posixpath
from enum import StrEnum

from attrs import evolve, field, frozen

from fsm.machine.observation import BlockJob, DomainState, Job, Merge, Size

SECTOR_BYTES = 512
LONGEST_DOWNTIME_MS = 2_000_000
"""QEMU's own bound."""


def is_among_devices(path: str) -> bool:
    """Whether a path is where a host keeps its devices: nothing there is made or removed."""
    return path.startswith("/dev/") and not path.startswith("/dev/shm/")  # noqa: S108 - a file system in memory


@frozen
class HostIdentity:
    """Who answers at a URI. ``uuid`` is the host UUID that libvirt compares to tell hosts apart."""

    uuid: str
    hostname: str
    libvirt_version: tuple[int, int, int]
    hypervisor_version: tuple[int, int, int]
    security_models: tuple[str, ...] = ()


@frozen
class DiskFacts:
    """One ``<disk>`` of a domain, migrated or not.

    ``chain`` holds the sources of the whole backing chain, active layer first; for a shut-off domain only
    the active layer. ``formats`` holds the format of each layer of ``chain``. ``cache`` is the cache mode,
    empty for QEMU's choice.
    """

    target: str
    device: str = "disk"
    source_type: str = "file"
    chain: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    read_only: bool = False
    shareable: bool = False
    transient: bool = False
    encrypted: bool = False
    cache: str = ""
    block_job: BlockJob | None = None

    @property
    def source(self) -> str:
        """The active layer's path, empty for an empty drive."""
        return self.chain[0] if self.chain else ""

    @property
    def format(self) -> str:
        """The active layer's format, empty when libvirt names none."""
        return self.formats[0] if self.formats else ""


@frozen
class DomainFacts:
    """A domain as its host knows it at one moment.

    ``disk_errors`` maps disk targets to libvirt's word for the error that paused or hurt them
    (``virDomainGetDiskErrors``): "no-space", "unspec". ``managed_save``: its memory lies in a file of
    libvirt's.
    """

    uuid: str
    name: str
    state: DomainState
    reason: str = ""
    persistent: bool = True
    job: Job = Job.NONE
    disks: tuple[DiskFacts, ...] = ()
    snapshots: tuple[str, ...] = ()
    current_snapshot: str | None = None
    disk_errors: tuple[tuple[str, str], ...] = ()
    marker: Marker | None = None
    backup_running: bool = False
    checkpoints: tuple[str, ...] = ()
    managed_save: bool = False


@frozen
class SnapshotMetadata:
    """libvirt's description of one internal snapshot, complete enough to define it again elsewhere.

    ``external`` tells that its disks or memory lie in files of their own: such a one can't be carried.
    """

    name: str
    xml: str
    parent: str | None = None
    current: bool = False
    external: bool = False


@frozen
class Overlay:
    """A temporary overlay: its path, and the base below it (path and format), for one disk target.

    ``shared``: both hosts see the very same base, so that it is never copied and never removed.
    ``destination_base`` is the path of the base's copy, empty where that has the same path. ``on_device``:
    the base is a block device, ``arrives_on_device``: its copy is one, or the shared base itself, which is
    neither made nor removed.
    """

    target: str
    path: str
    base: str
    base_format: str
    shared: bool = False
    destination_base: str = ""
    on_device: bool = False
    arrives_on_device: bool = False

    @property
    def arrived(self) -> Overlay:
        """The destination's overlay of the same disk. Where both hosts may see it, it is another file."""
        base = self.destination_base or self.base
        beside = posixpath.dirname(self.path) == posixpath.dirname(self.base) and not self.arrives_on_device
        path = base + self.path.removeprefix(self.base) if beside and self.destination_base else self.path
        if self.shared or not beside:
            path = f"{path}.arrived"
        there = self.arrives_on_device
        return evolve(self, path=path, base=base, destination_base="", on_device=there)

    @property
    def files(self) -> tuple[str, ...]:
        """The base, its copy, and the overlays of both hosts."""
        return tuple(dict.fromkeys((self.base, self.path, self.arrived.base, self.arrived.path)))


@frozen
class Base:
    """A base that stands still: its path, its file's length, and the virtual size of the disk in it.

    ``growable``: QEMU can make it larger, so a disk that is resized meanwhile can be committed. ``modified``
    is the mark by which a write into it shows, empty where nobody knows it any more. ``below``: it is no
    disk's base but a file below one, copied along. ``on_device``: it is a block device, whose length is the
    device's; no mark shows a write into one.
    """

    path: str
    format: str
    size_bytes: int
    allocated_bytes: int
    capacity_bytes: int
    growable: bool = True
    modified: str = ""
    below: bool = False
    on_device: bool = False

    def fits(self, capacity_bytes: int) -> Size:
        """How an overlay of this virtual size stands to the base. QEMU counts in sectors."""
        own_bytes = -(-self.capacity_bytes // SECTOR_BYTES) * SECTOR_BYTES
        if capacity_bytes == own_bytes:
            return Size.SAME
        return Size.GROWN if self.growable and capacity_bytes > own_bytes else Size.UNFIT


@frozen
class Marker:
    """What a domain's own metadata tells of its migration, for the day when the journal is lost.

    Whoever may read the host may read it, so it holds no secrets. ``owner`` is the claim of one journal: an
    engine that adopts the migration writes another one, and the one before sees that it is not its own any
    more. The URIs are as a reader may see them, ``source_host`` and ``destination_host`` the hosts' UUIDs;
    ``journal`` says where the journal is. ``bases`` is filled once the copies exist at the destination, all
    made by this migration; ``below`` are the files, path and format, that are copied besides the bases.
    ``snapshots`` then holds the metadata, packed (``fsm.hypervisor.markers``). ``destination_name``: the
    domain is to have another name there.
    ``started_paused``: the domain was shut off and is started, paused, only to be committed. ``problem`` says
    why a marker can't be read; nothing else of it is known then.
    """

    migration: str
    owner: str = ""
    source_uri: str = ""
    destination_uri: str = ""
    source_host: str = ""
    destination_host: str = ""
    journal: str = ""
    merge: Merge = Merge.COMMIT
    overlays: tuple[Overlay, ...] = ()
    bases: tuple[Base, ...] = ()
    below: tuple[tuple[str, str], ...] = ()
    snapshots: str = field(default="", repr=False)
    started_paused: bool = False
    destination_name: str = ""
    problem: str = ""


@frozen
class FileFacts:
    """A file as the storage driver sees it.

    ``size_bytes`` is the file's length, ``allocated_bytes`` what it takes on disk, ``capacity_bytes`` the
    virtual size of the disk inside it, ``format`` what its header says ("raw" when it says nothing).
    ``modified`` is a mark that is another one after every write: the time of the last one, or a count.
    """

    path: str
    size_bytes: int
    allocated_bytes: int
    capacity_bytes: int
    format: str
    backing: str | None = None
    modified: str = ""

    def used_as(self, image_format: str) -> FileFacts:
        """The same file as a disk of this format sees it: what a raw disk holds may look like an image."""
        if image_format != "raw":
            return self
        return evolve(self, format="raw", capacity_bytes=self.size_bytes, backing=None)


@frozen
class Space:
    """A file system and some of its files at one moment; ``files`` leaves out those that are missing."""

    free_bytes: int
    capacity_bytes: int
    files: tuple[FileFacts, ...] = ()


class PoolState(StrEnum):
    """How a directory was covered by a storage pool before we came, so that it can be put back."""

    ACTIVE = "active"
    INACTIVE = "inactive"  # defined by somebody, not started
    NONE = "none"


@frozen
class Tuning:
    """How libvirt's migration is to come to its end, in the words of virsh's options of these names.

    A number that is 0 leaves the choice to libvirt, as no ``comp_methods`` do. ``auto_converge_initial`` and
    ``auto_converge_increment`` are per cent of the guest's CPUs; ``comp_xbzrle_cache`` is in bytes.
    ``abort_on_error``: an I/O error of the guest ends the migration.
    """

    auto_converge: bool = False
    auto_converge_initial: int = 0
    auto_converge_increment: int = 0
    max_downtime_ms: int = 0
    parallel: bool = False
    parallel_connections: int = 0
    compress: bool = False
    comp_methods: tuple[str, ...] = ()
    comp_mt_level: int = 0
    comp_mt_threads: int = 0
    comp_mt_dthreads: int = 0
    comp_xbzrle_cache: int = 0
    abort_on_error: bool = False


@frozen
class Wiring:
    """Over what libvirt's migration goes, in the words of virsh's options of these names.

    ``tls``: encrypted, with QEMU's certificates on both hosts; ``tls_destination`` is the name in the
    destination's, where that is not its address. ``listen_address`` is where the destination listens,
    ``disks_port`` and ``disks_uri`` where it takes the disks; ``graphics_uri`` is where clients of the
    display go. What is empty or 0 is libvirt's choice.
    """

    tls: bool = False
    tls_destination: str = ""
    listen_address: str = ""
    disks_port: int = 0
    disks_uri: str = ""
    graphics_uri: str = ""


@frozen
class MigrationRequest:
    """One call of ``virDomainMigrateToURI3``.

    ``destination_uri`` is the destination as the *source host* sees it, ``migrate_uri`` the address for the
    memory stream, None for libvirt's choice. ``destination_xml`` and ``persistent_xml`` are what runs and
    what is defined at the destination, ``destination_name`` what the domain is called there, where that is
    another name than both have. ``disks`` names the targets whose overlays are mirrored.
    ``bandwidth_mib_per_s`` limits memory, and each disk for itself; 0 means unlimited. ``unsafe``: the caller
    answers for what libvirt can't know, that both hosts see the same files of the other disks.
    """

    destination_uri: str
    destination_xml: str
    persistent_xml: str
    disks: tuple[str, ...]
    migrate_uri: str | None = None
    destination_name: str = ""
    bandwidth_mib_per_s: int = 0
    unsafe: bool = False
    tuning: Tuning = field(factory=Tuning)
    wiring: Wiring = field(factory=Wiring)


@frozen
class JobProgress:
    """Progress of a migration job (``virDomainGetJobStats``). ``downtime_ms`` is libvirt's expectation.

    ``memory_iteration`` counts the passes over the memory; ``cpu_throttle_percent`` is what auto-converge
    takes from the guest's CPUs.
    """

    memory_done_bytes: int = 0
    memory_total_bytes: int = 0
    disk_done_bytes: int = 0
    disk_total_bytes: int = 0
    downtime_ms: int = 0
    memory_iteration: int = 0
    cpu_throttle_percent: int = 0

    @property
    def memory_moves(self) -> bool:
        """Whether the mirrors have caught up and memory is on its way."""
        return self.memory_iteration > 0

    @property
    def memory_left_bytes(self) -> int:
        """What is left of this pass over the memory."""
        return self.memory_total_bytes - self.memory_done_bytes
