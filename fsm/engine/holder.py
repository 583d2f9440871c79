"""Who drives a migration: an engine in a process, named so that others can tell whether it is still there."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from attrs import frozen

_PROC = Path("/proc")


@frozen
class Holder:
    """An engine. ``boot`` and ``namespace`` say in which kernel and which PID namespace ``pid`` means it."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: str
    engine: str

    def __str__(self) -> str:
        return "/".join((self.host, self.boot, self.namespace, str(self.pid), self.started, self.engine))

    @property
    def described(self) -> str:
        """For a reader."""
        return f"process {self.pid} on {self.host}"

    @classmethod
    def parse(cls, text: str) -> Holder:
        """The holder that was written as ``text``. Raises ``ValueError``."""
        host, boot, namespace, pid, started, engine = text.split("/")
        return cls(host, boot, namespace, int(pid), started, engine)


def described(text: str) -> str:
    """A holder, written as ``text``, for a reader."""
    try:
        return Holder.parse(text).described
    except ValueError:
        return text


def new_holder() -> Holder:
    """A name for one more engine in this process."""
    return Holder(
        host=socket.gethostname(),
        boot=(_PROC / "sys/kernel/random/boot_id").read_text().strip(),
        namespace=os.readlink(_PROC / "self/ns/pid"),
        pid=os.getpid(),
        started=_start_time(os.getpid()),
        engine=secrets.token_hex(4),
    )


def is_dead(text: str) -> bool:
    """Whether the holder written as ``text`` is known to be gone.

    Known only of processes that this one could see: same kernel, same boot, same PID namespace. Any other one
    may live, and its lease has to run out.
    """
    try:
        holder = Holder.parse(text)
    except ValueError:
        return False
    here = new_holder()
    if (holder.host, holder.boot, holder.namespace) != (here.host, here.boot, here.namespace):
        return False
    return _start_time(holder.pid) != holder.started


def _start_time(pid: int) -> str:
    """When a process began, in clock ticks since boot (proc(5), field 22); empty when there is none.

    A zombie has ended: it acts no more.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]
