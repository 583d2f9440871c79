"""Commands with a deadline, and processes that are killed by identity instead of by number.

A process number may be given to another process at any time. Whatever is killed here is first held by a
pidfd, then checked, then signalled through that same pidfd, so the check and the signal concern one
process.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from fsm.lab.errors import LabError

COMMAND_TIMEOUT = 120.0
"""Seconds after which any single command of the lab is given up."""


def run(argv: Sequence[str], *, stdin: str | None = None, timeout: float = COMMAND_TIMEOUT) -> str:
    """Run a command and return its standard output; raise LabError with its standard error if it fails."""
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
            encoding="utf-8",
            errors="replace",
            env=clean_environment(),
        )
    except FileNotFoundError as error:
        raise LabError(
            f"{argv[0]}: no such command", remedy="./dev setup installs what is missing"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: no answer within {timeout:g} s") from error
    if done.returncode != 0:
        raise LabError(
            f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


def clean_environment() -> dict[str, str]:
    """The environment of all commands: messages in English, nothing inherited that redirects libvirt."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
    }


def wait_until(ready: Callable[[], bool], *, timeout: float, what: str, interval: float = 0.02) -> None:
    """Ask again and again until ``ready``; for conditions that nothing announces."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:g} s")
        time.sleep(interval)


@attrs.frozen
class ProcessId:
    """A process that can't be mistaken for a later one of the same number."""

    pid: int
    start_time: int
    """Clock ticks after the machine's boot, field 22 of ``/proc/PID/stat``."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The identity of a process that lives now."""
        started = _start_time(pid)
        if started is None:
            raise LabError(f"process {pid} has ended already")
        return cls(pid, started)

    def alive(self) -> bool:
        """Whether that very process still runs."""
        return _start_time(self.pid) == self.start_time


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name stands in parentheses and may itself contain some, so count from the last one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def send(pid: int, belongs: Callable[[int], bool], sig: int) -> bool:
    """Signal one process if ``belongs`` says that it is ours; False if it is not, or has ended."""
    with _held(pid) as pidfd:
        if pidfd is None or not belongs(pid):
            return False
        try:
            signal.pidfd_send_signal(pidfd, sig)
        except ProcessLookupError:
            return False
        return True


def kill(
    pid: int, belongs: Callable[[int], bool], *, sig: int = signal.SIGKILL, timeout: float = 20.0
) -> bool:
    """Signal one process as ``send`` does, and wait for its end."""
    with _held(pid) as pidfd:
        if pidfd is None or not send(pid, belongs, sig):
            return False
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise LabError(f"process {pid} did not end within {timeout:g} s of signal {sig}")
    return True


@contextmanager
def _held(pid: int) -> Iterator[int | None]:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def all_pids() -> list[int]:
    """Every process number of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def arguments(pid: int) -> list[str]:
    """The command line of a process; empty when it has ended or is the kernel's."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [part.decode("utf-8", "replace") for part in raw.split(b"\0")[:-1]]
