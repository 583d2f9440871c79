"""The state of a simulated world: plain values, no behaviour beyond lookups.

Everything that decides what happens next is in here, so a copy of a ``WorldState`` is a copy of the world:
``copy.deepcopy`` it, go on with either, compare ``key`` of both. The functions of the neighbouring modules
change it; the asynchronous shell (``host``, ``world``) only calls them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from attrs import define, field, fields, has

from fsm.hypervisor.values import MigrationRequest, SnapshotMetadata
from fsm.machine.observation import DomainState

PAGE = 4096
"""File systems and guests write in units of so many bytes."""


class Denied(Exception):
    """A host refuses. The shell makes a ``HostError`` of it, which also names host and call."""


class Missing(Denied):
    """What the call names is not there; becomes ``NotFound``."""


class NoSpace(Denied):
    """A file system is full."""

    def __init__(self, path: str) -> None:
        super().__init__(f"cannot write to {path}: No space left on device")


@define
class SparseFile:
    """A file's content: pages by number. A page that is absent is a hole.

    A page's trailing zeros are not kept, so that thousands of small images stay small. ``written``
    tells when it was written last, by ``WorldState.writes``.
    """

    size: int = 0
    pages: dict[int, bytes] = field(factory=dict)
    written: int = field(default=0, metadata={"incidental": True})


@define
class FileSystem:
    """Files by absolute path. Hosts that mount the same file system share it."""

    size_bytes: int
    used_bytes: int = 0
    files: dict[str, SparseFile] = field(factory=dict)
    directories: set[str] = field(factory=set)


@define
class Pool:
    """A storage pool on one directory; ``ours`` was made by the engine and vanishes when it is stopped."""

    active: bool
    ours: bool = False


@define
class CommitJob:
    """An active block commit of ``top`` into ``base``; ``pending`` are the blocks still to be copied."""

    top: str
    base: str
    pending: dict[int, None]
    total_blocks: int
    done_blocks: int = 0
    step_blocks: int = 1
    ready: bool = False


@define
class PullJob:
    """A block pull of all that is below the active layer into it; ``pending`` are the blocks left to copy."""

    pending: dict[int, None]
    total_blocks: int
    step_blocks: int


class Phase(StrEnum):
    """How far a migration has come."""

    MIRROR = "mirror"  # the overlays' content is copied; writes behind the copy are queued
    MEMORY = "memory"  # every further write goes to both sides
    SWITCH = "switch"  # the source is paused, the destination not yet started
    CONFIRM = "confirm"  # the destination runs, the source does not know it yet


@define
class MigrationJob:
    """A peer-to-peer migration as its source host knows it.

    ``failure`` is empty while it runs and after a success. ``lost`` says that the caller was cut off by the
    end of its libvirtd and learns nothing. ``silence`` counts the steps without an answer from the peer;
    ``began_as`` is how the source was when it began, and is again after a failure; ``handed_over`` says that
    it was paused for the switch-over.
    """

    destination: str
    request: MigrationRequest
    pending: dict[str, dict[int, None]]
    memory_total: int
    memory_mib_per_s: int
    began_as: tuple[DomainState, str]
    disk_total: int = 0
    disk_done: int = 0
    memory_done: int = 0
    mirrored: dict[str, int] = field(factory=dict)
    dirtied: int = 0
    passes: int = 0
    downtime_ms: int = 0
    phase: Phase = Phase.MIRROR
    handed_over: bool = False
    silence: int = 0
    steps: int = 0
    ended: bool = False
    failure: str = ""
    lost: bool = False


@define
class LiveDisk:
    """A disk of a running domain: its layers (path, format), active one first.

    A write behind ``threshold_bytes`` of the active layer's file is reported, once. ``throttle`` is what the
    guest may write, in bytes a second, None: as much as it likes.
    """

    target: str
    layers: tuple[tuple[str, str], ...]
    commit: CommitJob | None = None
    pull: PullJob | None = None
    error: str = ""
    threshold_bytes: int | None = None
    throttle: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a block job of its own runs on it."""
        return self.commit is not None or self.pull is not None


@define
class Instance:
    """A QEMU process. ``xml`` is what it was started with; ``disks`` holds those that are files.

    ``incoming_from`` is the host whose memory it waits for. ``inactive`` is one that arrived paused and has
    not run since: it dies of a commit that fails. ``has_run`` tells of a process whose
    guest has been let run. A ``ghost`` has no process any more, and its libvirtd does not know.
    """

    xml: str
    state: DomainState
    reason: str
    disks: dict[str, LiveDisk]
    migration: MigrationJob | None = None
    incoming_from: str = ""
    inactive: bool = False
    has_run: bool = False
    dirties_mib_per_s: int = 0
    ghost: bool = False

    @property
    def running(self) -> bool:
        """Whether the guest's CPUs run."""
        return self.state is DomainState.RUNNING

    @property
    def busy(self) -> bool:
        """Whether a job of its own is under way."""
        return self.migration is not None or any(disk.busy for disk in self.disks.values())


@define
class DomainRecord:
    """A domain as one libvirtd knows it: active, defined, or both."""

    uuid: str
    name: str
    instance: Instance | None = None
    definition: str | None = None
    stopped: str = "unknown"
    snapshots: dict[str, SnapshotMetadata] = field(factory=dict)
    current: str | None = None


