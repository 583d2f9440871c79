"""The matrix: which faults there are, in which states, and which of these cells make no sense."""

from __future__ import annotations

from attrs import frozen

from fsm.journal.records import Phase, Step
from fsm.machine.observation import Merge
from tests.faults.failpoint import AFTER, BEFORE, HOLD, KILL, Failpoint

# Each state's activity and the transition that leads on from it.
STEPS: dict[str, tuple[str | None, str]] = {
    "planned": ("preflight", "start"),
    "snapshotted": ("copy-bases", "transfer"),
    "transferring": ("migrate", "switch-over"),
    "committing-dest": ("commit-at-destination", "finish-commit"),
    "rolling-back-source": ("commit-at-source", "finish-rollback"),
    "stuck": (None, "retry"),
}
STATES = tuple(STEPS)

# A failpoint's name -> the record it stands at.
FAILPOINTS = {
    "before-intent": (BEFORE, Phase.INTENT),
    "after-intent": (AFTER, Phase.INTENT),
    "after-act": (BEFORE, Phase.OUTCOME),
    "after-outcome": (AFTER, Phase.OUTCOME),
}


@frozen
class Fault:
    """One kind of fault. ``lasts_s`` is how long it stays; None: until the engine has ended or is stuck.

    ``kills_at`` is the step, and the name of its failpoint, at which the engine is killed.
    ``held``: doing it takes longer than a commit does, so the engine is held in the state meanwhile.
    ``harmless``: the engine dies or can't write, but the migration itself lacks nothing, so it must end as it
    would have without the fault.
    ``stalls``: what the guest suffers is the fault itself, so its longest stall promises nothing.
    ``fresh``: it needs a guest that has just been made, whose images grow with every write.
    """

    name: str
    meaning: str
    kills_at: tuple[Step, str] | None = None
    lasts_s: float | None = 0
    held: bool = False
    harmless: bool = False
    stalls: bool = False
    fresh: bool = False


def _engine_faults() -> list[Fault]:
    told = {
        "before-intent": "before the intent is written",
        "after-intent": "when the intent is written and nothing is done",
        "after-act": "when it is done and the outcome is not written",
        "after-outcome": "when the outcome is written",
    }
    steps = {Step.ACTIVITY: "the state's activity", Step.TRANSITION: "the transition out of the state"}
    return [
        Fault(f"engine-{step}-{point}", f"engine killed -9 at {what}: {when}", (step, point), harmless=True)
        for step, what in steps.items()
        for point, when in told.items()
    ]


FAULTS = {
    fault.name: fault
    for fault in (
        *_engine_faults(),
        Fault("engine-midway", "engine killed -9 in the midst of the state's activity", harmless=True),
        Fault("source-libvirtd", "libvirtd of the source killed -9 and started again"),
        Fault("destination-libvirtd", "libvirtd of the destination killed -9 and started again"),
        Fault("destination-qemu", "QEMU of the domain at the destination killed -9"),
        Fault("cut-5s", "packets between the hosts dropped for 5 s", lasts_s=5),
        Fault("cut-60s", "packets between the hosts dropped for 60 s", lasts_s=60),
        Fault("destination-off-60s", "the destination unreachable for everybody for 60 s", lasts_s=60),
        Fault(
            "destination-full",
            "no space left on the destination's file system",
            lasts_s=None,
            held=True,
            stalls=True,
            fresh=True,
        ),
        Fault("journal-full", "no space left on the journal's file system", lasts_s=None, harmless=True),
        Fault("power-off", "the guest switches itself off", held=True, stalls=True),
    )
}


@frozen
class Cell:
    """One fault in one state of a migration that merges, and copies its bases, in this way."""

    state: str
    fault: Fault
    merge: Merge = Merge.COMMIT
    transport: str = "streams"

    def __str__(self) -> str:
        return f"{self.state}/{self.fault.name}"

    @property
    def failpoint(self) -> Failpoint | None:
        """Where the engine is killed, or held while the fault is done; None where it just runs."""
        activity, transition = STEPS[self.state]
        if self.fault.kills_at is not None:
            step, point = self.fault.kills_at
            name = activity if step is Step.ACTIVITY else transition
            when, phase = FAILPOINTS[point]
            return Failpoint(KILL, when, step, str(name), phase)
        # Preflight touches nothing: the start is the moment of interest.
        if self.state == "planned" and self.fault.name != "engine-midway":
            return Failpoint(HOLD, AFTER, Step.TRANSITION, transition, Phase.INTENT)
        if self._nothing_to_commit:
            return Failpoint(HOLD, AFTER, Step.TRANSITION, transition, Phase.INTENT)
        if self.fault.held and self.state in ("committing-dest", "rolling-back-source"):
            return Failpoint(HOLD, AFTER, Step.ACTIVITY, str(activity), Phase.INTENT)
        return None

    @property
    def why_not(self) -> str:
        """Why this cell makes no sense; empty where it does."""
        if self.state == "stuck" and self.fault.kills_at and self.fault.kills_at[0] is Step.ACTIVITY:
            return "stuck has no activity"
        if self.merge is Merge.MIRROR and self.state == "stuck":
            return "no commit at the destination that could fail"
        if self._nothing_to_commit and self._in_activity:
            return "nothing to commit at the destination"
        if self.fault.name == "destination-qemu" and self.state in (
            "planned",
            "snapshotted",
            "rolling-back-source",
        ):
            return "no QEMU at the destination"
        return ""

    @property
    def _in_activity(self) -> bool:
        """Whether the engine is killed in or at the state's activity."""
        kills_at = self.fault.kills_at
        return self.fault.name == "engine-midway" or (kills_at is not None and kills_at[0] is Step.ACTIVITY)

    @property
    def outlasts_migration(self) -> bool:
        """Whether the migration ends under a full file system: the guest is then its operator's to resume."""
        return self._nothing_to_commit and self.fault.name == "destination-full"

    @property
    def _nothing_to_commit(self) -> bool:
        """Whether the state has its transition alone: the migration has merged the overlays already."""
        return self.merge is Merge.MIRROR and self.state == "committing-dest"

    @property
    def stops_guest(self) -> bool:
        """Whether the guest itself does not survive: it is switched off, or crashes where it runs."""
        crash = self.fault.name == "destination-qemu" and self.state in ("committing-dest", "stuck")
        return crash or self.fault.name == "power-off"

    @property
    def must_end(self) -> tuple[str, ...]:
        """The final states that are right."""
        if self.state == "rolling-back-source":
            return ("rolled-back",)
        if self.state in ("committing-dest", "stuck"):
            return ("committed",)
        # A migration that libvirt was perhaps not even asked for is not asked for again.
        if self.fault.harmless and self.state != "transferring":
            return ("committed",)
        return ("committed", "rolled-back", "refused")


def cells(
    states: tuple[str, ...] = (),
    faults: tuple[str, ...] = (),
    merge: Merge = Merge.COMMIT,
    transport: str = "streams",
) -> list[Cell]:
    """The matrix, or the part of it in these states and of these faults; state by state."""
    return [
        Cell(state, fault, merge, transport)
        for state in STATES
        for fault in FAULTS.values()
        if (not states or state in states) and (not faults or fault.name in faults)
    ]
