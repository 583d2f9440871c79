"""The command line: ``python -m tests.nfs``. Its words go to the pytest that runs in the machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.endings import end_as_errors_do

HERE = Path(__file__).resolve().parent
LIMIT_S = 3600
"""For all of it; a machine that hangs is ended."""
DISK_BYTES = 4 << 30


def main(words: list[str]) -> int:
    """Boot the machine with its first process, and return what became of the tests in it."""
    if os.geteuid() != 0:
        print("only root can make the namespaces of a lab", file=sys.stderr)  # noqa: T201
        return 2
    end_as_errors_do()
    with tempfile.TemporaryDirectory(prefix="fsm-nfs-", dir="/var/tmp") as name:
        directory = Path(name)
        options = ["-v", "-p", "no:cacheprovider", f"--timeout={LIMIT_S}", "--basetemp=/scratch/tests"]
        job = shlex.join([sys.executable, "-m", "pytest", *options, str(HERE / "journeys.py"), *words])
        (directory / "job").write_text(f"cd {shlex.quote(str(HERE.parents[1]))} && exec {job}\n", "utf-8")
        disk = directory / "disk"
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
        boot(machine(directory))
        code = directory / "code"
        if not code.exists():
            print("the machine has ended before its tests", file=sys.stderr)  # noqa: T201
            return 1
        return int(code.read_text("ascii"))


def boot(command: list[str]) -> None:
    """Run the machine until it switches itself off."""
    with subprocess.Popen(command) as process:
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"it has not ended within {LIMIT_S} s", file=sys.stderr)  # noqa: T201
        finally:
            process.terminate()  # its processes end with it
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def machine(directory: Path) -> list[str]:
    """Its kernel is a process: User-Mode Linux needs no KVM, and has the NFS that this kernel may lack."""
    root = ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={HERE / 'machine.sh'}"]
    console = ["quiet", "con=null", "con0=null,fd:1"]
    own = [f"ubda={directory / 'disk'}", f"uml_dir={directory}", f"FSM_NFS={directory}"]
    return ["linux.uml", "mem=2G", *root, *console, *own]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
