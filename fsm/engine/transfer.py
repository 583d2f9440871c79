"""The activity of ``transferring``: libvirt migrates the memory and the overlays, and is watched."""

from __future__ import annotations

import asyncio

from fsm.engine.backing import expect_unchanged
from fsm.engine.bandwidth import longest_rest_s, share_mib_per_s
from fsm.engine.context import Context
from fsm.engine.convergence import Convergence
from fsm.engine.copying import expect_unwritten
from fsm.engine.observe import in_machine_terms
from fsm.engine.plan import Side
from fsm.errors import ActionFailed, HostError, HostUnreachable, NotFound, OutcomeUnknown
from fsm.hypervisor.domain_xml import with_disk_sources, with_name
from fsm.hypervisor.firmware_xml import with_variables_named
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import JobProgress, MigrationRequest
from fsm.machine.observation import DomainState, Job, Layer, Merge

# The net below libvirt's events: how long a lost event can go unnoticed.
POLL_S = 1.0
# A link that lost packets for 5 s moves again after 6.2 s: TCP waits 0.2 s, then twice as long each time.
# With tcp_retries2 = 5 it gives a connection up after 12.6 s; then QEMU may begin to wait for the other host
# in its main loop, and the guest with it, until TCP learns that the other end is gone: for ever.
SILENCE_S = 9.0
# An abort leads QEMU to the same place at once.
SILENCE_BEFORE_ABORT_S = 2.5
# When QEMU has ended while memory moved, libvirt 9.0's call may never return. One that has yet to tell a
# destination out of reach does after 30 s, libvirt's keep-alive.
RETURN_S = 35.0


async def migrate(context: Context) -> None:
    """Ask libvirt to migrate and watch; or, where a migration runs already, watch that one.

    Of a domain that is shut off, only the definition moves.
    """
    if context.planned.merge is Merge.NONE:
        await _move_definition(context)
        return
    source = await context.host(Side.SOURCE)
    uuid = context.planned.domain_uuid
    facts = await source.domain(uuid)
    if facts is not None and facts.job is Job.MIGRATION_OUT:
        await _watch_job(context, source, None)
        return
    await expect_unchanged(context, "migrate")
    request = await _migration_request(context, source)
    # The last look before the call: libvirt copies the top layer alone, so one that came on top of our
    # overlay since the state was entered would take the overlay's place, and its content would be lost.
    await _expect_overlays(context, source)
    call = asyncio.ensure_future(source.migrate(uuid, request))
    try:
        await _watch_job(context, source, call)
    finally:
        # Let go from outside or given up on: libvirt's migration goes on by itself.
        call.cancel()


async def _move_definition(context: Context) -> None:
    """Define the domain at the destination; its definition at the source goes when all is done.

    Between the two both hosts have it, shut off and alike. libvirt's own offline migration would do both at
    once, but behind the engine's back: of a shut-off domain no job shows whether it is still under way.
    """
    source, destination = await context.host(Side.SOURCE), await context.host(Side.DESTINATION)
    uuid = context.planned.domain_uuid
    for base in context.history.bases.bases:
        await expect_unwritten(context, base, "migrate")
    await expect_unchanged(context, "migrate")
    xml, moved_to = await source.persistent_xml(uuid), context.planned.moved.values()
    facts = await source.domain(uuid)
    if facts is None or facts.state is not DomainState.SHUT_OFF:
        raise ActionFailed("migrate", f"{source.uri}: the domain is not shut off any more", retryable=False)
    moved = {target: image for target, image in context.planned.arrivals.items() if image[0] in moved_to}
    xml = with_disk_sources(xml, moved, context.planned.devices_at(Side.DESTINATION))
    xml = with_variables_named(xml)
    name = context.planned.destination_name
    await destination.define(with_name(xml, name) if name else xml)


async def _expect_overlays(context: Context, source: Host) -> None:
    facts = await source.domain(context.planned.domain_uuid)
    disks = in_machine_terms(facts, Side.SOURCE, context.history).disks if facts is not None else ()
    if wrong := [disk.target for disk in disks if disk.layer is not Layer.OVERLAY]:
        raise ActionFailed(
            "migrate",
            f"{source.uri}: disks {', '.join(wrong)} are not on the overlays of this migration",
            retryable=False,
        )


async def _migration_request(context: Context, source: Host) -> MigrationRequest:
    uuid, request = context.planned.domain_uuid, context.request
    images, devices = context.planned.arrivals, context.planned.devices_at(Side.DESTINATION)
    persistent = await source.persistent_xml(uuid)
    if context.planned.destination_name:  # by that name its next start would look for another file
        persistent = with_variables_named(persistent)
    return MigrationRequest(
        destination_uri=request.peer_uri or request.destination_uri,
        migrate_uri=request.migrate_uri,
        destination_name=context.planned.destination_name,
        destination_xml=with_disk_sources(await source.domain_xml(uuid), images, devices),
        persistent_xml=with_disk_sources(persistent, images, devices),
        disks=context.planned.targets,
        bandwidth_mib_per_s=share_mib_per_s(request.bandwidth_mib_per_s, len(context.planned.targets)),
        unsafe="unsafe" in request.accept,
        tuning=request.tuning,
        wiring=request.wiring,
    )