@define
class HostState:
    """One machine: its libvirtd, its domains and what it has mounted where.

    ``powered`` is the machine, ``libvirtd`` the daemon, ``connected`` whether clients get through to it.
    ``machines`` names the machine types that it accepts; empty means all. ``versions`` counts the changes of
    each domain, ``crossings`` its writes behind a threshold, for those who watch it. ``links`` are
    directories that lead to others.
    """

    uri: str
    uuid: str
    hostname: str
    libvirt_version: tuple[int, int, int] = (9, 0, 0)
    hypervisor_version: tuple[int, int, int] = (7, 2, 0)
    security_models: tuple[str, ...] = ()
    machines: frozenset[str] = frozenset()
    mounts: dict[str, str] = field(factory=dict)
    links: dict[str, str] = field(factory=dict)
    domains: dict[str, DomainRecord] = field(factory=dict)
    pools: dict[str, Pool] = field(factory=dict)
    powered: bool = True
    libvirtd: bool = True
    connected: bool = True
    versions: dict[str, int] = field(factory=dict, metadata={"incidental": True})
    crossings: dict[str, int] = field(factory=dict, metadata={"incidental": True})

    @property
    def answers(self) -> bool:
        """Whether its libvirtd answers those who get through to it."""
        return self.powered and self.libvirtd


@define
class WorldState:
    """All hosts, their file systems, and the links that are cut.

    ``jobs`` names, for each domain, the hosts where it has a job. ``acknowledged`` holds, for each domain,
    what its guest was told to be on disk: (target, block) -> content. ``touched`` collects the domains that
    changed and whose watchers have not been woken yet, ``crossed`` those that wrote behind a threshold.
    ``writes`` counts the writes into all files, in place of a time.
    """

    hosts: dict[str, HostState] = field(factory=dict)
    filesystems: dict[str, FileSystem] = field(factory=dict)
    cuts: set[frozenset[str]] = field(factory=set)
    jobs: dict[str, dict[str, None]] = field(factory=dict)
    acknowledged: dict[str, dict[tuple[str, int], bytes]] = field(factory=dict)
    touched: list[tuple[str, str]] = field(factory=list, metadata={"incidental": True})
    crossed: list[tuple[str, str]] = field(factory=list, metadata={"incidental": True})
    writes: int = field(default=0, metadata={"incidental": True})

    def host(self, uri: str) -> HostState:
        """The host at ``uri``; ``Missing`` when there is none."""
        if uri not in self.hosts:
            raise Missing(f"no host answers at {uri}")
        return self.hosts[uri]

    def linked(self, one: str, other: str) -> bool:
        """Whether two hosts' daemons reach each other."""
        both = self.hosts[one].answers and self.hosts[other].answers
        return both and frozenset((one, other)) not in self.cuts

    def drop_idle_jobs(self, uuid: str, host: HostState) -> None:
        """Take a host that has no job of the domain left off the list of those that have one."""
        record = host.domains.get(uuid)
        instance = record.instance if record else None
        if instance is None or not instance.busy:
            self.jobs.get(uuid, {}).pop(host.uri, None)
            if not self.jobs.get(uuid):
                self.jobs.pop(uuid, None)

    def touch(self, host: HostState, uuid: str) -> None:
        """Note that something about a domain changed on ``host``."""
        host.versions[uuid] = host.versions.get(uuid, 0) + 1
        self.touched.append((host.uri, uuid))

    def cross(self, host: HostState, uuid: str) -> None:
        """Note that a domain wrote behind a threshold on ``host``."""
        host.crossings[uuid] = host.crossings.get(uuid, 0) + 1
        self.crossed.append((host.uri, uuid))


def domain_record(host: HostState, uuid: str) -> DomainRecord:
    """The domain on ``host``; ``Missing`` when there is none."""
    record = host.domains.get(uuid)
    if record is None:
        raise Missing(f"Domain not found: no domain with matching uuid '{uuid}'")
    return record


def active(host: HostState, uuid: str) -> tuple[DomainRecord, Instance]:
    """The domain and its QEMU process; ``Denied`` when it is shut off."""
    record = domain_record(host, uuid)
    if record.instance is None:
        raise Denied("Requested operation is not valid: domain is not running")
    return record, record.instance


def idle(instance: Instance | None) -> None:
    """``Denied`` while a migration holds the domain: libvirt lets nothing else change it."""
    if instance is not None and (instance.migration is not None or instance.incoming_from):
        raise Denied("Timed out during operation: cannot acquire state change lock (held by migration)")


def key(value: object) -> object:
    """A hashable value that is equal for equal states, whatever way they were reached."""
    kind: type[Any] = type(value)
    if has(kind):
        kept = (one for one in fields(kind) if not one.metadata.get("incidental"))
        return (kind.__name__, *(key(getattr(value, one.name)) for one in kept))
    if isinstance(value, dict):
        return frozenset((key(name), key(entry)) for name, entry in value.items())
    if isinstance(value, list | tuple):
        return tuple(key(entry) for entry in value)
    if isinstance(value, set | frozenset):
        return frozenset(key(entry) for entry in value)
    return value
