"""What a migration came to."""

from __future__ import annotations

from attrs import frozen

from fsm.engine.checks import Finding


@frozen
class Result:
    """Where a migration stands when the engine lets go of it.

    ``cause`` says what went wrong, empty where nothing did, and ``remedy`` what to do about it. ``findings``
    are preflight's, all of them; ``notes`` what it tells besides, against nothing. ``left_behind`` names what
    could not be removed on a host that is off. ``pulling`` tells of each disk whose flattening has begun what
    shows how far it is, ``not_flattened`` of each other one why it has not, and what begins it.
    """

    migration: str
    domain: str
    state: str
    cause: str = ""
    remedy: str = ""
    findings: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    left_behind: tuple[str, ...] = ()
    pulling: tuple[str, ...] = ()
    not_flattened: tuple[str, ...] = ()
    duration_s: float = 0.0
