"""What a migration's records add up to, as far as decisions and effects depend on it."""

from __future__ import annotations

from typing import NamedTuple

from fsm.machine.exploration.hosts import SOURCE


class Facts(NamedTuple):
    """The journal in short: ``fsm.engine.history.History`` folds records into the same facts.

    ``saved``: it has the snapshots' metadata. ``verified``: the snapshots at the destination were compared
    with it. ``failed``: the last step failed; that no attempt is left may be so from the first failure on, or
    never. ``given_up``: what somebody took into an overlay may go with it.
    """

    state: str
    preflight: str = "pending"
    merge: str = "commit"
    copies_verified: bool = False
    transfer_begun: bool = False
    begun: bool = False
    failed: bool = False
    abort_requested: bool = False
    fenced_source: bool = False
    fenced_destination: bool = False
    saved: bool = False
    verified: bool = False
    started_paused: bool = False
    rescue_requested: bool = False
    given_up: bool = False
    adopted: bool = False

    @property
    def planned(self) -> bool:
        """Whether there is a plan: before, nobody knows what to ask a host for."""
        return self.preflight == "passed" or self.adopted

    def fenced(self, side: str) -> bool:
        """Whether the operator attests that this host is off."""
        return self.fenced_source if side == SOURCE else self.fenced_destination
