"""The images below the bases: read-only, and most often shared by many domains.

They stay below them; flattening is begun when all is over (``fsm.engine.flattening``). What the destination
has at such a path must hold the very same: that is compared, once, before anything is touched. What it does
not have is copied along with the bases.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import PurePosixPath

from attrs import define, field

from fsm.engine import devices, shared
from fsm.engine.checks import Finding
from fsm.engine.context import Context
from fsm.engine.direct import shell
from fsm.engine.plan import BackingFile, Side, StorageChoice
from fsm.engine.space import directory_of
from fsm.engine.streams import limit
from fsm.errors import ActionFailed, HostError, ImageCorrupt, NotFound, VerificationFailed
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DiskFacts, DomainFacts, FileFacts, Overlay
from fsm.images.backing import DEEPEST_CHAIN, Backing, read_backing
from fsm.images.qcow2 import EXTERNAL_DATA, Header
from fsm.images.verify import compare_digests
from fsm.machine.observation import DomainState

Stat = Callable[[Host, Side, str], Awaitable[FileFacts | None]]
"""A file on that host; its directory is noted as one to be put back."""

_HEAD_BYTES = 64 * 1024


@define
class Backed:
    """What preflight finds below the bases: the files at the source, and what stands against them."""

    context: Context
    source: Host
    stat: Stat
    findings: list[Finding] = field(factory=list)
    files: dict[str, FileFacts] = field(factory=dict)
    chains: dict[str, tuple[FileFacts, ...]] = field(factory=dict)
    _above: dict[str, str] = field(factory=dict)
    _formats: dict[str, str] = field(factory=dict)
    _relative: set[str] = field(factory=set)
    _there: dict[str, FileFacts | None] = field(factory=dict)

    async def look(self, facts: DomainFacts, overlays: Sequence[Overlay], bases: Sequence[FileFacts]) -> None:
        """Follow the headers from each base downwards, and see that the domain runs on just these."""
        disks = {disk.target: disk for disk in facts.disks}
        named = {base.path for base in bases if base.backing}
        for overlay in overlays:
            disk = disks[overlay.target]
            if len(disk.chain) < 2 and overlay.base not in named:
                continue
            try:
                await self._follow(overlay, disk, facts)
            except (HostError, ImageCorrupt) as error:
                self._against(f"what is below {overlay.base} can't be told: {error}")
        await self._expect_files(self.source.uri, Side.SOURCE)

    async def _expect_files(self, uri: str, side: Side) -> None:
        """None of them is a block device there, under whatever name: no mark shows a write into one.

        Without a shell nobody can tell.
        """
        direct = self.context.request.direct
        if direct is None or not self.files:
            return
        try:
            found = await devices.numbers(shell(self.context.request, direct, side), list(self.files))
        except HostError as error:
            self._against(f"whether backing files are block devices can't be told: {error}")
            return
        for path in found:
            message = f"{self._above[path]} has the backing file {path}, which is a block device"
            self.findings.append(Finding("backing-file", uri, message, "convert it into a file"))

    async def _follow(self, overlay: Overlay, disk: DiskFacts, facts: DomainFacts) -> None:
        path, image_format = overlay.base, overlay.base_format
        chain = [(path, image_format)]
        while image_format == "qcow2":  # bounded: no chain is longer than QEMU's
            header, backing = await self._read(path)
            if header.incompatible_features & EXTERNAL_DATA or header.crypt_method:
                self._against(f"{path} is encrypted, or keeps its data in a file of its own")
                return
            if backing is None:
                break
            below = await self._below(path, backing, len(chain))
            if below is None:
                return
            path, image_format = below
            chain.append(below)
        self.chains[disk.target] = tuple(self.files[one].used_as(kind) for one, kind in chain[1:])
        layers = zip(disk.chain, disk.formats, strict=True)
        known = [(str(PurePosixPath(layer)), layer_format) for layer, layer_format in layers]
        if facts.state is not DomainState.SHUT_OFF and known != chain:
            self._against(
                f"disk {disk.target} runs on {_shown(known)}; the images' headers say {_shown(chain)}",
                "let the headers name what the domain uses: qemu-img rebase -u, while it is shut off",
            )

    async def _read(self, path: str) -> tuple[Header, Backing | None]:
        head = await self.source.storage.peek(path, 0, _HEAD_BYTES)
        return read_backing(lambda offset, length: head[offset : offset + length])

    async def _below(self, above: str, backing: Backing, depth: int) -> tuple[str, str] | None:
        """Path and format of the file that an image names; None where something stands against it."""
        path = backing.path(above)
        if path is None or path.startswith("/dev/") or depth >= DEEPEST_CHAIN:
            message = f"{above} has the backing file {backing.name!r}, which is no plain path of a file"
            self._against(message, "give it a path without '..': qemu-img rebase -u")
            return None
        if not backing.name.startswith("/"):
            self._relative.add(above)
        found = await self.stat(self.source, Side.SOURCE, path)
        if found is None:
            self._against(f"{above} has the backing file {path}, which is not there")
            return None
        image_format = backing.format or found.format
        if image_format not in ("qcow2", "raw") or (not backing.format and image_format != "raw"):
            message = f"{above} has the backing file {path} as {backing.format or 'no format'}"
            self._against(message, f"let its header name it: qemu-img rebase -u -F {found.format}")
            return None
        # Again at its end if it was known: those below come behind those above.
        self.files.pop(path, None)
        self.files[path] = found
        self._formats[path] = image_format
        self._above.setdefault(path, above)
        return path, image_format

    async def find(self, destination: Host, overlays: Sequence[Overlay]) -> None:
        """Look for each at the destination: what is missing is copied, what has another length is refused."""
        for overlay in overlays:
            moved = directory_of(overlay.arrived.base) != directory_of(overlay.base)
            if moved and overlay.base in self._relative:
                message = f"{overlay.base} names its backing file by a relative path, and is to lie elsewhere"
                self._against(message, "leave it in its directory; or, while shut off: qemu-img rebase -u")
        await self._expect_files(destination.uri, Side.DESTINATION)
        for ours in self.files.values():
            try:
                theirs = await self.stat(destination, Side.DESTINATION, ours.path)
            except NotFound:
                self._missing(destination, ours.path, "its directory is missing there")
                continue
            if theirs is not None and theirs.size_bytes != ours.size_bytes:
                lengths = f"{theirs.size_bytes} bytes long, and {ours.size_bytes} at the source"
                self._differs(destination, ours.path, lengths)
            elif theirs is None and self.context.request.storage is StorageChoice.SHARED:
                self._missing(destination, ours.path, "it is not there, and --storage shared copies nothing")
            else:
                self._there[ours.path] = theirs

    @property
    def copied(self) -> list[FileFacts]:
        """Those that are copied along."""
        return [self.files[path] for path, theirs in self._there.items() if theirs is None]

    async def compare(self, destination: Host, *, settled: Callable[[], bool]) -> tuple[BackingFile, ...]:
        """What is found there is alike, byte by byte, where it is not the very same file.

        That takes as long as reading it does, and is not worth it where ``settled`` says that the migration
        is refused anyway.
        """
        found = []
        for path, theirs in self._there.items():
            ours = self.files[path]
            if theirs is None or (settled() and await self._alike(destination, ours, theirs)):
                arrived = theirs.modified if theirs is not None else None
                found.append(BackingFile(path, self._formats[path], ours.size_bytes, ours.modified, arrived))
        return tuple(found)

    async def _alike(self, destination: Host, ours: FileFacts, theirs: FileFacts) -> bool:
        context, path = self.context, ours.path
        # Equal times are a copy's too. What is shared needs no reading.
        may_be_shared = ours.modified == theirs.modified and context.request.storage is not StorageChoice.COPY
        if may_be_shared and await shared.is_shared(context, self.source, destination, path):
            return True
        uris = (context.request.source_uri, context.request.destination_uri)
        try:
            await compare_digests(
                context.hosts.connector,
                *uris,
                path,
                ours.size_bytes,
                connections=context.request.connections,
                throttle=limit(context.request),
                progress=partial(self._tell, 2 * ours.size_bytes),
            )
        except VerificationFailed as error:
            self._differs(destination, path, str(error))
            return False
        except HostError as error:
            self._against(f"{path} can't be compared on both hosts: {error}")
            return False
        return True

    def _tell(self, total_bytes: int, data_bytes: int, hole_bytes: int) -> None:
        self.context.progress("verify", data_bytes + hole_bytes, total_bytes)

    def _against(self, message: str, remedy: str = "see: qemu-img info --backing-chain -U") -> None:
        self.findings.append(Finding("backing-file", self.source.uri, message, remedy))

    def _missing(self, destination: Host, path: str, why: str) -> None:
        message = f"{self._above[path]} has the backing file {path}: {why}"
        remedy = f"on that host: mkdir -p {shlex.quote(str(PurePosixPath(path).parent))}, or mount it there"
        self.findings.append(Finding("backing-file", destination.uri, message, remedy))

    def _differs(self, destination: Host, path: str, how: str) -> None:
        message = f"{path}, the backing file of {self._above[path]}, is another one there: {how}"
        remedy = "it is left alone; put the source's file there if nobody needs this one"
        self.findings.append(Finding("backing-file", destination.uri, message, remedy))


def _shown(chain: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{path} ({image_format})" for path, image_format in chain)


async def expect_unchanged(context: Context, activity: str) -> None:
    """What is below the bases is on both hosts as it was when it was compared."""
    for backing in context.planned.backing:
        for side in Side if backing.arrived is not None else ():
            host = await context.host(side)
            found = await host.storage.stat(backing.path)
            if found is None or (found.size_bytes, found.modified) != backing.at(side):
                raise ActionFailed(
                    activity,
                    f"{host.uri}: {backing.path}, on which a base stands, has changed since it was compared",
                    retryable=False,
                    remedy="find out who writes to it; then migrate again",
                )
