"""Other versions of libvirt and QEMU: suites of Debian, each built once into a directory for hosts' roots.

They are kept outside of the labs, in ``$FSM_LAB_CACHE``, else ``/var/cache/fsm-lab``. Remove a suite's
directory there to have it built anew.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fsm.lab.errors import LabError
from fsm.lab.process import run
from fsm.lab.state import NATIVE_ROOT

SUITES = ("bookworm", "trixie", "sid")
"""The oldest first. The machine's own is no exception: its root is the machine's."""
PACKAGES = (
    *("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-daemon-system", "libvirt-clients"),
    *("qemu-system-x86", "qemu-utils", "iproute2", "util-linux", "mount", "e2fsprogs", "bindfs", "hostname"),
)
BUILD_TIMEOUT_S = 1800.0

# Nothing is started meanwhile, and what is mounted or runs on vanishes with the namespaces.
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "--")
_BUILD = """\
suite=$1 root=$2 mirror=$3
shift 3
debootstrap --variant=minbase "$suite" "$root" "$mirror"
printf '#!/bin/sh\\nexit 101\\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"
chroot "$root" apt-get clean
"""


def native() -> str:
    """The suite that the machine itself runs."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "unknown")


def root(suite: str) -> str:
    """Where a suite's root is, or would be. Raises ``LabError`` for one that is not known."""
    if suite == native():
        return NATIVE_ROOT
    if suite not in SUITES:
        raise LabError(
            f"{suite!r} is no suite of Debian that the lab knows", remedy=f"use one of {', '.join(SUITES)}"
        )
    return str(_cache_directory() / suite)


def is_built(suite: str) -> bool:
    """Whether a suite's root is there."""
    return Path(root(suite)).is_dir()


def build(suite: str, progress: Callable[[str], None] = lambda _: None) -> str:
    """A suite's root, built if it is not there; that takes minutes, and a mirror of Debian."""
    where = root(suite)
    if is_built(suite):
        return where
    with _locked(_cache_directory()):
        if is_built(suite):  # by somebody else, while we waited
            return where
        progress(f"building {where}")
        new = Path(f"{where}.new")
        shutil.rmtree(new, ignore_errors=True)  # of a build that was interrupted
        words = [suite, str(new), mirror(), *PACKAGES]
        run([*_NAMESPACES, "sh", "-euc", _BUILD, "sh", *words], timeout=BUILD_TIMEOUT_S)
        new.rename(where)
    return where


def mirror() -> str:
    """The mirror of Debian that the machine's own apt uses."""
    listed = run(["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Component: main"])
    for label, _, uri in (line.partition(" ") for line in listed.splitlines()):
        if label == "Debian":
            return uri
    raise LabError("the machine's apt knows no mirror of Debian", remedy="apt-get update")


def _cache_directory() -> Path:
    return Path(os.environ.get("FSM_LAB_CACHE") or "/var/cache/fsm-lab").absolute()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One build at a time in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
