"""What a migration is asked to do, and what preflight and the start made of it.

All of it is stored in the journal before anything that needs it is done, so that any engine can finish
or undo the migration.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import evolve, field, frozen

from fsm.hypervisor import firmware_xml
from fsm.hypervisor.uris import safe_uri
from fsm.hypervisor.values import Base, Marker, Overlay, PoolState, SnapshotMetadata, Tuning, Wiring
from fsm.machine.observation import Merge, Size


class Side(StrEnum):
    """The two hosts of a migration."""

    SOURCE = "source"
    DESTINATION = "destination"


class Verify(StrEnum):
    """How a copied base is compared with its original before the switch-over.

    ``table``: file size, qcow2 header and snapshot table. ``full``: every byte as well, by digest;
    so it does of a block device that both hosts share.
    """

    TABLE = "table"
    FULL = "full"


class MergeChoice(StrEnum):
    """How a user wants the overlay merged at the destination: see ``Merge``.

    ``auto``: by mirror; by commit where something stands against that.
    """

    AUTO = "auto"
    COMMIT = "commit"
    MIRROR = "mirror"


class StorageChoice(StrEnum):
    """Where a user wants the bases: see ``fsm.engine.shared``.

    ``copy``: the destination gets copies. ``shared``: both hosts see the same files or devices already.
    ``auto``: each disk as it is found.
    """

    AUTO = "auto"
    COPY = "copy"
    SHARED = "shared"


@frozen
class Direct:
    """The bases are copied by NBD, straight from host to host, by commands that the engine runs on them.

    ``source_shell`` and ``destination_shell`` are what leads to a shell there, such as ``ssh root@host``;
    empty: what the host's URI tells. ``address`` is the source's as the destination sees it; empty: the name
    in the source's URI, else the source's own. ``tls_directory`` holds QEMU's X.509 files on both hosts;
    empty: the bytes are not encrypted. ``seeds`` are older copies at the destination, as ``TARGET=PATH``:
    only what differs from them is sent.
    """

    source_shell: str = ""
    destination_shell: str = ""
    address: str = ""
    tls_directory: str = ""
    seeds: tuple[str, ...] = ()

    def seed_of(self, target: str) -> str:
        """The older copy of that disk, empty if there is none."""
        return next((path for name, _, path in map(_split, self.seeds) if name == target), "")


def _split(seed: str) -> tuple[str, str, str]:
    return seed.partition("=")


@frozen
class Request:
    """One migration as its user asks for it.

    ``domain`` is a name or UUID. ``destination_uri`` is the destination as the engine sees it, ``peer_uri``
    as the source host sees it (the same unless given). ``migrate_uri`` names the address for the memory
    stream. ``bandwidth_mib_per_s`` limits what crosses the network; 0 means unlimited. ``tuning`` and
    ``wiring`` are handed
    on to libvirt; ``max_pause_ms`` is how long the guest may stand still where it would not end otherwise;
    ``timeout_s`` after how long libvirt's migration is ended by letting it stand still for as long as that
    takes, 0: never.
    ``disk_map`` says where copies go that are not to have their originals' paths, as ``TARGET=PATH`` or
    ``TARGET=POOL/NAME``; ``pool`` is a storage pool of the destination for all others, under their own names.
    ``destination_name`` is what the domain is to be called there; empty: as it is.
    ``exclude_disks`` names targets to be left alone. ``accept`` names preflight checks whose findings the
    user takes on himself. ``overlay_directory`` is where the overlays lie on both hosts; empty: each
    beside its base. ``delete_source``: the bases that were copied are removed at the source once all is
    committed. ``flatten`` names the targets into whose images what is below them is to be pulled; that is
    begun at the destination once all is committed. ``direct`` is how the bases are copied; None: through
    libvirt's storage streams.
    ``correlation`` is the caller's own id for this request; every event of the log carries it.
    """

    domain: str
    destination_uri: str
    source_uri: str = "qemu:///system"
    peer_uri: str | None = None
    migrate_uri: str | None = None
    verify: Verify = Verify.TABLE
    merge: MergeChoice = field(default=MergeChoice.AUTO, converter=MergeChoice)
    storage: StorageChoice = field(default=StorageChoice.AUTO, converter=StorageChoice)
    bandwidth_mib_per_s: int = 0
    connections: int = 4
    tuning: Tuning = field(factory=Tuning)
    wiring: Wiring = field(factory=Wiring)
    max_pause_ms: int = 0
    timeout_s: int = 0
    disk_map: tuple[str, ...] = ()
    pool: str = ""
    destination_name: str = ""
    exclude_disks: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    overlay_directory: str = ""
    delete_source: bool = False
    flatten: tuple[str, ...] = ()
    direct: Direct | None = None
    correlation: str = ""

    def uri(self, side: Side) -> str:
        """The URI under which the engine reaches that host."""
        return self.source_uri if side is Side.SOURCE else self.destination_uri

    def shown_uri(self, side: Side) -> str:
        """The same, fit for messages."""
        return safe_uri(self.uri(side))


@frozen
class PoolBefore:
    """How a directory was covered by storage pools before the migration, on one host."""

    side: Side
    directory: str
    was: PoolState


@frozen
class BackingFile:
    """A file below bases: both hosts have it alike, or it is copied along. See ``fsm.engine.backing``.

    So are the UEFI variables of a domain that is shut off: see ``fsm.engine.variables``.

    ``modified`` is the mark by which a write into it shows at the source, ``arrived`` at the destination;
    None: it is not there, and is copied.
    """

    path: str
    format: str
    size_bytes: int = 0
    modified: str = ""
    arrived: str | None = None

    def at(self, side: Side) -> tuple[int, str | None]:
        """Its length and its mark on that host."""
        return self.size_bytes, self.modified if side is Side.SOURCE else self.arrived


@frozen
class Plan:
    """What preflight settled; nothing in it changes afterwards.

    ``source_host`` and ``destination_host`` are the hosts' UUIDs: whoever takes the migration over must meet
    the same hosts. ``owners`` are the claims in the domain's marker that count as ours, the last one being
    what this migration writes; those before it were adopted. ``merge_reason`` is why it merges so.
    ``backing`` are the files below the bases.
    ``destination_name`` is the domain's other name at the destination, empty where it keeps its name.
    """

    domain_uuid: str
    domain_name: str
    overlays: tuple[Overlay, ...]
    source_host: str = ""
    destination_host: str = ""
    owners: tuple[str, ...] = ()
    merge: Merge = Merge.COMMIT
    merge_reason: str = ""
    backing: tuple[BackingFile, ...] = ()

    @property
    def copied_below(self) -> tuple[BackingFile, ...]:
        """The files below bases that are copied along."""
        return tuple(backing for backing in self.backing if backing.arrived is None)

    destination_name: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """The disks that migrate."""
        return tuple(overlay.target for overlay in self.overlays)

    def host_uuid(self, side: Side) -> str:
        """The UUID of the host on that side, empty where it is not known."""
        return self.source_host if side is Side.SOURCE else self.destination_host

    @property
    def destination_overlays(self) -> tuple[Overlay, ...]:
        """The overlays that the destination gets."""
        return self.overlays_at(Side.DESTINATION) if self.merge is Merge.COMMIT else ()

    def overlays_at(self, side: Side) -> tuple[Overlay, ...]:
        """The overlays by their paths on that side, in the order of ``targets``."""
        if side is Side.SOURCE:
            return self.overlays
        return tuple(overlay.arrived for overlay in self.overlays)

    @property
    def moved(self) -> dict[str, str]:
        """The bases whose copies have another path: that path by the original's."""
        return {one.base: one.destination_base for one in self.overlays if one.destination_base}

    def devices_at(self, side: Side) -> frozenset[str]:
        """The bases, or copies of them, that are block devices on that host."""
        return frozenset(overlay.base for overlay in self.overlays_at(side) if overlay.on_device)

    def copy_of(self, base: Base) -> Base:
        """The base as the destination has it."""
        path = self.moved.get(base.path, base.path)
        return evolve(base, path=path, on_device=path in self.devices_at(Side.DESTINATION))

    @property
    def arrivals(self) -> dict[str, tuple[str, str]]:
        """The image, path and format, on which each target runs when it arrives at the destination.

        By ``commit`` that is an overlay, in the persistent definition too: a domain started from its base
        before the commit would lose what the overlay holds.
        """
        arrived = self.overlays_at(Side.DESTINATION)
        if self.merge is not Merge.COMMIT:
            return {overlay.target: (overlay.base, overlay.base_format) for overlay in arrived}
        return {overlay.target: (overlay.path, "qcow2") for overlay in arrived}

    def owns(self, marker: Marker) -> bool:
        """Whether a marker is this migration's, and no other engine has adopted it since."""
        return marker.owner in self.owners


