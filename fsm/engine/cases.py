"""What an examination of hosts comes to, as values."""

from __future__ import annotations

from enum import StrEnum

from attrs import field, frozen

from fsm.engine.checks import Finding
from fsm.hypervisor.uris import safe_uri
from fsm.hypervisor.values import HostIdentity, Marker


class Kind(StrEnum):
    """What was found about a domain.

    ``LOST``: a migration that this journal does not know; the domain's marker tells of it. ``UNMARKED``: the
    same without a marker that can be read. ``UNFINISHED``: this journal has it, and nobody drives it.
    ``DRIVEN``: somebody does. ``LEFTOVER``: it has ended, and this is what was left. ``LAYERED``: not of this
    program: layers that no snapshot of the domain explains.
    """

    LOST = "lost"
    UNMARKED = "unmarked"
    UNFINISHED = "unfinished"
    DRIVEN = "driven"
    LEFTOVER = "leftover"
    LAYERED = "layered"


@frozen
class Case:
    """A domain about which there is something to say: ``what`` it is, and the ``remedy``.

    ``on_overlay``: some disk stands on an overlay of ours.
    """

    kind: Kind
    host: str
    host_uuid: str
    domain_uuid: str
    domain: str
    migration: str = ""
    what: str = ""
    remedy: str = ""
    on_overlay: bool = False
    marker: Marker | None = None

    @property
    def waits(self) -> bool:
        """Whether the domain waits for something that nobody does."""
        return self.kind in (Kind.LOST, Kind.UNMARKED, Kind.UNFINISHED) or (
            self.kind is Kind.LEFTOVER and self.on_overlay
        )


@frozen
class Examined:
    """One host. ``uri`` is as it was given, ``identity`` None where it could not be reached.

    ``notes`` with a remedy are something to be done about the host; ``unread`` is what could not be read.
    """

    uri: str = field(repr=False)
    identity: HostIdentity | None = None
    notes: tuple[Finding, ...] = ()
    unread: tuple[Finding, ...] = ()
    cases: tuple[Case, ...] = ()

    @property
    def shown_uri(self) -> str:
        """The URI, fit for messages."""
        return safe_uri(self.uri)
