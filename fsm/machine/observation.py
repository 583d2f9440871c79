"""What was read off both hosts and off the engine at one moment: the only thing guards and decisions see.

An observation is a plain value. It is recorded with every decision, so that the decision can be replayed.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import field, frozen


class DomainState(StrEnum):
    """The part of ``virDomainState`` that decisions depend on."""

    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"  # the guest is dead but QEMU still holds its images
    SHUT_OFF = "shut-off"


class Job(StrEnum):
    """The domain job that libvirt reports (``virDomainGetJobStats``, field ``operation``)."""

    NONE = "none"
    MIGRATION_OUT = "migration-out"
    MIGRATION_IN = "migration-in"
    OTHER = "other"


class Layer(StrEnum):
    """Where a migrated disk's active layer is, compared with what the plan says."""

    BASE = "base"
    OVERLAY = "overlay"
    FOREIGN = "foreign"  # a layer, or an order of layers, that this migration did not make


class Size(StrEnum):
    """The overlay's virtual size, compared with the size of the base below it."""

    SAME = "same"
    GROWN = "grown"  # somebody resized the disk; the commit lets the base grow along
    UNFIT = "unfit"  # smaller, or larger than QEMU can make this base


@frozen
class BlockJob:
    """A block job as ``virDomainGetBlockJobInfo`` and ``<mirror>`` report it.

    ``ready`` is the real readiness (``<mirror ready='yes'>``), not ``current_bytes == end_bytes``, which
    also holds for a job that has just begun.
    """

    kind: str
    ready: bool = False
    current_bytes: int = 0
    end_bytes: int = 0


@frozen
class Disk:
    """A migrated disk of the domain: its whole backing chain, active layer first, and its block job.

    The rest is read out of the overlay file, where that is the active layer and no job of the domain writes
    it: ``stored`` names the internal snapshots in the overlay itself, those given up aside; ``damage`` says
    why the file could not be understood.
    """

    target: str
    layer: Layer
    chain: tuple[str, ...] = ()
    block_job: BlockJob | None = None
    stored: tuple[str, ...] = ()
    size: Size = Size.SAME
    damage: str = ""


@frozen
class Domain:
    """A domain as one host knows it. ``reason`` is libvirt's own word for why it is in this state.

    ``marker`` is the id of the migration that the domain's own metadata names. ``marked_by_another``: that is
    another one, or this one adopted by an engine with another journal; or, at the destination, the domain has
    no marker while the source's has: it did not come by this migration. ``unrecorded`` are those of its
    ``snapshots`` that the journal does not have, those given up aside.
    """

    state: DomainState
    reason: str = ""
    job: Job = Job.NONE
    disks: tuple[Disk, ...] = ()
    snapshots: tuple[str, ...] = ()
    current_snapshot: str | None = None
    marker: str | None = None
    marked_by_another: bool = False
    unrecorded: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether a QEMU process of this domain exists on the host."""
        return self.state is not DomainState.SHUT_OFF


@frozen
class Host:
    """One host at the moment of the observation.

    ``reachable`` false means that nothing is known of it; ``domain`` is then None. ``fenced`` is the
    operator's word that an unreachable host is off.
    """

    reachable: bool
    domain: Domain | None = None
    fenced: bool = False

    def __attrs_post_init__(self) -> None:
        """Conditions rely on this; a record that says otherwise is corrupt."""
        if self.reachable and self.fenced:
            raise ValueError("a reachable host can't be fenced")
        if not self.reachable and self.domain is not None:
            raise ValueError("nothing is known of a domain on an unreachable host")


class Preflight(StrEnum):
    """What preflight has found so far."""

    PENDING = "pending"
    PASSED = "passed"
    REFUSED = "refused"


class Merge(StrEnum):
    """How what the guest writes during the migration comes into the copied base.

    ``commit``: into an overlay at the destination, which is block-committed after the switch-over.
    ``mirror``: libvirt's migration writes the overlay's clusters straight into the copy, and nothing is left
    to commit. ``none``: the domain is shut off and writes nothing.
    """

    COMMIT = "commit"
    MIRROR = "mirror"
    NONE = "none"


class Activity(StrEnum):
    """How far the present state's activity has come during this stay in the state.

    ``begun`` without an engine that runs it is what a died engine leaves behind: its outcome is unknown.
    """

    NOT_BEGUN = "not-begun"
    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


@frozen
class Engine:
    """What the engine knows from its journal and its clock."""

    preflight: Preflight = Preflight.PENDING
    merge: Merge = Merge.COMMIT
    copies_verified: bool = False
    transfer_begun: bool = False
    activity: Activity = Activity.NOT_BEGUN
    step_failed: bool = False  # the last action or activity in this state failed
    attempts_left: bool = True
    overdue: bool = False
    retry_due: bool = False
    abort_requested: bool = False
    space_short: bool = False  # a file system would get full before the end
    adopted: bool = False  # made from what the hosts show, as the journal that began it is lost
    rescue_requested: bool = False


@frozen
class Observation:
    """Both hosts and the engine at one moment."""

    source: Host
    destination: Host
    engine: Engine = field(factory=Engine)


def layer_of(chain: tuple[str, ...], base: str, overlay: str, *, active: bool) -> Layer:
    """Classify a backing chain, active layer first, against the planned ``base`` and ``overlay`` paths.

    libvirt lists the whole chain of an active domain only; for a shut-off one the top alone must do.
    """
    if not chain:
        return Layer.FOREIGN
    if chain[0] == base and overlay not in chain:
        return Layer.BASE
    if chain[0] == overlay and (chain[1:2] == (base,) or (not active and len(chain) == 1)):
        return Layer.OVERLAY
    return Layer.FOREIGN
