"""The active block commit of a domain's overlays, at whichever host the domain is.

It takes over what it finds: disks that are committed already, commits that run or are ready. A commit that
fails leaves the overlay as it was, so it can be tried again.
"""

from __future__ import annotations

from fsm.engine.commit_causes import FULL_BYTES, explained
from fsm.engine.commit_space import CommitSpace, demand_space
from fsm.engine.context import Context
from fsm.engine.convergence import WriteThrottle
from fsm.engine.marking import mark, taken_over
from fsm.engine.observe import in_machine_terms, look
from fsm.engine.plan import Side
from fsm.errors import ActionFailed, HostError, OutcomeUnknown
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import DomainFacts, Overlay
from fsm.machine.observation import Disk, Domain, DomainState, Layer
from fsm.machine.observation import Host as SeenHost
from fsm.machine.traits import is_altered

# The net below libvirt's block job events.
POLL_S = 1.0
PAUSED_BY_START = frozenset({"user", "starting-up", "unknown"})


async def commit_at_source(context: Context) -> None:
    """Commit at the source."""
    await _commit(context, Side.SOURCE, "commit-at-source")


async def commit_at_destination(context: Context) -> None:
    """Commit at the destination."""
    await _commit(context, Side.DESTINATION, "commit-at-destination")


async def _commit(context: Context, side: Side, activity: str) -> None:
    host = await context.host(side)
    facts = await _facts(context, host, activity)
    if facts.state is DomainState.SHUT_OFF:
        await _start_paused(context, host, side)
    elif facts.state is DomainState.RUNNING and context.history.started_paused:
        # Somebody lets it run: a pause that it comes to is his.
        await _note_start(context, ours=False)
    await _resume_if_cured(context, side, facts)
    try:
        await demand_space(context, side, await _disks(context, side, activity), activity)
        for overlay in context.planned.overlays_at(side):
            await _begin(context, side, overlay, activity)
        await _until_ready(context, host, side, activity)
        for overlay in context.planned.overlays_at(side):
            await _pivot(context, side, overlay, activity)
    except (ActionFailed, HostError) as error:
        failure = await explained(context, side, error, activity)
        await _stop_again(context, host)
        raise failure from error
    # An engine that is told to let go does nothing more here: the record tells the next one.
    await _stop_again(context, host)
    facts = await _facts(context, host, activity)
    if _hit_an_error(facts):
        await host.resume(facts.uuid)


async def _start_paused(context: Context, host: Host, side: Side) -> None:
    """libvirt commits running domains only. The record tells a later engine whose pause this is."""
    await _note_start(context, ours=True)
    await mark(context, side)
    try:
        await host.start_paused(context.planned.domain_uuid)
    except OutcomeUnknown:
        raise
    except HostError:
        # Whoever starts it from here on may suspend it, too: that looks like our own start.
        await _note_start(context, ours=False)
        raise


async def _note_start(context: Context, *, ours: bool) -> None:
    await context.note("start-paused", {"started_paused": ours})


def _hit_an_error(facts: DomainFacts) -> bool:
    """Whether a write that failed has paused the guest: resumed, it makes that write again."""
    return facts.state is DomainState.PAUSED and facts.reason == "io-error"


async def _resume_if_cured(context: Context, side: Side, facts: DomainFacts) -> None:
    """Let a guest go on that was paused for want of space, as soon as there is some."""
    if not _hit_an_error(facts):
        return
    host = await context.host(side)
    for directory in {one.path.rpartition("/")[0] or "/" for one in context.planned.overlays_at(side)}:
        if await host.storage.free_bytes(directory) < FULL_BYTES:
            return
    await host.resume(facts.uuid)


async def _facts(context: Context, host: Host, activity: str) -> DomainFacts:
    facts = await host.domain(context.planned.domain_uuid)
    if facts is None:
        raise ActionFailed(activity, f"{host.uri}: the domain is gone", retryable=False)
    return facts


async def _disks(context: Context, side: Side, activity: str) -> dict[str, Disk]:
    """The planned disks as they are now; nothing is done to a domain with a layer that isn't ours."""
    host = await context.host(side)
    facts = await _facts(context, host, activity)
    return _sound(in_machine_terms(facts, side, context.history), host, activity)


