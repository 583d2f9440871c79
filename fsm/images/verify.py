"""Comparing the copy of a base with its original byte by byte, through both hosts' data channels."""

from __future__ import annotations

import hashlib
import threading

from attrs import define, field, frozen

from fsm.errors import VerificationFailed
from fsm.hypervisor.port import Connector
from fsm.hypervisor.uris import safe_uri
from fsm.images.base_copy import CONNECTIONS
from fsm.images.digests import STRONG, Digester
from fsm.images.tables import first_difference
from fsm.images.transfer import CHUNK_BYTES, MIB, Chunks, Progress, Reading, Tally, Throttle, whole_file
from fsm.images.workers import Worker, run_workers


@frozen
class FileDigest:
    """The digest of a whole file, equal on both hosts.

    ``sha256`` is the SHA-256 over the binary SHA-256 digests of the file's chunks of ``chunk_bytes`` each, in
    order: one plain digest of the whole could use one processor and one stream only.
    """

    sha256: str
    chunk_bytes: int
    size_bytes: int


@frozen
class _Pair:
    """The two files to compare, each on its host."""

    connector: Connector
    source_uri: str
    destination_uri: str
    path: str
    destination_path: str

    @property
    def uris(self) -> tuple[str, str]:
        return (self.source_uri, self.destination_uri)

    @property
    def paths(self) -> tuple[str, str]:
        return (self.path, self.destination_path or self.path)

    @property
    def file_name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def hosts(self) -> str:
        return " or ".join(map(safe_uri, self.uris))

    def differ(self, message: str, offset: int | None = None) -> VerificationFailed:
        source, destination = map(safe_uri, self.uris)
        return VerificationFailed(
            message, path=self.path, source=source, destination=destination, offset=offset
        )


def _reading(worker: Worker, pair: _Pair, side: int, tally: Tally) -> Reading:
    uri = pair.uris[side]
    return Reading(worker, worker.open(pair.connector, uri), uri, pair.paths[side], tally)


async def compare_digests(
    connector: Connector,
    source_uri: str,
    destination_uri: str,
    path: str,
    size_bytes: int,
    *,
    destination_path: str = "",
    connections: int = CONNECTIONS,
    throttle: Throttle | None = None,
    progress: Progress | None = None,
) -> FileDigest:
    """Read all ``size_bytes`` bytes on both hosts, ``connections`` channels to each, and compare digests.

    ``destination_path`` is the copy's where it is not the original's. Holes are not read; they count as the
    zeros they stand for. ``progress`` and ``throttle`` count the bytes of both sides together, so the end is
    at twice the file.

    Raises ``VerificationFailed`` with the first byte that differs, and the hosts' errors. Cancelling works as
    with ``copy_file``.
    """
    pair = _Pair(connector, source_uri, destination_uri, path, destination_path)
    job = _DigestJob(size_bytes)
    tally = Tally(pair.hosts, progress)

    def work(worker: Worker) -> None:
        side = worker.index % 2
        uri = pair.uris[side]
        reading = Reading(worker, worker.open(connector, uri), uri, pair.paths[side], tally, throttle)
        while (chunk := job.chunks[side].take()) is not None:  # bounded by the file's size
            worker.check()
            hasher = Digester(STRONG)
            reading.into(hasher, chunk.offset, chunk.length)
            job.put(side, chunk.offset, hasher.digest())

    count = 2 * max(1, min(connections, -(-size_bytes // CHUNK_BYTES))) if size_bytes else 0
    if count:
        await run_workers(count, work, name=f"digest of {pair.file_name}", tick=tally.tell)
    if job.first_bad is not None:
        raise await _difference(pair, job.first_bad, min(CHUNK_BYTES, size_bytes - job.first_bad))
    return FileDigest(job.digest(), CHUNK_BYTES, size_bytes)


@define
class _DigestJob:
    """The digests of both sides' chunks. A chunk that differs ends the handing out of those behind it."""

    size_bytes: int
    first_bad: int | None = None
    chunks: tuple[Chunks, Chunks] = field(init=False)
    _digests: tuple[dict[int, bytes], dict[int, bytes]] = field(factory=lambda: ({}, {}))
    _lock: threading.Lock = field(factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        whole = whole_file(self.size_bytes)
        self.chunks = (Chunks(whole), Chunks(whole))

    def put(self, side: int, offset: int, digest: bytes) -> None:
        with self._lock:
            self._digests[side][offset] = digest
            other = self._digests[1 - side].get(offset, digest)
            if other == digest or (self.first_bad is not None and self.first_bad < offset):
                return
            self.first_bad = offset
        for chunks in self.chunks:
            chunks.cut(offset)

    def digest(self) -> str:
        """Over the chunks' digests in order."""
        source = self._digests[0]
        return hashlib.sha256(b"".join(source[offset] for offset in sorted(source))).hexdigest()


async def _difference(pair: _Pair, chunk_offset: int, length: int) -> VerificationFailed:
    """What to raise for a chunk whose digests differ: both sides are read once more to find the byte."""
    found: list[int] = []
    tally = Tally(pair.hosts)

    def work(worker: Worker) -> None:
        source, destination = (
            _Content(_reading(worker, pair, side, tally), chunk_offset + length) for side in (0, 1)
        )
        for offset in range(chunk_offset, chunk_offset + length, MIB):
            ours, theirs = source.read(offset, MIB), destination.read(offset, MIB)
            if ours != theirs:
                found.append(offset + first_difference(ours, theirs))
                return

    await run_workers(1, work, name=f"difference in {pair.file_name}", tick=tally.tell)
    where = f"the {length} bytes from {chunk_offset} on have different digests"
    if found:
        return pair.differ(f"{where}; the first byte that differs is {found[0]}", found[0])
    return pair.differ(f"{where}, yet a second reading of both agreed", chunk_offset)


@define
class _Content:
    """Small pieces of a file of ``size_bytes`` as bytes, fewer where the file ends."""

    reading: Reading
    size_bytes: int

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size_bytes - offset))
        collected = _Collector()
        if length:
            self.reading.into(collected, offset, length)
        return b"".join(collected.parts)


@define
class _Collector:
    """A sink that keeps what it is given; for pieces of a few MiB."""

    parts: list[bytes] = field(factory=list)

    def data(self, _offset: int, chunk: bytes) -> None:
        self.parts.append(chunk)

    def hole(self, _offset: int, length: int) -> None:
        self.parts.append(bytes(length))
