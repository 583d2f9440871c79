"""The activity of ``snapshotted``: the bases are copied to the destination, compared and made durable."""

from __future__ import annotations

from functools import partial

from fsm.engine.context import Context
from fsm.engine.direct import copy_directly
from fsm.engine.plan import Side, Verify
from fsm.engine.shared_devices import compare_shared_devices
from fsm.engine.streams import copy_by_streams, limit
from fsm.errors import ActionFailed
from fsm.hypervisor.values import Base
from fsm.images.tables import compare_tables
from fsm.images.verify import compare_digests


async def copy_bases(context: Context) -> None:
    """Copy every base, one after another, each over several connections; then compare."""
    await context.unless_called_off(_in_turn(context))
    context.outcome["copies_verified"] = True


async def _in_turn(context: Context) -> None:
    async with context.copying:
        await _copy_bases(context)


async def _copy_bases(context: Context) -> None:
    connector, request = context.hosts.connector, context.request
    uris = (request.source_uri, request.destination_uri)
    bases = context.copied_bases
    total_bytes = sum(base.allocated_bytes for base in bases)
    throttle = limit(request)
    before_bytes = 0
    not_durable: list[str] = []
    for base in bases:
        there = context.planned.copy_of(base).path

        def tell(data_bytes: int, _hole_bytes: int, before_bytes: int = before_bytes) -> None:
            # A host may give more than it has allocated, and what has to be copied again counts twice.
            context.progress("base copy", min(before_bytes + data_bytes, total_bytes), total_bytes)

        await expect_unwritten(context, base, "copy-bases")
        if request.direct is not None:
            await copy_directly(context, request.direct, base, context.progress)
        else:
            before_bytes += await copy_by_streams(context, base, throttle, tell)
        await expect_unwritten(context, base, "copy-bases")
        if not await _made_durable(context, base):
            not_durable.append(there)
        # Of variables there is no table, and little to read.
        if request.verify is Verify.FULL or base.path == context.history.bases.variables:
            await compare_digests(
                connector,
                *uris,
                base.path,
                base.size_bytes,
                destination_path=there,
                connections=request.connections,
                throttle=throttle,
                progress=partial(_tell_verified, context, 2 * base.size_bytes),
            )
    if request.verify is Verify.FULL:
        await compare_shared_devices(context)
    # Such a file reaches stable storage with the commit's own flush; the original stays until then.
    context.outcome["durable_with_commit"] = not_durable


async def expect_unwritten(context: Context, base: Base, activity: str) -> None:
    """The base stands still since it was recorded: nobody commits into it behind the engine's back."""
    source = await context.host(Side.SOURCE)
    found = await source.storage.stat(base.path)
    if found is None or (base.modified and found.modified != base.modified):
        raise ActionFailed(
            activity,
            f"{source.uri}: {base.path} was written to while it was copied",
            retryable=False,
            remedy="find out who started the domain, committed into it, or wrote it; then migrate again",
        )


def _tell_verified(context: Context, total_bytes: int, data_bytes: int, hole_bytes: int) -> None:
    context.progress("verify", data_bytes + hole_bytes, total_bytes)


async def _made_durable(context: Context, base: Base) -> bool:
    """Compare the copy's tables with the original's and make it durable; False where nothing can."""
    source, destination = await context.host(Side.SOURCE), await context.host(Side.DESTINATION)
    copy = context.planned.copy_of(base)
    there, on_device = copy.path, copy.on_device
    compare = partial(compare_tables, source, destination, base.path, base.format)
    image = await compare(destination_path=there, on_device=on_device)
    if on_device:
        # Never resized by us. What it has was written past all caches; see ``fsm.images.nbd_copy``.
        return True
    # A raw disk's content is the guest's: no tool may take it for an image. Autoclear features stand for what
    # qemu-img, which makes durable, would write anew in another place, such as bitmaps.
    if image is None or image.header.autoclear_features:
        return False
    if not await destination.storage.make_durable(there):
        return False
    # qemu-img has had it open.
    await compare(destination_path=there)
    return True