@frozen
class Rescued:
    """A snapshot that was found in overlays and saved: an image for each disk, and libvirt's description."""

    name: str
    images: tuple[str, ...]
    xml: str = field(default="", repr=False)

    @property
    def what(self) -> str:
        """What an operator is told."""
        return f"snapshot {self.name} was saved: {', '.join(self.images)}"


@frozen
class Bases:
    """Read once the overlays exist: from then on neither bases nor snapshots can change.

    ``domain_xml`` and ``persistent_xml`` are the domain's two descriptions, with the overlays as its disks: a
    domain that vanished from both hosts can be defined again from them. ``packed`` holds the snapshots
    without secrets, as the marker carries them.
    """

    bases: tuple[Base, ...] = ()
    snapshots: tuple[SnapshotMetadata, ...] = field(default=(), repr=False)
    domain_xml: str = field(default="", repr=False)
    persistent_xml: str = field(default="", repr=False)
    packed: str = field(default="", repr=False)

    @property
    def variables(self) -> str:
        """The path of the domain's UEFI variables, empty where they are in no file."""
        return firmware_xml.variables_file(self.persistent_xml) if self.persistent_xml else ""

    def of(self, path: str) -> Base:
        """The base with this path."""
        return next(base for base in self.bases if base.path == path)

    def fits(self, path: str, capacity_bytes: int) -> Size:
        """How an overlay of this virtual size stands to the base at ``path``, if that is recorded yet."""
        return next((base.fits(capacity_bytes) for base in self.bases if base.path == path), Size.SAME)
