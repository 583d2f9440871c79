"""What a lab must remember to be found and taken down by another process."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import cattrs

from fsm.lab.errors import LabError
from fsm.lab.process import ProcessId

STATE_FILE = "state.json"
NATIVE_ROOT = "/"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_HOST_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


@attrs.frozen
class HostState:
    """One host of a lab."""

    name: str
    address: str
    link: str
    """The interface in the root namespace that leads to the host."""
    holder: ProcessId | None = None
    """The process that keeps the host's namespaces alive; None until it was started."""
    access_control: bool = False
    """libvirt's own access control is on."""
    root: str = NATIVE_ROOT
    """The directory that is the host's ``/``; see ``fsm.lab.suite``."""


@attrs.frozen
class LabState:
    """One lab. It is on disk before anything of the lab exists."""

    name: str
    subnet: str
    address: str
    """The address of the root namespace on the lab's bridge."""
    bridge: str
    hosts: tuple[HostState, HostState]


def base_directory() -> Path:
    """Where labs live: ``$FSM_LAB_DIR``, else ``/var/lib/fsm-lab``."""
    return Path(os.environ.get("FSM_LAB_DIR") or "/var/lib/fsm-lab").absolute()


def directory(name: str) -> Path:
    """The directory of one lab."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"{name!r} can't be the name of a lab",
            remedy="use 1 to 31 small letters, digits and hyphens, the first one not a hyphen",
        )
    return base_directory() / name


def new_state(name: str | None, subnet: tuple[str, str, str, str], host_names: tuple[str, str]) -> LabState:
    """Describe a lab that does not exist yet.

    ``subnet``: the network, then the addresses of the root namespace and of both hosts.

    Interface names must stay below 16 characters, so they carry a random part in place of the lab's name.
    """
    link = f"fsm-{secrets.token_hex(3)}"
    network, root, first, second = subnet
    one, two = host_names
    if one == two or not all(_HOST_NAME.fullmatch(host) for host in host_names):
        raise LabError(f"{host_names!r} can't be the names of the two hosts")
    return LabState(
        name or link,
        network,
        root,
        link,
        (HostState(one, first, f"{link}-0"), HostState(two, second, f"{link}-1")),
    )


def save(state: LabState) -> None:
    """Write the state file; a reader sees the old or the new one, never a part."""
    path = directory(state.name) / STATE_FILE
    new = path.with_suffix(".new")
    new.write_text(json.dumps(cattrs.unstructure(state), indent=2) + "\n", encoding="utf-8")
    new.replace(path)


def load(name: str) -> LabState:
    """Read the state file of a lab."""
    path = directory(name) / STATE_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cattrs.structure(raw, LabState)
    except FileNotFoundError as error:
        known = ", ".join(names()) or "none"
        raise LabError(f"no lab named {name!r}; there are: {known}", remedy="fsm lab up") from error
    except (ValueError, KeyError, cattrs.BaseValidationError) as error:
        raise LabError(f"{path} is damaged: {error}") from error


def names() -> list[str]:
    """The labs that exist, whatever condition they are in."""
    base = base_directory()
    if not base.is_dir():
        return []
    return sorted(path.parent.name for path in base.glob(f"*/{STATE_FILE}"))


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of all labs under the base directory, which is the directory itself.

    The directory may be removed together with its last lab while we wait for it: look whether the one that
    was locked is still the one that the path leads to.
    """
    base = base_directory()
    while True:
        base.mkdir(parents=True, exist_ok=True)
        fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _same(base, fd):
                yield
                return
        finally:
            os.close(fd)


def _same(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def remove_base_if_empty() -> None:
    """Remove the base directory with the last lab; to be called with the lock held."""
    with suppress(OSError):  # not empty, or a mount point: then it stays
        base_directory().rmdir()
