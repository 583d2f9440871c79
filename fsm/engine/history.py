"""What a migration's records add up to: the facts that decisions need, by one fold over the history.

The engine that writes the records and the one that takes over after it died use the same fold, so they can't
come to different facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve, field, frozen

from fsm.engine.plan import Bases, Plan, PoolBefore, Rescued, Side
from fsm.images.resumption import Stretch, covered_bytes
from fsm.journal.records import Data, Phase, Record, Step, converter
from fsm.machine.observation import Activity, Engine, Merge, Preflight
from fsm.machine.spec import RetryPolicy


@frozen
class History:
    """Facts from the records so far.

    ``failures`` counts failed steps since the state was entered or last made progress; ``retries`` the times
    that ``stuck`` was left. ``created`` holds the destination files that this migration made. ``given_up``
    names the snapshots in overlays that may go with them: their loss was accepted, or they were ``rescued``.
    ``copied`` are the parts of each copy that were finished, by the file's path. ``kept_bytes`` were found at
    the destination when the copies were continued last.
    ``probes`` are the files by which preflight has looked whether storage is shared.
    ``not_durable`` are the copies that nothing has written to stable storage by itself.
    ``flattening`` names the disks whose block pull may run at the destination; ``pulling`` and
    ``not_flattened`` tell what became of them.
    ``throttled`` names the disks to which the guest's writes may be throttled, at whichever host it is.
    """

    state: str
    preflight: Preflight = Preflight.PENDING
    copies_verified: bool = False
    transfer_begun: bool = False
    activity: Activity = Activity.NOT_BEGUN
    failures: int = 0
    retries: int = 0
    abort_requested: bool = False
    cause: str = ""
    remedy: str = ""
    created: frozenset[str] = frozenset()
    left_behind: tuple[str, ...] = ()
    retry_requested: bool = False
    rescue_requested: bool = False
    given_up: frozenset[str] = frozenset()
    rescued: tuple[Rescued, ...] = ()
    fenced: frozenset[Side] = frozenset()
    started_paused: bool = False
    throttled: frozenset[str] = frozenset()
    flattening: frozenset[str] = frozenset()
    pulling: tuple[str, ...] = ()
    not_flattened: tuple[str, ...] = ()
    adopted: bool = False
    plan: Plan | None = None
    pools: tuple[PoolBefore, ...] = ()
    probes: tuple[str, ...] = ()
    bases: Bases = field(factory=Bases)
    not_durable: frozenset[str] = frozenset()
    copied: Mapping[str, tuple[Stretch, ...]] = field(factory=dict)
    kept_bytes: int = 0

    def after(self, record: Record) -> History:
        """The facts once ``record`` has been written."""
        match record.step, record.phase:
            case Step.TRANSITION, Phase.OUTCOME:
                return self._after_transition(record)
            case Step.ACTION, Phase.OUTCOME:
                return self._with_data(record)
            case Step.ACTIVITY, Phase.INTENT:
                begun = self.transfer_begun or record.name == "migrate"
                return evolve(self, activity=Activity.BEGUN, transfer_begun=begun)
            case Step.ACTIVITY, Phase.OUTCOME:
                return self._after_activity(record)
            case Step.REQUEST, _:
                return self._after_request(record)
            case _:
                return self

    def _after_transition(self, record: Record) -> History:
        if record.error:
            return self._failed(record)
        left_stuck = record.name == "retry"
        cause = {}
        if told := record.data.get("cause"):
            cause = {"cause": told, "remedy": record.data.get("remedy", "")}
        elif left_stuck:  # what was to be done then is done, or has become needless
            cause = {"remedy": ""}
        return evolve(
            self,
            state=record.dest,
            activity=Activity.NOT_BEGUN,
            failures=0,
            retries=self.retries + left_stuck,
            retry_requested=False,
            **cause,
        )

    def _after_request(self, record: Record) -> History:
        if record.name == "adopt":
            # How far it came is not known: the destination may have the domain.
            return evolve(self._with_data(record), adopted=True, transfer_begun=True)
        fenced = self.fenced | {Side(side) for side in record.data.get("fenced", ())}
        known = evolve(self, fenced=fenced)
        if record.name == "abort":
            return evolve(known, abort_requested=True)
        if record.name == "rescue":
            return evolve(known, rescue_requested=True, retries=0)
        known = evolve(known, given_up=known.given_up | set(record.data.get("accept_loss", ())))
        # Whoever asks wants a try now, whatever the policy has used up.
        return evolve(known, retry_requested=True, retries=0)

    def _after_activity(self, record: Record) -> History:
        known = self._with_data(record)
        if record.name == "rescue-snapshots":
            # Asked for once, tried once; what was saved is no reason to stay.
            known = evolve(known, rescue_requested=False, retry_requested=not record.error)
        if record.error:
            return evolve(known._failed(record), activity=Activity.FAILED)
        return evolve(known, activity=Activity.DONE, failures=0)

    def _failed(self, record: Record) -> History:
        remedy = record.data.get("remedy", "")
        return evolve(self, failures=self.failures + 1, cause=record.error, remedy=remedy)

    def _with_data(self, record: Record) -> History:
        data = record.data
        changes: dict[str, Any] = {}
        if "preflight" in data:
            changes["preflight"] = Preflight(data["preflight"])
        if "copies_verified" in data:
            changes["copies_verified"] = bool(data["copies_verified"])
        if "created" in data:
            changes["created"] = self.created | set(data["created"])
        if "durable_with_commit" in data:
            changes["not_durable"] = frozenset(data["durable_with_commit"])
        if "left_behind" in data:
            changes["left_behind"] = tuple(dict.fromkeys((*self.left_behind, *data["left_behind"])))
        if "started_paused" in data:
            changes["started_paused"] = bool(data["started_paused"])
        if "throttled" in data:
            changes["throttled"] = frozenset(data["throttled"])
        if "flattening" in data:
            changes["flattening"] = frozenset(data["flattening"])
        if "pulling" in data:
            changes |= {key: tuple(data[key]) for key in ("pulling", "not_flattened")}
        if "unfenced" in data:
            changes["fenced"] = self.fenced - {Side(side) for side in data["unfenced"]}
        if "pools" in data:
            changes["pools"] = tuple(converter.structure(data["pools"], list[PoolBefore]))
        if "probes" in data:
            changes["probes"] = tuple(data["probes"])
        if "plan" in data:
            changes["plan"] = converter.structure(data["plan"], Plan)
        if "bases" in data:
            changes["bases"] = converter.structure(data["bases"], Bases)
            changes["copied"] = {}  # those were other bases
        if "copied" in data:
            changes |= self._with_copied(data["copied"])
        if "kept_bytes" in data:
            changes["kept_bytes"] = int(data["kept_bytes"])
        if "rescued" in data:
            rescued = tuple(converter.structure(data["rescued"], list[Rescued]))
            changes["rescued"] = (*self.rescued, *rescued)
            changes["given_up"] = self.given_up | {one.name for one in rescued}
        return evolve(self, **changes)

    def _with_copied(self, data: Data) -> dict[str, Any]:
        """What is new counts as progress: as a file has an end, failures can't be forgiven for ever."""
        new = converter.structure(data, dict[str, tuple[Stretch, ...]])
        copied = {**self.copied, **{path: (*self.copied.get(path, ()), *new[path]) for path in new}}
        grown = any(covered_bytes(copied[path]) > covered_bytes(self.copied.get(path, ())) for path in new)
        return {"copied": copied, "failures": 0 if grown else self.failures}

    def facts(self, retry: RetryPolicy, *, overdue: bool, retry_due: bool, space_short: bool) -> Engine:
        """The engine's half of an observation; the arguments come from the clock and the space watch."""
        return Engine(
            preflight=self.preflight,
            merge=self.plan.merge if self.plan else Merge.COMMIT,
            copies_verified=self.copies_verified,
            transfer_begun=self.transfer_begun,
            activity=self.activity,
            step_failed=self.failures > 0,
            attempts_left=retry.attempts is None or self.failures < retry.attempts,
            overdue=overdue,
            retry_due=retry_due or self.retry_requested,
            abort_requested=self.abort_requested,
            space_short=space_short,
            adopted=self.adopted,
            rescue_requested=self.rescue_requested,
        )


def fold(initial: str, records: Iterable[Record]) -> History:
    """The facts that ``records`` add up to, from a migration's beginning."""
    history = History(initial)
    for record in records:
        history = history.after(record)
    return history
