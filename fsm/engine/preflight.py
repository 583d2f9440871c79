"""Looks for every reason against a migration before anything is touched, and makes the plan.

All findings are reported at once. What had to be opened to look (storage pools) is put back before the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

from attrs import define, evolve, field

from fsm.engine import checks, direct, elsewhere, flattening, preparation, shared, snapshot_data, space
from fsm.engine.actions import put_back
from fsm.engine.backing import Backed
from fsm.engine.checks import Finding
from fsm.engine.context import Context
from fsm.engine.device_checks import OnDevices
from fsm.engine.merging import choose
from fsm.engine.plan import BackingFile, MergeChoice, Plan, PoolBefore, Request, Side, StorageChoice
from fsm.engine.space import directory_of
from fsm.engine.variables import VariableStore
from fsm.errors import HostError, HostUnreachable, NotFound
from fsm.hypervisor.domain_xml import boot_files
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DiskFacts, DomainFacts, FileFacts, HostIdentity, Overlay, PoolState
from fsm.journal.port import DomainBusy
from fsm.journal.records import Data, converter
from fsm.machine.observation import DomainState, Preflight


async def preflight(context: Context) -> None:
    """The activity of ``planned``: record the verdict, the findings, and the plan if there is one."""
    # What an engine that died while it looked has opened was covered as it noted, not as it is now.
    known = {(pool.side, pool.directory): pool.was for pool in context.history.pools}
    inspection = Inspection(context, pools=known)
    try:
        await context.unless_called_off(inspection.run())
    finally:
        context.outcome["pools"] = converter.unstructure(inspection.pools)
    accepted = [f for f in inspection.findings if f.check in context.request.accept]
    plan = inspection.plan
    # Without a plan nothing can be taken on: then all of them are told.
    findings = inspection.refusing if plan is not None else list(inspection.findings)
    if plan is not None and not findings:
        try:
            await context.claim(plan.domain_uuid)
        except DomainBusy as error:
            findings.append(Finding("busy", context.request.shown_uri(Side.SOURCE), str(error), error.remedy))
    outcome: Data = {
        "findings": converter.unstructure(findings),
        "accepted": converter.unstructure(accepted),
        "notes": converter.unstructure(inspection.notes),
    }
    if findings or plan is None:
        outcome["preflight"] = Preflight.REFUSED.value
    else:
        outcome["preflight"] = Preflight.PASSED.value
        outcome["plan"] = converter.unstructure(plan)
        outcome |= {"merge": plan.merge.value, "merge_reason": plan.merge_reason}
        outcome |= elsewhere.told(plan)
        outcome["shared"] = [overlay.target for overlay in plan.overlays if overlay.shared]
    context.outcome.update(outcome)


@define
class Inspection:
    """One look at both hosts. ``plan`` is None while something basic is missing.

    ``notes`` are told and stand against nothing.
    """

    context: Context
    findings: list[Finding] = field(factory=list)
    notes: list[Finding] = field(factory=list)
    plan: Plan | None = None
    _uuids: tuple[str, str] = ("", "")
    _pools: dict[tuple[Side, str], PoolState] = field(factory=dict)

    @property
    def request(self) -> Request:
        """What is asked for."""
        return self.context.request

    @property
    def refusing(self) -> list[Finding]:
        """The findings that the user does not take on himself."""
        return [finding for finding in self.findings if finding.check not in self.request.accept]

    @property
    def pools(self) -> tuple[PoolBefore, ...]:
        """The directories that were looked at, and how they were covered before."""
        return tuple(PoolBefore(side, directory, was) for (side, directory), was in self._pools.items())

    async def run(self) -> None:
        """Look at everything that can be looked at; put back what was opened."""
        hosts = {side: await self._connect(side) for side in Side}
        self.notes += [note for side in Side for note in preparation.kernel(self.request.uri(side))]
        source, destination = hosts[Side.SOURCE], hosts[Side.DESTINATION]
        there: HostIdentity | None = None
        if source is not None and destination is not None:
            with self._finding("identity", destination.uri):
                identities = await source.identity(), await destination.identity()
                self._uuids = identities[0].uuid, identities[1].uuid
                there = identities[1]
                self.findings += checks.hosts(*identities, self.request)
                if self.request.direct is not None:
                    self.findings += await direct.findings(self.request, self.request.direct)
        if source is None:
            return
        facts = await self._domain(source, there)
        if facts is None:
            return
        try:
            await self._files(facts, source, destination)
        finally:
            # What can't be put back now is tried again when the migration ends.
            await put_back(self.context, self.pools)

    async def _connect(self, side: Side) -> Host | None:
        try:
            return await self.context.host(side)
        except HostUnreachable as error:
            self.findings.append(
                Finding("unreachable", self.request.shown_uri(side), error.message, error.remedy)
            )
            return None

    async def _domain(self, source: Host, there: HostIdentity | None) -> DomainFacts | None:
        with self._finding("domain", source.uri):
            try:
                uuid = await source.resolve(self.request.domain)
            except NotFound:
                self.findings.append(
                    Finding(
                        "no-such-domain",
                        source.uri,
                        f"there is no domain {self.request.domain!r}",
                        "`virsh list --all` names them; --from names the source host",
                    )
                )
                return None
            facts = await source.domain(uuid)
            if facts is not None:
                self.findings += checks.domain(facts, source.uri)
                self.findings += checks.disks(facts, self.request)
                self.findings += checks.excluded_disks(facts, self.request)
                snapshots = await source.snapshots(uuid)
                self.findings += checks.snapshots(snapshots, source.uri)
                if there is not None:
                    uri = self.request.shown_uri(Side.DESTINATION)
                    self.notes += checks.snapshot_names(snapshots, there, uri)
            return facts
        return None

    async def _files(self, facts: DomainFacts, source: Host, destination: Host | None) -> None:
        moving = [disk for disk in facts.disks if checks.migrates(disk, self.request)]
        # What is refused for where it lies is not opened: a pool over /dev would read every device.
        disks = [disk for disk in moving if checks.can_be_opened(disk, self.request)]
        overlays = tuple(self._overlay(disk) for disk in disks)
        bases = []
        for overlay in overlays:
            with self._finding("base", source.uri):
                bases.append(await self._source_file(source, overlay))
        files = [base for base in bases if base is not None]
        live = facts.state is not DomainState.SHUT_OFF
        if live:
            await self._source_space(source, space.reserves(overlays, files))
        backed = Backed(self.context, source, self._stat, self.findings)
        await backed.look(facts, overlays, files)
        if destination is not None:
            overlays = await self._placed(facts, source, destination, overlays)
        settled = True
        if destination is not None and (direct := self.request.direct) is not None:
            on_devices = OnDevices(self.context, source, destination, direct, self._stat, self.findings)
            overlays, settled = await on_devices.look(overlays, files, live=live)
        backing: tuple[BackingFile, ...] = ()
        merge, reason, against = await choose(source, facts, overlays, files, self.request)
        if self.request.merge is MergeChoice.MIRROR:
            self.findings += against
        else:
            self.notes += [evolve(note, remedy="so its overlay is committed there") for note in against]
        self.notes += checks.bandwidth(self.request, len(overlays))
        self.notes += await snapshot_data.notes(source, overlays, facts.snapshots)
        with self._finding("flatten", source.uri):
            asked = self.request, source, destination, facts, overlays
            self.findings += await flattening.findings(*asked)
        grown = flattening.growth(self.request, overlays, files, backed.chains)
        if destination is not None:
            await self._at_destination(facts, source, destination)
            await self._destination_paths(destination, overlays)
            await backed.find(destination, overlays)
            store = VariableStore(self.context, source, self._stat, self.findings)
            with self._finding("state-file", source.uri):
                await store.look(facts)
            with self._finding("directory-missing", destination.uri):
                await store.find(destination)
            also = [*backed.copied, *store.copied]
            need = space.need_there(overlays, files, also, live=live)
            await self._destination_space(destination, need, grown)
            compared = await backed.compare(destination, settled=lambda: not self.refusing)
            backing = (*compared, *store.backing)
        if len(disks) < len(moving) or not settled:
            return
        self.plan = Plan(
            facts.uuid,
            facts.name,
            overlays,
            *self._uuids,
            owners=(secrets.token_hex(8),),
            merge=merge,
            merge_reason=reason,
            backing=backing,
            destination_name=elsewhere.other_name(facts, self.request),
        )

    def _overlay(self, disk: DiskFacts) -> Overlay:
        # The migration's id makes the name its own: whatever bears it was made by this migration.
        path = f"{disk.source}.fsm-{self.context.migration}"
        if elsewhere := self.request.overlay_directory:
            # Bases of one name may lie in many directories.
            name = f"{PurePosixPath(disk.source).name}.{disk.target}.fsm-{self.context.migration}"
            path = str(PurePosixPath(elsewhere) / name)
        return Overlay(disk.target, path, disk.source, disk.format, on_device=disk.source_type == "block")

    async def _placed(
        self, facts: DomainFacts, source: Host, destination: Host, overlays: tuple[Overlay, ...]
    ) -> tuple[Overlay, ...]:
        """The overlays with the word which bases are shared, and where the others' copies will lie."""
        with self._finding("pool", destination.uri):
            overlays = await elsewhere.mapped(destination.storage, overlays, self.request)
        overlays = await self._told_apart(facts, source, destination, overlays)
        with self._finding("pool", destination.uri):
            overlays = await elsewhere.pooled(destination.storage, overlays, self.request)
        self.findings += elsewhere.findings(facts, overlays, self.request)
        return overlays

    async def _told_apart(
        self, facts: DomainFacts, source: Host, destination: Host, overlays: tuple[Overlay, ...]
    ) -> tuple[Overlay, ...]:
        """The same overlays with the word which of the bases both hosts share; a mapped one is copied."""
        if self.request.storage is StorageChoice.COPY:
            return overlays
        found, whys = [], dict[str, str]()
        for overlay in overlays:
            with self._finding("base", destination.uri):
                looked_at = shared.looked_at(self.context, source, destination, overlay, self._stat_or_none)
                overlay, whys[overlay.target] = await looked_at  # noqa: PLW2901  # the same one, known better
            found.append(overlay)
        self.findings += shared.findings(facts, found, self.request, whys)
        self.notes += shared.notes(found, self.request, whys)
        return tuple(found)

    async def _source_file(self, source: Host, overlay: Overlay) -> FileFacts | None:
        facts = await self._stat(source, Side.SOURCE, overlay.base)
        if facts is None:
            message = f"the storage pool of {directory_of(overlay.base)} does not show {overlay.base}"
            self.findings.append(Finding("base", source.uri, message, "check the pool: virsh vol-list"))
        with self._finding("directory-missing", source.uri):
            if await self._stat(source, Side.SOURCE, overlay.path) is not None:
                self.findings.append(checks.path_taken(overlay.path, source.uri))
        return facts.used_as(overlay.base_format) if facts is not None else None

    async def _source_space(self, source: Host, need: dict[str, int]) -> None:
        for directory, need_bytes in need.items():
            # A directory that is missing is reported with the paths.
            with self._finding("space", source.uri), suppress(NotFound):
                free_bytes = await source.storage.free_bytes(directory)
                what = "the overlay with its commit"
                self.findings += checks.space(need_bytes, free_bytes, directory, source.uri, what)

    async def _at_destination(self, facts: DomainFacts, source: Host, destination: Host) -> None:
        with self._finding("destination", destination.uri):
            xml = await source.domain_xml(facts.uuid)
            self.findings += checks.shut_off(facts, xml, source.uri)
            self.findings += checks.variable_store(facts, xml, source.uri)
            for objection in await destination.objections(xml):
                self.findings.append(
                    Finding("incompatible", destination.uri, objection, "choose a host that supports it")
                )
            for key in dict.fromkeys((facts.uuid, self.request.destination_name or facts.name)):
                await self._expect_no_domain(destination, key)
            for file in (*boot_files(xml), *checks.left_alone(facts, self.request)):
                if file.kind != "nvram" and await self._stat_or_none(destination, file.path) is None:
                    self.findings.append(checks.boot_file_missing(file, facts.name, destination.uri))

    async def _expect_no_domain(self, destination: Host, key: str) -> None:
        try:
            await destination.resolve(key)
        except NotFound:
            return
        self.findings.append(
            Finding(
                "domain-exists",
                destination.uri,
                f"a domain {key} is defined there already",
                "undefine it there if it is a leftover: virsh undefine",
            )
        )

    async def _destination_paths(self, destination: Host, overlays: tuple[Overlay, ...]) -> None:
        for overlay in overlays:
            arrived = overlay.arrived
            there_already = overlay.shared or overlay.arrives_on_device  # which is looked at with the devices
            for path in (arrived.path,) if there_already else (arrived.base, arrived.path):
                with self._finding("directory-missing", destination.uri):
                    if await self._stat(destination, Side.DESTINATION, path) is not None:
                        self.findings.append(checks.path_taken(path, destination.uri))

    async def _destination_space(
        self, destination: Host, need: dict[str, int], grown: dict[str, int]
    ) -> None:
        for directory, need_bytes in need.items():
            if (Side.DESTINATION, directory) not in self._pools:
                continue  # why it could not be looked at is reported with the paths
            # A directory that is missing is reported with the paths.
            with self._finding("space", destination.uri), suppress(NotFound):
                free_bytes = await destination.storage.free_bytes(directory)
                what = "the copy, the overlay and its commit"
                place = free_bytes, directory, destination.uri
                self.findings += checks.space(need_bytes, *place, what)
                self.findings += flattening.space(need_bytes, grown.get(directory, 0), *place)

    async def _stat(self, host: Host, side: Side, path: str) -> FileFacts | None:
        directory = directory_of(path)
        if not checks.may_be_shown(path):
            raise HostError(f"{path}: {checks.NOT_OPENED}", host=host.uri, remedy=checks.DEEPER)
        if (side, directory) not in self._pools:
            self._pools[side, directory] = await host.storage.pool_state(directory)
            # Before it is opened: an engine that takes over must know what to put back.
            await self.context.note("look-into-directory", {"pools": converter.unstructure(self.pools)})
        return await host.storage.stat(path)

    async def _stat_or_none(self, destination: Host, path: str) -> FileFacts | None:
        try:
            return await self._stat(destination, Side.DESTINATION, path)
        except NotFound:
            return None

    @contextmanager
    def _finding(self, check: str, host: str) -> Iterator[None]:
        """Turn a host's error into a finding, so that the other checks still run."""
        try:
            yield
        except HostError as error:
            self.findings.append(Finding(check, host, error.message, error.remedy))
