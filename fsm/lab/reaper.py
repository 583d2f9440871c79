"""Runs a command and collects all processes that it leaves behind, as a machine's process 1 does.

Started as a program of its own between the lab and a host's libvirtd, outside of the host; it ends when the
last of them has ended. Process 1 of a container may collect orphans seconds late; libvirt takes a QEMU for
alive that long, and a test that kills one would measure that.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

_PR_SET_CHILD_SUBREAPER = 36
END_OF_OUTPUT = "reaper: the command ended with "
"""Begins the last line printed; the exit code follows."""


def main(argv: list[str]) -> int:
    """Run ``argv``, report its exit code, then stay until the last orphan has ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        print(os.strerror(ctypes.get_errno()))  # noqa: T201 - printing is how this program reports
        return 1
    code = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode
    print(f"{END_OF_OUTPUT}{code}", flush=True)  # noqa: T201
    # Whoever started us reads to the end of our output, and must not wait for the orphans.
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
