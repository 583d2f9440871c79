"""Copying a base byte for byte from one host to another, so that its internal snapshots come along."""

from __future__ import annotations

from attrs import frozen

from fsm.hypervisor.port import Connector, DataChannel
from fsm.hypervisor.uris import safe_uri
from fsm.images.transfer import CHUNK_BYTES, Chunks, Progress, Reading, Tally, Throttle
from fsm.images.workers import Worker, run_workers

__all__ = ["CopyResult", "Throttle", "copy_file"]

CONNECTIONS = 4
"""One libvirt stream is bound by its round trips; on two cores four of them moved twice as much as one."""

LARGEST_CHUNK_BYTES = 8 * CHUNK_BYTES
"""Long runs make few extents and few round trips, above all in a huge file that is mostly hole."""


@frozen
class CopyResult:
    """What was copied. ``data_bytes`` went over the wire, ``hole_bytes`` did not."""

    data_bytes: int
    hole_bytes: int
    connections: int


async def copy_file(
    connector: Connector,
    source_uri: str,
    destination_uri: str,
    path: str,
    size_bytes: int,
    *,
    connections: int = CONNECTIONS,
    throttle: Throttle | None = None,
    progress: Progress | None = None,
) -> CopyResult:
    """Copy the ``size_bytes`` bytes of ``path`` at the source into the file of that path at the destination.

    The destination file exists, as long as the original and all hole (``Storage.create_sparse``): holes are
    neither read nor sent nor written. Starting once more after a failure is fine as long as the original did
    not change. Nothing is synced here; see ``Storage.make_durable``.

    ``connections`` workers, fewer for a small file, each with its own thread and pair of channels, share the
    file's ranges. Several files are copied one after another, by a call for each: every file has all workers
    for itself, so that no host serves more than ``connections`` streams of a migration at once and storage
    sees few places at once, while the sum takes no longer. Give all calls of one migration the same
    ``throttle``.

    ``progress`` is called on the event loop with the bytes of data and of holes done so far in this file.

    Raises the first ``HostError`` (or ``BadInput`` of a malformed URI) of any worker. When the awaiting task
    is cancelled the workers stop at their next packet. Either way no thread and no channel is left, and the
    destination file stays, partly written.
    """
    count = max(1, min(connections, -(-size_bytes // CHUNK_BYTES))) if size_bytes else 0
    chunks = Chunks(size_bytes, sharers=count, largest_bytes=LARGEST_CHUNK_BYTES)
    tally = Tally(progress)

    def work(worker: Worker) -> None:
        reading = Reading(worker, worker.open(connector, source_uri), source_uri, path, tally, throttle)
        destination = worker.open(connector, destination_uri)
        while (chunk := chunks.take()) is not None:  # bounded by the file's size
            worker.check()
            _copy_range(reading, destination, *chunk)

    if count:
        name = f"copy {path.rpartition('/')[2]} to {safe_uri(destination_uri)}"
        await run_workers(count, work, name=name, tick=tally.tell)
    return CopyResult(tally.data_bytes, tally.hole_bytes, count)


def _copy_range(reading: Reading, destination: DataChannel, offset: int, length: int) -> None:
    # A writer per range: its close is where the host confirms what it was sent.
    writer = destination.writer(reading.path)
    try:
        reading.into(writer, offset, length)
        writer.close()
    except BaseException:
        writer.abandon()
        raise
