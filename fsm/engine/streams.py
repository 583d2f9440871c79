"""The base copy through libvirt's storage streams, which goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Sequence

from fsm.engine.context import Context
from fsm.engine.copied import CopyRecorder
from fsm.engine.plan import Request, Side
from fsm.errors import ActionFailed
from fsm.hypervisor.values import Base
from fsm.images.base_copy import CopyResult, copy_file
from fsm.images.resumption import Copied, go_on
from fsm.images.transfer import Progress, Range, Throttle, whole_file


def limit(request: Request) -> Throttle | None:
    """What keeps to the user's bandwidth; it holds for everything that shares it."""
    return Throttle(request.bandwidth_mib_per_s) if request.bandwidth_mib_per_s else None


async def copy_by_streams(context: Context, base: Base, throttle: Throttle | None, progress: Progress) -> int:
    """Copy a base that stands still, or what is missing of its copy; how many bytes of data it has."""
    connector, request = context.hosts.connector, context.request
    there = context.planned.copy_of(base).path
    recorder = CopyRecorder(context, base.path, base.size_bytes)

    async def copy(ranges: Sequence[Range], progress: Progress) -> CopyResult:
        return await copy_file(
            connector,
            request.source_uri,
            request.destination_uri,
            base.path,
            ranges,
            destination_path=there,
            connections=request.connections,
            throttle=throttle,
            progress=progress,
            on_blocks=recorder.add,
        )

    begun = await _is_begun(context, context.planned.copy_of(base))
    try:
        if not begun:
            return (await copy(whole_file(base.size_bytes), progress)).data_bytes
        known = context.history.copied.get(base.path, ()) if base.modified else ()
        copied = Copied(
            connector,
            request.destination_uri,
            there,
            base.size_bytes,
            request.connections,
            limit(request),  # of its own: the link carries both directions
        )
        continued = await go_on(copied, known, copy, progress)
    finally:
        await recorder.end()
    if continued.kept_bytes:
        context.outcome["kept_bytes"] = context.outcome.get("kept_bytes", 0) + continued.kept_bytes
    return continued.data_bytes + continued.kept_bytes


async def _is_begun(context: Context, copy: Base) -> bool:
    """Whether the copy's file holds anything yet. One that somebody has removed is made anew."""
    storage = (await context.host(Side.DESTINATION)).storage
    found = await storage.stat(copy.path)
    if found is None:
        await storage.create_sparse(copy.path, copy.size_bytes)
        return False
    if found.size_bytes != copy.size_bytes:
        raise ActionFailed(
            "copy-bases",
            f"{context.request.shown_uri(Side.DESTINATION)}: {copy.path} is {found.size_bytes} bytes long, "
            f"and was made with {copy.size_bytes}",
            retryable=False,
            remedy="find out who wrote to it; then migrate again",
        )
    return found.allocated_bytes > 0
