"""A domain's UEFI variables, which are no disk: what preflight makes of the file that holds them.

Those of a domain that runs come with its memory. Of one that is shut off the file is copied along like one
below a base, to the path that it has.
"""

from __future__ import annotations

from attrs import define, field

from fsm.engine import checks, elsewhere, shared
from fsm.engine.backing import Stat
from fsm.engine.checks import Finding
from fsm.engine.context import Context
from fsm.engine.plan import BackingFile, Side, StorageChoice
from fsm.hypervisor import firmware_xml
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DomainFacts, FileFacts, is_among_devices
from fsm.machine.observation import DomainState


@define
class VariableStore:
    """The file with the variables, and what stands against it. ``copied``: it, where it is to be copied."""

    context: Context
    source: Host
    stat: Stat
    findings: list[Finding]
    copied: list[FileFacts] = field(factory=list)
    _path: str = ""
    _ours: FileFacts | None = None

    @property
    def backing(self) -> list[BackingFile]:
        """It as the plan has it."""
        return [BackingFile(one.path, one.format, one.size_bytes, one.modified) for one in self.copied]

    async def look(self, facts: DomainFacts) -> None:
        """See what the domain has at the source."""
        found = firmware_xml.variables(await self.source.domain_xml(facts.uuid))
        if found is None:
            return
        if facts.state is not DomainState.SHUT_OFF:
            # libvirt makes it from its template, and its content comes with the memory. It is called as the
            # domain is here: under another name the domain could meet one that has this name there.
            if elsewhere.other_name(facts, self.context.request):
                self._path = found.path
            return
        if not found.path or is_among_devices(found.path):
            self._against(facts, f"on a source of type {found.source_type!r}")
            return
        # A domain that was never started has none yet.
        seen = await self.stat(self.source, Side.SOURCE, found.path)
        ours = seen.used_as(found.format) if seen is not None else None
        if ours is not None and (ours.format != found.format or ours.backing):
            self._against(facts, f"in {found.path}, which is no {found.format} image of its own")
            return
        self._path, self._ours = found.path, ours

    async def find(self, destination: Host) -> None:
        """See that nothing at the destination bears its name."""
        if not self._path:
            return
        theirs = await self.stat(destination, Side.DESTINATION, self._path)
        if theirs is None:
            self.copied = [self._ours] if self._ours is not None else []
        elif not await self._is_same(destination, theirs):
            self.findings.append(checks.path_taken(self._path, destination.uri))

    async def _is_same(self, destination: Host, theirs: FileFacts) -> bool:
        """Whether it is the very file, which both hosts see."""
        may_be = self._ours is not None and self._ours.modified == theirs.modified
        if not may_be or self.context.request.storage is StorageChoice.COPY:
            return False
        return await shared.is_shared(self.context, self.source, destination, self._path)

    def _against(self, facts: DomainFacts, where: str) -> None:
        message = f"domain {facts.name} is shut off and has UEFI variables {where}: that is not copied"
        remedy = "start it, then migrate it live"
        self.findings.append(Finding("state-file", self.source.uri, message, remedy))
