"""Seconds, CPU seconds and bytes on the wire while something runs."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from fsm.lab import Lab, LabError, LabHost
from fsm.lab.process import all_pids, wait_until

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""The unit of /proc/PID/stat."""

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_PARENT_FIELD, _USED_FIELDS = 1, slice(11, 15)
ORPHANS_END_S = 30.0


@attrs.frozen
class _Counters:
    seconds: float
    command_cpu_s: float
    hosts_cpu_s: float
    sent_bytes: int


class Meter:
    """Counts from the ``with`` statement's beginning to its end.

    ``own_cpu`` counts this process's work as the command's; otherwise only that of the commands it runs.
    Those that a command leaves behind count as well, such as the server of ``qemu-nbd --fork``: meanwhile
    this process inherits them, and it waits for their end, which is not part of the seconds.
    """

    def __init__(self, lab: Lab, *, own_cpu: bool = False) -> None:
        self._lab = lab
        self._who = [resource.RUSAGE_CHILDREN, *([resource.RUSAGE_SELF] if own_cpu else [])]
        self.seconds = self.command_cpu_s = self.hosts_cpu_s = 0.0
        self.sent_bytes = 0

    def __enter__(self) -> Self:
        self._inherited_before = _inherit_orphans(inherit=True)
        self._children = _children()
        hosts, sent = self._of_hosts()
        self._before = _Counters(time.monotonic(), self._command_cpu_s(), hosts, sent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        before = self._before
        self.seconds = time.monotonic() - before.seconds
        _inherit_orphans(inherit=self._inherited_before)
        for orphan in _children() - self._children:
            _await_end(orphan)
        self.command_cpu_s = self._command_cpu_s() - before.command_cpu_s
        hosts, sent = self._of_hosts()
        self.hosts_cpu_s = hosts - before.hosts_cpu_s
        self.sent_bytes = sent - before.sent_bytes

    def _command_cpu_s(self) -> float:
        usages = [resource.getrusage(who) for who in self._who]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def _of_hosts(self) -> tuple[float, int]:
        return sum(map(_cpu_s, self._lab.hosts)), _sent_bytes(self._lab.hosts[0])


def _cpu_s(host: LabHost) -> float:
    """CPU seconds of all processes of a host, the ended ones included: their parents have inherited them."""
    return sum(cpu_ticks(_stat(pid)) for pid in host.pids()) / _TICKS_PER_S


def _stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_ticks(stat: str) -> int:
    """Ticks of a process and its ended children, from /proc/PID/stat; 0 for one that is gone."""
    return sum(map(int, _fields(stat)[_USED_FIELDS]))


def _fields(stat: str) -> list[str]:
    # The command name stands in parentheses and may itself contain some, so count from the last one.
    return stat.rpartition(")")[2].split()


def _inherit_orphans(*, inherit: bool) -> bool:
    """Whether this process inherits what its descendants leave behind from now on; what it did before."""
    libc, before = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    if (
        libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0) != 0
        or libc.prctl(_PR_SET_CHILD_SUBREAPER, int(inherit), 0, 0, 0) != 0
    ):
        raise LabError(f"prctl: {os.strerror(ctypes.get_errno())}")
    return bool(before.value)


def _children() -> set[int]:
    parents = ((pid, _fields(_stat(pid))) for pid in all_pids())
    return {pid for pid, fields in parents if fields and int(fields[_PARENT_FIELD]) == os.getpid()}


def _await_end(child: int) -> None:
    """Have the kernel count it among this process's ended children."""
    wait_until(
        lambda: os.waitpid(child, os.WNOHANG)[0] == child,
        timeout=ORPHANS_END_S,
        what=f"the end of process {child}, left behind by a command",
    )


def _sent_bytes(host: LabHost) -> int:
    if host.holder is None:
        raise LabError(f"{host.name}: the host is not up")
    return sent_bytes(Path(f"/proc/{host.holder.pid}/net/dev").read_text(encoding="ascii"))


def sent_bytes(net_dev: str) -> int:
    """Bytes sent on all interfaces but the loopback, from /proc/net/dev."""
    rows = (line.partition(":") for line in net_dev.splitlines() if ":" in line)
    return sum(int(counters.split()[8]) for name, _, counters in rows if name.strip() != "lo")
