"""Storage: files by path, through the pools that cover their directories."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from fsm.hypervisor.simulated import files, images
from fsm.hypervisor.simulated.state import Denied, HostState, Missing, Pool, SparseFile, WorldState
from fsm.hypervisor.values import FileFacts, Overlay, PoolState, Space, is_among_devices


def state_of(host: HostState, directory: str) -> PoolState:
    """How a directory is covered by pools that are not ours."""
    pool = host.pools.get(directory)
    if pool is None or pool.ours:
        return PoolState.NONE
    return PoolState.ACTIVE if pool.active else PoolState.INACTIVE


def directory_of(host: HostState, name: str) -> str:
    """The directory of the pool with this name; simulated pools are called as the directory's last part."""
    for directory, pool in host.pools.items():
        if not pool.ours and posixpath.basename(directory) == name:
            return directory
    raise Missing(f"there is no storage pool {name!r}")


def cover(state: WorldState, host: HostState, path: str) -> None:
    """See that an active pool covers a file's directory; ``Missing`` when there is no such directory."""
    if any(char < " " or char == "\x7f" for char in path):
        raise Denied(f"libvirt's storage pools can't show {path!r}: it holds control characters")
    _cover(state, host, posixpath.dirname(path))


def _cover(state: WorldState, host: HostState, directory: str) -> None:
    files.filesystem(state, host, directory)
    host.pools.setdefault(directory, Pool(active=True, ours=True)).active = True


def existing(state: WorldState, host: HostState, path: str) -> SparseFile:
    """The file at ``path``, found through its pool; ``Missing`` when there is none."""
    cover(state, host, path)
    return files.existing(state, host, path)


def release(host: HostState, directory: str, was: PoolState) -> None:
    """Bring the coverage of a directory back to what it was."""
    pool = host.pools.get(directory)
    if pool is None:
        return
    if pool.ours:
        del host.pools[directory]
    elif was is PoolState.INACTIVE:
        pool.active = False


def stat(state: WorldState, host: HostState, path: str) -> FileFacts | None:
    """The file at ``path``, None when there is none."""
    cover(state, host, path)
    file = files.find(state, host, path)
    if file is None:
        return None
    header, on_device = images.header(file), is_among_devices(path)
    return FileFacts(
        path,
        file.size,
        file.size if on_device else files.allocated_bytes(file),
        header.capacity_bytes,
        header.format,
        header.backing,
        "of its node" if on_device else str(file.written),
    )


def free_bytes(state: WorldState, host: HostState, directory: str) -> int:
    """Free space of the file system that holds ``directory``."""
    _cover(state, host, directory)
    found = files.filesystem(state, host, directory)
    return found.size_bytes - found.used_bytes


def space(state: WorldState, host: HostState, directory: str, paths: Sequence[str]) -> Space:
    """Free space of the file system that holds ``directory``, and files in it."""
    found = [stat(state, host, path) for path in paths]
    capacity_bytes = files.filesystem(state, host, directory).size_bytes
    present = tuple(facts for facts in found if facts is not None)
    return Space(free_bytes(state, host, directory), capacity_bytes, present)


def create_sparse(state: WorldState, host: HostState, path: str, size_bytes: int) -> None:
    """Create a file that is one hole."""
    files.expect_no_device(path)
    cover(state, host, path)
    files.create(state, host, path, size_bytes)


def create_overlay(state: WorldState, host: HostState, overlay: Overlay, capacity_bytes: int) -> None:
    """Create an empty overlay."""
    files.expect_no_device(overlay.path)
    cover(state, host, overlay.path)
    files.existing(state, host, overlay.base)
    images.create(state, host, overlay.path, capacity_bytes, (overlay.base, overlay.base_format))


def make_durable(state: WorldState, host: HostState, path: str) -> bool:
    """As with libvirt there is a way for qcow2 files only; nothing that is written here gets lost anyway."""
    return images.header(existing(state, host, path)).format == "qcow2"


def remove(state: WorldState, host: HostState, path: str) -> None:
    """Remove a file, if there is one."""
    files.expect_no_device(path)
    try:
        cover(state, host, path)
    except Missing:
        return
    files.remove(state, host, path)
