"""A guest that writes faster than its migration copies, and how it comes to an end all the same.

To its disks: the writes of the disk that gets ahead are throttled, harder with every step, to a part of what
the copy has been seen to carry; so the copy catches up. To its memory: QEMU slows the CPUs down where that
was asked for (``--auto-converge``), then the guest may stand still for as long as its user allows
(``--max-pause``). What does not end even so fails while it can still be given up; a commit keeps its
throttle.

A throttle is set in QEMU alone. libvirt's description keeps what the user has set, so it is what a throttle
is lifted to, and what counts where the domain arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from attrs import define, field, frozen

from fsm.engine.bandwidth import MIB, SharedBandwidth, longest_rest_s, share_mib_per_s
from fsm.engine.context import Context
from fsm.engine.plan import Side
from fsm.errors import ActionFailed, HostError
from fsm.hypervisor.values import LONGEST_DOWNTIME_MS, JobProgress
from fsm.machine.observation import BlockJob

LOOK_S = 1.0
PATIENCE_S = 10.0
# A copy converges as long as what is left gets less by this part of what is copied.
PART = 16
# What the guest may write of what the copy carries, step by step.
DIVISORS = (2, 4, 16)
# A mirror and a commit copy clusters of this size, however little of one was written.
CLUSTER_BYTES = 64 << 10
# A mirror that follows the guest, while memory moves, has no more than this left, nor uses its limit up.
FOLLOWS_BYTES = MIB
FOLLOWS_SHARE = 0.75
# Memory is sent again and again: of as many passes one must leave less than those before it, by this part.
PASSES, LESS = 3, 0.9


@frozen
class Window:
    """A copy at a moment, to be compared with itself some time later."""

    began_s: float
    copied_bytes: int
    left_bytes: int

    def carried(self, now: Window) -> float:
        """Bytes a second."""
        return (now.copied_bytes - self.copied_bytes) / max(now.began_s - self.began_s, 0.001)

    def converges(self, now: Window) -> bool:
        """Whether so much less is left that there will be an end."""
        copied = now.copied_bytes - self.copied_bytes
        return self.left_bytes - now.left_bytes >= copied / PART


@define
class WriteThrottle:
    """Slows the guest's writes to a disk down as long as the copy of that disk does not catch up."""

    context: Context
    side: Side
    _windows: dict[str, Window] = field(factory=dict)
    _steps: dict[str, int] = field(factory=dict)
    exhausted: bool = False
    """A disk does not catch up although no step is left."""

    async def look(self, jobs: Mapping[str, BlockJob], *, follows: bool = False) -> None:
        """Look at the copies under way; with ``follows`` at those that have caught up once.

        What is left is no more than a hint: QEMU does not count anew while a job rests for its limit (seen on
        7.2). A copy that has not caught up yet is told by that.
        """
        now_s = self.context.clock.monotonic_s()
        request, disks = self.context.request, len(self.context.planned.targets)
        patience_s = max(PATIENCE_S, longest_rest_s(request.bandwidth_mib_per_s, disks))
        share = share_mib_per_s(request.bandwidth_mib_per_s, disks) * MIB
        self._windows = {target: window for target, window in self._windows.items() if target in jobs}
        for target, job in jobs.items():
            now = Window(now_s, job.current_bytes, job.end_bytes - job.current_bytes)
            before = self._windows.setdefault(target, now)
            if now_s - before.began_s < patience_s:
                continue
            self._windows[target] = now
            carried = before.carried(now)
            near = follows and now.left_bytes <= FOLLOWS_BYTES and not 0 < share * FOLLOWS_SHARE <= carried
            # One that carries nothing at all is not held up by the guest.
            if carried > 0 and not near and not before.converges(now):
                await self._slow_down(target, carried)

    async def _slow_down(self, target: str, carried_bytes_per_s: float) -> None:
        step = self._steps.get(target, 0)
        if step == len(DIVISORS):
            self.exhausted = True
            return
        self._steps[target] = step + 1
        limit = max(CLUSTER_BYTES, int(carried_bytes_per_s / DIVISORS[step]))
        # Small writes cost a whole cluster each; bytes alone may be enough at first.
        per_s = max(1, limit // CLUSTER_BYTES) if step else 0
        host = await self.context.host(self.side)
        what = f"{host.uri}: the guest writes to {target} faster than it is copied "
        what += (
            f"({carried_bytes_per_s / MIB:.1f} MiB/s); its writes are throttled to {limit / MIB:.2f} MiB/s"
        )
        throttled = sorted({*self.context.history.throttled, target})
        await self.context.note("throttle-writes", {"throttled": throttled, "warning": what})
        try:
            await host.throttle_writes(self.context.planned.domain_uuid, target, limit, per_s)
        except HostError as error:
            # The next step tries again; what can't be slowed down ends as one that can't catch up.
            self.context.outcome["throttle"] = str(error)


@define
class MemoryPasses:
    """Whether what a pass over the memory leaves to the next one gets less."""

    _iteration: int = 0
    _least: JobProgress | None = None
    _least_at_s: float = 0.0

    def stand_still(self, progress: JobProgress, now_s: float) -> bool:
        """Whether the last passes brought nothing. More throttled CPUs count as progress."""
        if progress.memory_iteration == self._iteration:
            return False  # what is left gets less within every pass
        self._iteration = progress.memory_iteration
        least = self._least
        if (
            least is None
            or progress.memory_left_bytes < least.memory_left_bytes * LESS
            or progress.cpu_throttle_percent > least.cpu_throttle_percent
        ):
            self._least, self._least_at_s = progress, now_s
            return False
        passes = progress.memory_iteration - least.memory_iteration
        return passes >= PASSES and now_s - self._least_at_s >= PATIENCE_S

    def begin_again(self, progress: JobProgress, now_s: float) -> None:
        """Something was done about it: count from here on."""
        self._least, self._least_at_s = progress, now_s


@define
class Convergence:
    """Watches a migration's job, and does what brings it to its end, within its bandwidth.

    ``taken_over``: another engine has begun it.
    """

    context: Context
    taken_over: bool = False
    _bandwidth: SharedBandwidth = field(init=False)
    _writes: WriteThrottle = field(init=False)
    _memory: MemoryPasses = field(factory=MemoryPasses)
    _looked_at_s: float = field(init=False)
    _pause_allowed: bool = False
    _began_s: float = field(init=False)
    _timed_out: bool = False

    def __attrs_post_init__(self) -> None:
        self._bandwidth = SharedBandwidth(self.context, taken_over=self.taken_over)
        self._writes = WriteThrottle(self.context, Side.SOURCE)
        self._looked_at_s = self._began_s = self.context.clock.monotonic_s()

    async def look(self, progress: JobProgress) -> ActionFailed | None:
        """Look at a job that moves; why it can't end and has to be aborted, None otherwise."""
        now_s = self.context.clock.monotonic_s()
        if now_s - self._looked_at_s >= LOOK_S:
            self._looked_at_s = now_s
            mirrors = await self._mirrors()
            await self._bandwidth.adjust(progress, mirrors)
            await self._writes.look(mirrors, follows=progress.memory_moves)
        if self._writes.exhausted:
            return ActionFailed(
                "migrate",
                "the guest writes to its disks faster than they are copied, although it is throttled",
                retryable=False,
                remedy="migrate when it writes less, or with more --bandwidth",
            )
        timeout_s = self.context.request.timeout_s
        if timeout_s and not self._timed_out and now_s - self._began_s >= timeout_s:
            await self._end_by_a_pause(progress)
        if self._memory.stand_still(progress, now_s):
            return await self._allow_pause(progress)
        return None

    async def _end_by_a_pause(self, progress: JobProgress) -> None:
        """What ``virsh migrate --timeout`` does by suspending the guest: QEMU stops it and sends the rest.

        A suspension would have to be undone at whichever host the guest is behind it.
        """
        self._timed_out = True
        self._memory.begin_again(progress, self.context.clock.monotonic_s())
        source, request = await self.context.host(Side.SOURCE), self.context.request
        what = f"{source.uri}: the migration is not over after {request.timeout_s} s"
        await self.context.note("time-out", {"warning": f"{what}; the guest may stand still until it is"})
        with suppress(HostError):  # the job's end tells
            await source.allow_downtime(self.context.planned.domain_uuid, LONGEST_DOWNTIME_MS)

    async def _mirrors(self) -> dict[str, BlockJob]:
        """The mirrors under way; none where the source does not tell, which may be busy in QEMU."""
        source, planned = await self.context.host(Side.SOURCE), self.context.planned
        try:
            facts = await source.domain(planned.domain_uuid)
        except HostError:
            return {}
        disks = facts.disks if facts is not None else ()
        return {disk.target: disk.block_job for disk in disks if disk.block_job is not None}

    async def _allow_pause(self, progress: JobProgress) -> ActionFailed | None:
        source, request = await self.context.host(Side.SOURCE), self.context.request
        left_mib = progress.memory_left_bytes / MIB
        what = f"{source.uri}: the guest writes to its memory faster than it is sent; each pass leaves about "
        what += f"{left_mib:.0f} MiB, for which it would have to stand still for {progress.downtime_ms} ms"
        budget_ms = request.max_pause_ms
        if self._pause_allowed or not budget_ms:
            return ActionFailed(
                "migrate",
                what,
                retryable=False,
                remedy="allow it a longer pause (--max-pause), slow its CPUs down (--auto-converge), or give "
                "it more --bandwidth",
            )
        self._pause_allowed = True
        self._memory.begin_again(progress, self.context.clock.monotonic_s())
        await self.context.note("allow-pause", {"warning": f"{what}; it may do so for {budget_ms} ms"})
        with suppress(HostError):  # the job's end tells
            await source.allow_downtime(self.context.planned.domain_uuid, budget_ms)
        return None
