"""Looks at hosts: explains each domain that waits on an overlay, and what a host lacks. It changes nothing.

A domain is known by its own metadata, or by an overlay's name where that is missing; whether anybody will
finish it, by the journal.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence

from attrs import define, field
from lxml import etree

from fsm.engine import advice, checks, preparation
from fsm.engine.cases import Case, Examined, Kind
from fsm.engine.checks import Finding
from fsm.engine.holder import is_dead
from fsm.errors import BadInput, HostError
from fsm.hypervisor import domain_xml
from fsm.hypervisor.port import Connector, Host
from fsm.hypervisor.uris import safe_uri
from fsm.hypervisor.values import DomainFacts, HostIdentity, SnapshotMetadata
from fsm.journal.port import Journal
from fsm.journal.records import Header

# Overlays are named after the migration that makes them (see preflight).
_OVERLAY = re.compile(r"\.fsm-([0-9a-f]{12})(?:\.arrived)?$")


async def examine(connector: Connector, journal: Journal, uris: Sequence[str]) -> tuple[Examined, ...]:
    """Look at all these hosts, at the same time. Raises ``BadInput`` for a malformed URI."""
    for uri in uris:
        connector.check(uri)
    headers = await asyncio.to_thread(journal.headers)
    known = {header.migration: header for header in headers}
    looks = (_examine(connector, journal, known, uri) for uri in dict.fromkeys(uris))
    return tuple(await asyncio.gather(*looks))


async def _examine(connector: Connector, journal: Journal, known: Mapping[str, Header], uri: str) -> Examined:
    shown = safe_uri(uri)
    notes = (*preparation.kernel(uri), *preparation.kernel_unread(uri))
    try:
        host = await connector.connect(uri)
    except HostError as error:
        unread = Finding("unreachable", shown, error.message, error.remedy)
        return Examined(uri, notes=notes, unread=(unread,))
    look = _Look(host, journal, known)
    try:
        await look.run()
    except HostError as error:
        look.unread.append(Finding("unreachable", shown, error.message, error.remedy))
    finally:
        await host.close()
    if look.identity is not None:
        notes += tuple(checks.confinement(shown, look.identity))
    return Examined(uri, look.identity, notes, tuple(look.unread), tuple(look.cases))


@define
class _Look:
    """One look at one host."""

    host: Host
    journal: Journal
    known: Mapping[str, Header]
    identity: HostIdentity | None = None
    cases: list[Case] = field(factory=list)
    unread: list[Finding] = field(factory=list)

    async def run(self) -> None:
        self.identity = await self.host.identity()
        # One after the other: calls that wait behind each other would come to their deadlines.
        for uuid in await self.host.domains():
            try:
                await self._domain(uuid, self.identity.uuid)
            except HostError as error:
                self.unread.append(Finding("domain", self.host.uri, f"{uuid}: {error.message}", error.remedy))

    async def _domain(self, uuid: str, host_uuid: str) -> None:
        facts = await self.host.domain(uuid)
        if facts is None:
            return
        named = migration_of(facts)
        migration = facts.marker.migration if facts.marker is not None else named
        case = Case(
            kind=Kind.LAYERED,
            host=self.host.uri,
            host_uuid=host_uuid,
            domain_uuid=uuid,
            domain=facts.name,
            migration=migration,
            on_overlay=bool(named),
            marker=facts.marker,
        )
        if facts.marker is not None or named:
            self.cases.append(await self._ours(case, facts))
        elif layers := await self._unexplained(facts):
            self.cases.append(advice.layered(case, facts, layers))

    async def _ours(self, case: Case, facts: DomainFacts) -> Case:
        header = self.known.get(case.migration)
        if header is None:
            return advice.lost(case, facts, self.journal.location)
        if header.final:
            return advice.leftover(case, facts, header)
        driver = await asyncio.to_thread(self.journal.driver, case.migration, is_dead)
        return advice.unfinished(case, facts, header, driver)

    async def _unexplained(self, facts: DomainFacts) -> list[str]:
        """The disks with layers above the lowest that are not in the domain's snapshots."""
        layered = [disk for disk in facts.disks if len(disk.chain) > 1]
        if not layered:
            return []
        explained = set(_external_files(await self.host.snapshots(facts.uuid)))
        return [disk.target for disk in layered if not explained.issuperset(disk.chain[:-1])]


def migration_of(facts: DomainFacts) -> str:
    """The id of the migration whose overlay is in some disk's chain, by its name; empty without one."""
    found = (_OVERLAY.search(path) for disk in facts.disks for path in disk.chain)
    return next((match.group(1) for match in found if match), "")


def _external_files(snapshots: Iterable[SnapshotMetadata]) -> Iterable[str]:
    for snapshot in snapshots:
        try:
            root: etree._Element = domain_xml.parse(snapshot.xml, "domainsnapshot")
        except BadInput:
            continue
        yield from (source.get("file", "") for source in root.iterfind("disks/disk/source"))
