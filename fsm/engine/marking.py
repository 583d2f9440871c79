"""The marker in the domain's own metadata: what an engine needs that finds the domain and no journal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fsm.engine import signs
from fsm.engine.context import Context
from fsm.engine.plan import Side
from fsm.errors import ActionFailed
from fsm.hypervisor import markers
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import Marker, SnapshotMetadata


async def mark_source(context: Context) -> None:
    """Mark the domain at the source, and put up the signs of it: before there is anything to guard."""
    await signs.put_up(await context.host(Side.SOURCE), context.planned)
    await mark(context, Side.SOURCE)


async def complete_marker(context: Context) -> None:
    """Mark it again, with the bases, the copies and the snapshots, which are known by now."""
    await mark(context, Side.SOURCE)


async def mark_destination(context: Context) -> None:
    """Mark the domain at the destination."""
    await mark(context, Side.DESTINATION)


async def unmark_source(context: Context) -> None:
    """Remove the marker at the source."""
    await _unmark(context, Side.SOURCE)


async def unmark_destination(context: Context) -> None:
    """Remove the marker at the destination."""
    await _unmark(context, Side.DESTINATION)


async def mark(context: Context, side: Side) -> None:
    """Write all that the journal knows by now, unless the domain has become another's."""
    host = await context.host(side)
    facts = await host.domain(context.planned.domain_uuid)
    if facts is None:
        raise ActionFailed("mark", f"{host.uri}: the domain is gone")
    if facts.marker is not None and not context.planned.owns(facts.marker):
        raise taken_over("mark", host, facts.marker.migration)
    marker = _marker(context)
    if facts.marker != marker:
        await host.mark(facts.uuid, marker)


def taken_over(action: str, host: Host, migration: str | None) -> ActionFailed:
    """The error for a domain that has become another's: ``migration`` is what its marker names."""
    return ActionFailed(
        action,
        f"{host.uri}: the domain carries the marker of migration {migration}, which another engine has set",
        retryable=False,
        remedy=f"leave it to that engine; fsm doctor --host {host.uri} tells how it stands",
    )


def _marker(context: Context) -> Marker:
    plan, history, request = context.planned, context.history, context.request
    bases = history.bases.bases
    copied = bool(bases) and all(copy.on_device or copy.path in history.created for copy in context.copies)
    return Marker(
        migration=context.migration,
        owner=plan.owners[-1],
        source_uri=request.shown_uri(Side.SOURCE),
        destination_uri=request.shown_uri(Side.DESTINATION),
        source_host=plan.source_host,
        destination_host=plan.destination_host,
        journal=context.journal,
        merge=plan.merge,
        overlays=plan.overlays,
        bases=bases if copied else (),
        below=tuple((backing.path, backing.format) for backing in plan.copied_below),
        snapshots=history.bases.packed if copied else "",
        started_paused=history.started_paused,
        destination_name=plan.destination_name,
    )


async def packed_for_marker(host: Host, uuid: str, snapshots: Sequence[SnapshotMetadata]) -> str:
    """The domain's snapshots as the marker may carry them, which everybody reads who may read the host."""
    public = await host.public_snapshots(uuid)
    secret = {snapshot.name: snapshot.xml for snapshot in snapshots}
    withheld = [snapshot.name for snapshot in public if snapshot.xml != secret.get(snapshot.name)]
    packed = await asyncio.to_thread(markers.pack, public, withheld)
    if len(packed) > markers.MOST_PACKED_BYTES:
        raise ActionFailed(
            "save-bases",
            f"{host.uri}: the descriptions of {len(public)} snapshots do not fit into the domain's metadata",
            retryable=False,
            remedy="delete snapshots that nobody needs, then migrate again",
        )
    return packed


async def _unmark(context: Context, side: Side) -> None:
    if context.is_fenced(side):
        return  # that the domain itself stays there is told by whoever would have removed it
    host = await context.host(side)
    facts = await host.domain(context.planned.domain_uuid)
    if facts is None or (facts.marker is not None and not context.planned.owns(facts.marker)):
        return
    await host.unmark(facts.uuid)
