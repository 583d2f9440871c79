"""Saves one internal snapshot of an overlay, its saved memory included, as an image that needs no other file.

Everything goes through the host's data channels, to the same host. The guest may run on meanwhile: what a
snapshot refers to stands still, and so does the base as long as nothing is committed into it.
"""

from __future__ import annotations

from bisect import bisect_right

from attrs import define, field, frozen

from fsm.errors import ImageCorrupt
from fsm.hypervisor.port import Connector, DataChannel, RangeWriter
from fsm.hypervisor.uris import safe_uri
from fsm.hypervisor.values import Overlay
from fsm.images.backing import DEEPEST_CHAIN, read_backing
from fsm.images.clusters import Layer, Piece, joined, through
from fsm.images.qcow2 import Read, Snapshot, read_image
from fsm.images.standalone import CLUSTER, Layout, runs_of, split, vm_state_at
from fsm.images.transfer import Progress, Tally
from fsm.images.workers import Worker, run_workers


@frozen
class _Plan:
    layers: dict[str, Layer]
    pieces: tuple[Piece, ...]  # as they shall stand in the new image
    layout: Layout


async def save_snapshot(
    connector: Connector,
    uri: str,
    overlay: Overlay,
    name: str,
    path: str,
    *,
    progress: Progress | None = None,
) -> None:
    """Make the file ``path`` of the snapshot ``name`` in ``overlay``. It must not exist.

    Raises ``ImageCorrupt`` when an image can't be understood, and the host's errors; then no file is left.
    """
    # A connector whose images only look like qcow2 from outside brings a way of its own.
    own = getattr(connector, "save_snapshot", None)
    if own is not None:
        await own(uri, overlay, name, path)
        return
    plan = await _planned(connector, uri, overlay, name)
    host = await connector.connect(uri)
    try:
        await host.storage.create_sparse(path, plan.layout.size_bytes)
        try:
            await _write(connector, uri, path, plan, progress)
            await host.storage.make_durable(path)
        except BaseException:
            # Half an image is worse than none. Only this call has made it, as create_sparse refuses others.
            await host.storage.remove(path)
            raise
    finally:
        await host.close()


async def _planned(connector: Connector, uri: str, overlay: Overlay, name: str) -> _Plan:
    plans: list[_Plan] = []

    def work(worker: Worker) -> None:
        channel = worker.open(connector, uri)
        read = _reader(channel, overlay.path)
        image = read_image(read)
        snapshot = next((one for one in image.snapshots if one.name == name), None)
        if snapshot is None:
            raise ImageCorrupt(f"{overlay.path} holds no snapshot {name!r}")
        top = Layer.of(overlay.path, read, image.header, snapshot.l1_offset, snapshot.l1_entries)
        plans.append(_plan(snapshot, top, _below(channel, overlay)))

    await run_workers(1, work, name=f"tables of {overlay.path}")
    return plans[0]


def _below(channel: DataChannel, overlay: Overlay) -> tuple[Layer, ...]:
    """The base, and what its header and theirs name below it."""
    path, image_format = overlay.base, overlay.base_format
    layers: list[Layer] = []
    while image_format != "raw":
        if len(layers) > DEEPEST_CHAIN:
            raise ImageCorrupt(f"the chain below {overlay.path} does not end")
        header, backing = read_backing(read := _reader(channel, path))
        layers.append(Layer.of(path, read, header, header.l1_offset, header.l1_entries))
        if backing is None:
            return tuple(layers)
        below = backing.path(path)
        if below is None:
            raise ImageCorrupt(f"{path} has the backing file {backing.name!r}, which is no plain path")
        path, image_format = below, backing.format or "raw"
    raw = Layer(path, _reader(channel, path), 2**63 - 1)  # reading ends with the file
    return (*layers, raw)


def _plan(snapshot: Snapshot, top: Layer, below: tuple[Layer, ...]) -> _Plan:
    disk = tuple(joined(through((top, *below), 0, snapshot.disk_size_bytes)))
    memory: tuple[Piece, ...] = ()
    if snapshot.vm_state_bytes and top.header is not None:
        # Each image keeps it behind its own last table, so it moves.
        reach = top.header.cluster_bytes // 8 * top.header.cluster_bytes
        begin = vm_state_at(snapshot.disk_size_bytes, reach)
        by = vm_state_at(snapshot.disk_size_bytes) - begin
        found = joined(through((top,), begin, begin + snapshot.vm_state_bytes))
        memory = tuple(_moved(piece, by) for piece in found)
    runs = [runs_of((piece.at, piece.length) for piece in part) for part in (disk, memory)]
    layout = Layout(snapshot, (*runs[0], *runs[1]))
    return _Plan({layer.path: layer for layer in (top, *below)}, (*disk, *memory), layout)


def _moved(piece: Piece, by: int) -> Piece:
    return Piece(piece.at + by, piece.length, piece.path, piece.host_at, piece.compressed_bytes, piece.skip)


async def _write(connector: Connector, uri: str, path: str, plan: _Plan, progress: Progress | None) -> None:
    tally = Tally(safe_uri(uri), progress)

    def work(worker: Worker) -> None:
        source, target = worker.open(connector, uri), worker.open(connector, uri)
        writer = target.writer(path)
        try:
            for offset, content in plan.layout.metadata():
                worker.check()
                writer.data(offset, content)
            _write_content(worker, source, writer, plan, tally)
            writer.close()
        except BaseException:
            writer.abandon()
            raise

    await run_workers(1, work, name=f"rescue into {path}", tick=tally.tell)


def _write_content(
    worker: Worker, source: DataChannel, writer: RangeWriter, plan: _Plan, tally: Tally
) -> None:
    places = list(plan.layout.places())
    starts = [run[0] for run, _ in places]
    for piece in plan.pieces:
        begin = bisect_right(starts, piece.at // CLUSTER) - 1
        end = bisect_right(starts, (piece.at + piece.length - 1) // CLUSTER)
        for at, length, offset in split(piece.at, piece.length, places[begin:end]):
            worker.check()
            within = at - piece.at
            if piece.compressed_bytes:
                layer = plan.layers[piece.path]
                content = layer.inflated(piece, _reader(source, piece.path))
                writer.data(offset, content[within : within + length])
            else:
                there = piece.host_at + within
                source.read(piece.path, there, length, _Shifted(writer, offset - there, worker))
            tally.add(length, 0)


@frozen
class _Shifted:
    """Takes what is read at one place and writes it at another."""

    writer: RangeWriter
    by: int
    worker: Worker

    def data(self, offset: int, chunk: bytes) -> None:
        self.worker.check()
        self.writer.data(offset + self.by, chunk)

    def hole(self, offset: int, length: int) -> None:
        self.writer.hole(offset + self.by, length)


def _reader(channel: DataChannel, path: str) -> Read:
    def read(offset: int, length: int) -> bytes:
        collected = _Collected(offset)
        if length:
            channel.read(path, offset, length, collected)
        return bytes(collected.content)

    return read


@define
class _Collected:
    start: int
    content: bytearray = field(factory=bytearray)

    def data(self, offset: int, chunk: bytes) -> None:  # noqa: ARG002  # channels give them in order
        self.content += chunk

    def hole(self, offset: int, length: int) -> None:  # noqa: ARG002
        self.content += bytes(length)