async def _watch_job(context: Context, source: Host, call: asyncio.Future[None] | None) -> None:
    """Until the job ends: tell its progress, cut a silent link, end it when it is called off or can't end.

    ``call`` is our own call of the migration, None for one that another engine began.
    """
    last: JobProgress | None = None
    convergence = Convergence(context, taken_over=call is None)
    hopeless: ActionFailed | None = None
    broken: ActionFailed | None = None
    rest_s = longest_rest_s(context.request.bandwidth_mib_per_s, len(context.planned.targets))
    gave_up_at_s = cut_at_s = ended_at_s = 0.0
    while call is None or not call.done():  # bounded: a stalled job is aborted, then given up
        await _next_event(context, call)
        progress = await _progress(context, source, last)
        if progress is None and call is None:
            if hopeless is not None:
                raise hopeless
            return
        if progress is not None and progress != last:
            last = progress
            context.progress("memory", progress.memory_done_bytes, progress.memory_total_bytes)
            context.progress("overlay", progress.disk_done_bytes, progress.disk_total_bytes)
            hopeless = hopeless or await convergence.look(progress)
        now_s = context.clock.monotonic_s()
        if progress is None and await _guest_ended(context, source):
            ended_at_s = ended_at_s or now_s
            _expect_return(source, now_s - ended_at_s)
            continue
        patience_s = SILENCE_BEFORE_ABORT_S if context.called_off else max(SILENCE_S, rest_s)
        if now_s - max(cut_at_s, context.progress_at_s) > patience_s:
            cut_at_s = now_s
            broken = await _cut(context, source, patience_s)
        if not context.called_off and not context.stalled() and hopeless is None:
            continue
        gave_up_at_s = gave_up_at_s or now_s
        if now_s - gave_up_at_s > context.step_timeout_s:
            raise OutcomeUnknown(
                "the migration job did not end when aborted", host=source.uri, call="migrate"
            )
        await _abort_job(context, source)
    if call is not None:
        _conclude(call, hopeless or broken)


def _conclude(call: asyncio.Future[None], why: ActionFailed | None) -> None:
    try:
        call.result()
    except HostError as error:
        if why is None:
            raise
        raise why from error


async def _guest_ended(context: Context, source: Host) -> bool:
    """Whether the domain is shut off at the source, and not because it went to the destination."""
    try:
        facts = await source.domain(context.planned.domain_uuid)
    except HostUnreachable:
        return False
    return facts is not None and facts.state is DomainState.SHUT_OFF and facts.reason != "migrated"


def _expect_return(source: Host, waited_s: float) -> None:
    if waited_s > RETURN_S:
        raise OutcomeUnknown(
            "the guest's process ended while it was migrated, and libvirt's call does not return",
            host=source.uri,
            call="migrate",
        )


async def _next_event(context: Context, call: asyncio.Future[None] | None) -> None:
    """Until the call returns, libvirt tells of a change, space gets short, or the poll is due."""
    waits = [asyncio.ensure_future(context.wait_change(Side.SOURCE, POLL_S))]
    if not context.short.is_set():
        waits.append(asyncio.ensure_future(_short(context)))
    try:
        await asyncio.wait({*waits, *([call] if call else [])}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _short(context: Context) -> None:
    await context.short.wait()


async def _progress(context: Context, source: Host, last: JobProgress | None) -> JobProgress | None:
    """The job's progress, None without a job. A source that does not answer may be busy in QEMU."""
    try:
        return await source.migration_progress(context.planned.domain_uuid)
    except HostUnreachable:
        return last or JobProgress()
    except NotFound:
        # Handed over and undefined; the call itself returns a moment later.
        return None


async def _cut(context: Context, source: Host, silence_s: float) -> ActionFailed | None:
    """Break the migration's connections; why it fails by that, None where it is called off anyway."""
    what = f"nothing of the migration moved for {silence_s:g} s"
    warning = f"{source.uri}: {what}; its connections are cut, before QEMU waits for the other host"
    await context.note("cut-migration", {"warning": warning})
    try:
        await source.cut_migration(context.planned.domain_uuid)
    except HostError as error:
        # A hypervisor that has no way to do it, or waits for the other host already.
        context.outcome["cut"] = str(error)
    if context.called_off:
        return None
    return ActionFailed(
        "migrate",
        f"{what}, so its connections were cut: the link was silent, or the destination's storage stood still",
        retryable=False,
        remedy="look at the link between the hosts and at the destination's storage, then migrate again",
    )


async def _abort_job(context: Context, source: Host) -> None:
    try:
        await source.abort_job(context.planned.domain_uuid)
    except HostError as error:
        # Too late to abort, or not reachable: how the job ends is seen all the same.
        context.outcome["abort"] = str(error)
