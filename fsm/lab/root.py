"""A host's root: a directory with another Debian in place of the machine's own files.

What the host sees besides is the machine's: its processes, its devices, its kernel and the lab's directory,
all by the same paths. So a host in such a root is run, looked at and killed like any
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fsm.lab.process import run

_SHARED = ("/proc", "/sys", "/dev", "/boot", "/var/tmp")  # noqa: S108 - the proofs' scratch files are there

# The directory itself is only read: what a host writes goes to a tmpfs above it, and ends with the host.
# The pivot takes the holder along, and with it everybody who enters the host later.
_TAKE = """\
lower=$1 lab=$2 new=$3/root
shift 3
mkdir "$new"
mount -t tmpfs -o mode=755 fsm-lab "$new"
mkdir "$new/upper" "$new/work" "$new/root"
mount -t overlay -o "lowerdir=$lower,upperdir=$new/upper,workdir=$new/work" fsm-lab "$new/root"
cd "$new/root"
for path in "$@"; do
    mkdir -p ".$path"
    mount --rbind "$path" ".$path"
done
mkdir -p ".$lab" old
mount --bind "$lab" ".$lab"
pivot_root . old
cd /
umount -l old
rmdir old
"""


def take_root(enter: Sequence[str], root: str, directory: Path) -> None:
    """Make ``root`` the root of the host that ``enter`` leads to, whose own directory is the given one."""
    run([*enter, "sh", "-euc", _TAKE, "sh", root, str(directory.parent), str(directory), *_SHARED])
