"""One limit for all streams of a migration: memory, and the mirror of each disk.

libvirt applies its limit to each of them for itself (measured on 9.0: two disks limited to 4 MiB/s send 8),
and lets nobody change a mirror's while it migrates. So each gets an equal share. Memory moves once the
mirrors have caught up: it may then take what they, which only follow the guest's writes, leave over.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from attrs import define, field

from fsm.engine.context import Context
from fsm.engine.plan import Side
from fsm.errors import HostError
from fsm.hypervisor.values import JobProgress
from fsm.machine.observation import BlockJob

MIB = 1 << 20
WINDOW_S = 1.0
# Memory's limit changes in steps of this part of the whole, and not with every small change of the mirrors.
STEPS = 16
# QEMU's mirror sends so much at once and then rests until it is within its limit (seen on 7.2).
MIRROR_BURST_BYTES = 16 * MIB
REST_MARGIN_S = 2.0


def share_mib_per_s(total_mib_per_s: int, disks: int) -> int:
    """What each stream gets of the whole; libvirt counts in MiB/s, so no less than one. 0 means unlimited."""
    return max(1, total_mib_per_s // max(1, disks)) if total_mib_per_s else 0


def longest_rest_s(total_mib_per_s: int, disks: int) -> float:
    """How long a healthy mirror may show no progress for the sake of its limit."""
    share = share_mib_per_s(total_mib_per_s, disks)
    return MIRROR_BURST_BYTES / (share * MIB) + REST_MARGIN_S if share else 0.0


@define
class SharedBandwidth:
    """Gives memory, while it moves, what the mirrors leave of the limit."""

    context: Context
    taken_over: bool = False
    """Another engine began the migration: it may have set another limit than the one to begin with."""
    _since_s: float = field(init=False)
    _disk_bytes: int | None = None
    _set_mib_per_s: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._since_s = self.context.clock.monotonic_s()
        share = share_mib_per_s(self._total, len(self.context.planned.targets))
        self._set_mib_per_s = 0 if self.taken_over else share

    @property
    def _total(self) -> int:
        return self.context.request.bandwidth_mib_per_s

    async def adjust(self, progress: JobProgress, mirrors: Mapping[str, BlockJob]) -> None:
        """Look at what the mirrors have sent, and set memory's limit.

        libvirt's own sum for the disks stands still while memory moves (seen on 9.0).
        """
        if not self._total or not progress.memory_moves or not mirrors:
            return
        now_s = self.context.clock.monotonic_s()
        sent_bytes = sum(job.current_bytes for job in mirrors.values())
        if self._disk_bytes is None:
            self._since_s, self._disk_bytes = now_s, sent_bytes
            await self._set(0.0)
        elif now_s - self._since_s >= WINDOW_S:
            mirrored = max(0, sent_bytes - self._disk_bytes) / MIB / (now_s - self._since_s)
            self._since_s, self._disk_bytes = now_s, sent_bytes
            await self._set(mirrored)

    async def _set(self, mirrored_mib_per_s: float) -> None:
        taken_steps = min(STEPS, -(-mirrored_mib_per_s * STEPS // self._total))
        wanted = max(1, int(self._total * (STEPS - taken_steps) / STEPS))
        if wanted == self._set_mib_per_s:
            return
        source, was = await self.context.host(Side.SOURCE), self._set_mib_per_s
        # The job may just have ended, or the source be out of reach: the next look tells.
        with suppress(HostError):
            await source.limit_memory(self.context.planned.domain_uuid, wanted, was)
            self._set_mib_per_s = wanted
