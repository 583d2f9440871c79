"""Makes a migration's first record out of what the domain's marker and both hosts show.

The marker is the word of whoever may change the domain's description: it is believed only as far as what is
observed bears it out, and a URI in it is used only where it can do nothing but connect. Nothing is changed
here; what is opened to look (storage pools) is put back.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence

from attrs import define, evolve, field

from fsm.engine.advice import other_journal
from fsm.engine.bases import is_growable
from fsm.engine.cases import Case, Examined, Kind
from fsm.engine.clock import Clock
from fsm.engine.elsewhere import described_here
from fsm.engine.history import History
from fsm.engine.marking import packed_for_marker
from fsm.engine.observe import in_machine_terms
from fsm.engine.plan import BackingFile, Bases, Plan, PoolBefore, Request, Side
from fsm.engine.space import directory_of
from fsm.errors import FsmError, HostUnreachable
from fsm.hypervisor import domain_xml, firmware_xml, markers
from fsm.hypervisor.port import Connector, Host
from fsm.hypervisor.uris import is_plain, safe_uri
from fsm.hypervisor.values import Base, DomainFacts, Marker, PoolState, SnapshotMetadata
from fsm.images.tables import snapshots_in
from fsm.journal.port import Journal
from fsm.journal.records import Header, Phase, Record, Step, converter
from fsm.machine.observation import Job, Layer
from fsm.machine.spec import Spec

# An engine that drives a migration looks at its block jobs and at its domain more often than this.
STILL_S = 5.0
_ID = re.compile("[0-9a-f]{12}")


class AdoptionRefused(FsmError):
    """A migration is not adopted: somebody may be driving it, or too little is known. Nothing was done."""


@define
class Adoption:
    """One adoption. ``prepared`` is called once."""

    connector: Connector
    journal: Journal
    clock: Clock
    case: Case
    examined: Sequence[Examined]
    _hosts: dict[Side, Host] = field(factory=dict)

    async def prepared(self, spec: Spec) -> tuple[Header, Record]:
        """The header and the first record, ready to be written. Raises ``AdoptionRefused``."""
        marker = self._believed()
        uris = {side: self._uri(side, marker) for side in Side}
        try:
            for side in Side:
                await self._connect(side, uris[side], marker)
            return await self._described(marker, uris, spec)
        finally:
            for host in self._hosts.values():
                await host.close()

    def _refuse(self, why: str, remedy: str = "") -> AdoptionRefused:
        named = f"migration {self.case.migration} of domain {self.case.domain} is not adopted: {why}"
        return AdoptionRefused(named, remedy=remedy or self.case.remedy)

    # -- what is believed -----------------------------------------------------------------------------

    def _believed(self) -> Marker:
        marker = self.case.marker
        if marker is None or marker.problem or self.case.kind is not Kind.LOST:
            raise self._refuse(self.case.what)
        if (other := other_journal(marker, self.journal.location)) is not None:
            raise self._refuse(f"its journal {other} is there", f"{self.case.remedy}; or move that file away")
        named = all(
            overlay.path.endswith(f".fsm-{marker.migration}")
            and overlay.path.startswith("/")
            and overlay.base.startswith("/")
            and overlay.arrived.base.startswith("/")
            for overlay in marker.overlays
        )
        known = {(overlay.base, False) for overlay in marker.overlays} | {
            (path, True) for path, _ in marker.below
        }
        copied = {(base.path, base.below) for base in marker.bases}
        if not (_ID.fullmatch(marker.migration) and named and known.issuperset(copied)):
            raise self._refuse("its marker was not written by this program", "see who has changed it")
        return marker

    def _uri(self, side: Side, marker: Marker) -> str:
        """As given for the host with the UUID in the marker, else as the marker has it."""
        source = side is Side.SOURCE
        uuid, uri = (
            (marker.source_host, marker.source_uri)
            if source
            else (marker.destination_host, marker.destination_uri)
        )
        for host in self.examined:
            if host.identity is not None and host.identity.uuid == uuid:
                return host.uri
        if is_plain(uri):
            return uri
        raise self._refuse(f"nobody has named the {side}, {uri}", "name it as well: --host")

    async def _connect(self, side: Side, uri: str, marker: Marker) -> None:
        """Connect to the host of the marker; one that can't be reached now may be so later."""
        wanted = marker.source_host if side is Side.SOURCE else marker.destination_host
        try:
            host = await self.connector.connect(uri)
        except HostUnreachable:
            return
        self._hosts[side] = host
        if (found := (await host.identity()).uuid) != wanted:
            raise self._refuse(
                f"{host.uri} is not its {side}: that host's UUID is {found}, the marker says {wanted}",
                f"name the {side}: --host",
            )

    # -- what is seen ---------------------------------------------------------------------------------

    async def _described(self, marker: Marker, uris: dict[Side, str], spec: Spec) -> tuple[Header, Record]:
        plan = Plan(
            self.case.domain_uuid,
            self.case.domain,
            marker.overlays,
            marker.source_host,
            marker.destination_host,
            owners=(marker.owner, secrets.token_hex(8)),
            merge=marker.merge,
            destination_name=marker.destination_name,
        )
        facts = await self._still(plan)
        xmls = [await self._hosts[side].domain_xml(plan.domain_uuid) for side in facts]
        marker = _borne_out(marker, facts, {firmware_xml.variables_file(xml) for xml in xmls})
        plan = evolve(plan, backing=tuple(BackingFile(*file) for file in marker.below))
        if Side.SOURCE in facts:  # the case may be told of under the name that it has at the destination
            plan = evolve(plan, domain_name=facts[Side.SOURCE].name)
        home = self._home(facts)
        pools = await self._pools(plan, facts)
        bases = await self._bases(plan, marker, facts, home, pools)
        shared = {overlay.base for overlay in plan.overlays if overlay.shared}
        devices = {one.base for one in plan.overlays if one.arrives_on_device}
        data = {
            "plan": converter.unstructure(plan),
            "bases": converter.unstructure(bases),
            "created": [
                plan.copy_of(base).path for base in marker.bases if base.path not in shared | devices
            ],
            "pools": converter.unstructure(pools),
            "started_paused": marker.started_paused,
        }
        request = Request(
            plan.domain_uuid, destination_uri=uris[Side.DESTINATION], source_uri=uris[Side.SOURCE]
        )
        header = Header(
            migration=marker.migration,
            created=self.clock.now(),
            domain=plan.domain_name,
            source_uri=safe_uri(uris[Side.SOURCE]),
            destination_uri=safe_uri(uris[Side.DESTINATION]),
            state=spec.initial,
            # The overlays may be there: what is blocked while they are is blocked from the first moment on.
            heading_for=next(row.dest for row in spec.rows_from(spec.initial) if row.trigger == "adopt"),
            domain_uuid=plan.domain_uuid,
            request=converter.unstructure(request),
        )
        first = Record(
            Step.REQUEST,
            Phase.OUTCOME,
            "adopt",
            spec.initial,
            data=data,
            at=self.clock.now(),
            spec_digest=spec.digest,
        )
        return header, first

    async def _still(self, plan: Plan) -> dict[Side, DomainFacts]:
        """The domain on each host that has it, seen twice without anything going on in between."""
        before = await self._look(plan)
        await self.clock.wait(asyncio.Event(), STILL_S)
        after = await self._look(plan)
        if {side: _quiet(facts) for side, facts in before.items()} != {
            side: _quiet(facts) for side, facts in after.items()
        }:
            raise self._refuse("something goes on with it", "wait until it stands still, then try again")
        return after

    async def _look(self, plan: Plan) -> dict[Side, DomainFacts]:
        found = {}
        for side, host in self._hosts.items():
            facts = await host.domain(plan.domain_uuid)
            if facts is None:
                continue
            self._expect_quiet(facts, host)
            seen = in_machine_terms(facts, side, History("", plan=plan))
            if seen.marked_by_another or any(disk.layer is Layer.FOREIGN for disk in seen.disks):
                raise self._refuse(
                    f"at {host.uri} its disks or its marker are not as this one says",
                    "find out who has changed them",
                )
            found[side] = facts
        return found

    def _expect_quiet(self, facts: DomainFacts, host: Host) -> None:
        if facts.job is not Job.NONE:
            raise self._refuse(
                f"a job of it runs at {host.uri}: {facts.job}",
                "a migration ends without its engine too: wait (virsh domjobinfo), then try again",
            )
        jobs = [disk for disk in facts.disks if disk.block_job is not None and not disk.block_job.ready]
        if jobs:
            raise self._refuse(
                f"a block job runs at {host.uri} on disk {jobs[0].target}",
                "wait until it is ready (virsh blockjob), then try again",
            )

    def _home(self, facts: dict[Side, DomainFacts]) -> Side:
        """The side where the domain is; where both have it, the destination has the last word."""
        if not facts:
            raise self._refuse("no host has it any more")
        arrived = facts.get(Side.DESTINATION)
        if arrived is not None and arrived.marker is None:
            # libvirt's migration brings the marker along, and it goes last of all. So somebody else has
            # defined this one, or a migration has ended there without its source, attested to be off.
            raise self._refuse(
                f"at {self._hosts[Side.DESTINATION].uri} it carries no marker: somebody else has defined it "
                "there, or the migration has ended there without its source",
                "find out which one has the current data before either is removed",
            )
        return Side.DESTINATION if Side.DESTINATION in facts else Side.SOURCE

    async def _pools(self, plan: Plan, facts: Mapping[Side, DomainFacts]) -> list[PoolBefore]:
        """How others cover the directories now; a pool of ours vanishes in the end, whatever covers them."""
        pools = []
        # What is below the bases was looked at as well, and the marker tells only what was copied of it.
        seen = {layer for found in facts.values() for disk in found.disks for layer in disk.chain}
        below = [*(backing.path for backing in plan.backing), *sorted(seen)]
        for side in Side:
            files = [path for one in plan.overlays_at(side) for path in (one.base, one.path)]
            for directory in dict.fromkeys(directory_of(path) for path in (*files, *below)):
                host = self._hosts.get(side)
                was = PoolState.NONE if host is None else await host.storage.pool_state(directory)
                pools.append(PoolBefore(side, directory, was))
        return pools

    # -- what is needed -------------------------------------------------------------------------------

    async def _bases(
        self,
        plan: Plan,
        marker: Marker,
        facts: dict[Side, DomainFacts],
        home: Side,
        pools: Sequence[PoolBefore],
    ) -> Bases:
        host, uuid = self._hosts[home], plan.domain_uuid
        xml, persistent = await host.domain_xml(uuid), await host.persistent_xml(uuid)
        if marker.bases:
            snapshots = await self._snapshots(plan, marker, facts, persistent)
            return Bases(marker.bases, snapshots, xml, persistent, marker.snapshots)
        # The copies were not made yet, or only just: nothing was dropped, and the transfer has not begun.
        if home is not Side.SOURCE:
            raise self._refuse("its marker was never completed, and yet it is at the destination")
        try:
            bases = tuple(
                [evolve(await self._base(host, *file), below=True) for file in marker.below]
                + [
                    evolve(
                        await self._base(host, overlay.base, overlay.base_format),
                        on_device=overlay.on_device,
                    )
                    for overlay in plan.overlays
                ]
            )
            # What was taken into an overlay is none of the bases' own: the first observation finds it again.
            foreign = {name for one in plan.overlays for name in await snapshots_in(host.storage, one.path)}
        finally:
            for pool in pools:
                if pool.side is Side.SOURCE:
                    await host.storage.release(pool.directory, pool.was)
        snapshots = tuple(one for one in await host.snapshots(uuid) if one.name not in foreign)
        packed = await packed_for_marker(host, uuid, snapshots)
        return Bases(bases, snapshots, xml, persistent, packed)

    async def _base(self, host: Host, path: str, image_format: str) -> Base:
        found = await host.storage.stat(path)
        if found is None:
            raise self._refuse(f"{host.uri} does not show its base {path}", "check the pool: virsh vol-list")
        found = found.used_as(image_format)
        sizes = (found.size_bytes, found.allocated_bytes, found.capacity_bytes)
        return Base(path, image_format, *sizes, await is_growable(host.storage, found))

    async def _snapshots(
        self, plan: Plan, marker: Marker, facts: dict[Side, DomainFacts], definition: str
    ) -> tuple[SnapshotMetadata, ...]:
        """The marker's, each as a host still has it, with its secrets, where one does.

        A password that no host has any more is replaced by the domain's present one, or by a random one: a
        display without any would be open to everybody.
        """
        unpacked = markers.unpack(marker.snapshots)
        whole: dict[str, str] = {}
        for side in facts:
            present = await self._hosts[side].snapshots(self.case.domain_uuid)
            here = described_here(plan, present) if side is Side.DESTINATION else present
            whole |= {one.name: one.xml for one in here}
        password = domain_xml.graphics_password(definition) or secrets.token_hex(4)

        def complete(snapshot: SnapshotMetadata) -> SnapshotMetadata:
            if snapshot.name in whole:
                return evolve(snapshot, xml=whole[snapshot.name])
            if snapshot.name in unpacked.withheld:
                return evolve(snapshot, xml=domain_xml.with_graphics_passwords(snapshot.xml, password))
            return snapshot

        return tuple(complete(snapshot) for snapshot in unpacked.snapshots)


def _borne_out(marker: Marker, facts: Mapping[Side, DomainFacts], variables: set[str]) -> Marker:
    """The marker without files that the domain is not seen to use: no others are to be opened at its word."""
    seen = {layer for found in facts.values() for disk in found.disks for layer in disk.chain} | variables
    below = tuple(file for file in marker.below if file[0] in seen)
    paths = {path for path, _ in below}
    bases = tuple(base for base in marker.bases if not base.below or base.path in paths)
    return evolve(marker, below=below, bases=bases)


def _quiet(facts: DomainFacts) -> DomainFacts:
    """Facts without what changes by itself: how far a block job is that only follows the guest's writes."""
    disks = tuple(
        evolve(disk, block_job=evolve(disk.block_job, current_bytes=0, end_bytes=0))
        if disk.block_job
        else disk
        for disk in facts.disks
    )
    return evolve(facts, disks=disks)