async def _unaltered(context: Context, side: Side, activity: str) -> dict[str, Disk]:
    """The same, and each overlay's own content has been looked at: nothing lies in it that a commit destroys.

    What it is, and what can be done, is told from the next observation, which shows it again.
    """
    host = await context.host(side)
    domain = await look(host, side, context.planned.domain_uuid, context.history)
    if domain is None:
        raise ActionFailed(activity, f"{host.uri}: the domain is gone", retryable=False)
    if is_altered(SeenHost(reachable=True, domain=domain)):
        raise ActionFailed(activity, f"{host.uri}: an overlay was altered meanwhile", retryable=False)
    return _sound(domain, host, activity)


def _sound(domain: Domain, host: Host, activity: str) -> dict[str, Disk]:
    if domain.marked_by_another:
        raise taken_over(activity, host, domain.marker)
    disks = domain.disks
    if foreign := [disk.target for disk in disks if disk.layer is Layer.FOREIGN]:
        raise ActionFailed(
            activity,
            f"{host.uri}: disks {', '.join(foreign)} are on layers that this migration did not make",
            retryable=False,
            remedy="find out who made them and commit them back into the overlay",
        )
    if domain.state is DomainState.SHUT_OFF:
        raise ActionFailed(activity, f"{host.uri}: the domain was shut off meanwhile")
    return {disk.target: disk for disk in disks}


async def _begin(context: Context, side: Side, overlay: Overlay, activity: str) -> None:
    disk = (await _unaltered(context, side, activity))[overlay.target]
    if disk.layer is Layer.OVERLAY and disk.block_job is None:
        # Without a limit: it has to be over before the guest's writes fill the file system, and QEMU 7.2 dies
        # when a limited one finds no space left.
        host = await context.host(side)
        await host.start_commit(context.planned.domain_uuid, overlay)
        # From here on libvirt lets nobody take a snapshot; one that came in before is found now.
        await _unaltered(context, side, activity)


async def _until_ready(context: Context, host: Host, side: Side, activity: str) -> None:
    """Wait until each disk is ready to pivot or has been pivoted."""
    space, writes = CommitSpace(context, side, host, activity), WriteThrottle(context, side)
    while True:  # ends with readiness, with a lost job, or with the stall check
        disks = list((await _disks(context, side, activity)).values())
        waiting = [disk for disk in disks if disk.block_job is not None and not disk.block_job.ready]
        if lost := [disk.target for disk in disks if disk.layer is Layer.OVERLAY and disk.block_job is None]:
            raise ActionFailed(activity, f"{host.uri}: the block commit of {', '.join(lost)} has failed")
        jobs = [disk.block_job for disk in disks if disk.block_job is not None]
        done = sum(job.current_bytes for job in jobs)
        total = sum(job.end_bytes for job in jobs)
        if done != context.outcome.get("committed_bytes"):
            context.outcome["committed_bytes"] = done
            # One that never catches up makes no progress, however much it copies.
            (context.show if writes.exhausted else context.progress)("commit", done, total)
        if not waiting:
            return
        await space.look(disks)
        await writes.look({disk.target: disk.block_job for disk in waiting if disk.block_job})
        if context.stalled():
            raise ActionFailed(activity, f"{host.uri}: {_standstill(writes)}")
        await context.wait_change(side, POLL_S)


def _standstill(writes: WriteThrottle) -> str:
    if writes.exhausted:
        return "the guest writes faster than its overlay is committed, although its writes are throttled"
    return "the block commit makes no progress"


async def _pivot(context: Context, side: Side, overlay: Overlay, activity: str) -> None:
    disk = (await _unaltered(context, side, activity))[overlay.target]
    if disk.block_job is not None:
        await (await context.host(side)).pivot(context.planned.domain_uuid, overlay.target)


async def _stop_again(context: Context, host: Host) -> None:
    """Shut a domain off again that was started, paused, for the commit alone.

    One that has run since is its user's, also when he has suspended it: libvirt has one word for both.
    """
    if not context.history.started_paused:
        return
    facts = await host.domain(context.planned.domain_uuid)
    untouched = facts and facts.state is DomainState.PAUSED and facts.reason in PAUSED_BY_START
    if facts and untouched and not await host.has_run(facts.uuid):
        await host.destroy(facts.uuid)
    await _note_start(context, ours=False)
