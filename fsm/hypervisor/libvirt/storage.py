"""The storage part of the port, on libvirt."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from fsm.hypervisor.libvirt import pools, volumes
from fsm.hypervisor.libvirt.link import Link
from fsm.hypervisor.values import FileFacts, Overlay, PoolState, Space

# Syncing a file just copied may have to write all of it out.
SYNC_DEADLINE_S = 600.0


class LibvirtStorage:
    """See ``fsm.hypervisor.port.Storage``.

    A lock per directory keeps our own calls from running into each other's pool jobs.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def pool_state(self, directory: str) -> PoolState:
        """How ``directory`` is covered at present by pools that are not ours. Changes nothing."""
        return await self._link.ask("pool_state", lambda call: pools.state(call, directory))

    async def pool_directory(self, pool: str) -> str:
        """The directory whose files are the volumes of the storage pool with this name."""
        return await self._link.ask("pool_directory", lambda call: pools.directory_of(call, pool))

    async def stat(self, path: str) -> FileFacts | None:
        """The file at ``path``, None when there is none."""
        async with self._lock_for(path):
            return await self._link.ask("stat", lambda call: volumes.stat(call, path))

    async def peek(self, path: str, offset: int, length: int) -> bytes:
        """A small piece of the file's content, less where the file ends. ``NotFound`` without a file."""
        async with self._lock_for(path):
            return await self._link.ask("peek", lambda call: volumes.peek(call, path, offset, length))

    async def free_bytes(self, directory: str) -> int:
        """Free space of the file system that holds ``directory``."""
        async with self._locks[pools.normalised(directory)]:
            return await self._link.ask("free_bytes", lambda call: volumes.free_bytes(call, directory))

    async def space(self, directory: str, paths: Sequence[str]) -> Space:
        """Its free space, and files in it, in one look."""
        async with self._locks[pools.normalised(directory)]:
            return await self._link.ask("space", lambda call: volumes.space(call, directory, paths))

    async def create_sparse(self, path: str, size_bytes: int) -> None:
        """Create a file of ``size_bytes`` that is one hole. ``HostError`` when ``path`` exists."""
        async with self._lock_for(path):
            await self._link.change(
                "create_sparse", lambda call: volumes.create_sparse(call, path, size_bytes)
            )

    async def create_overlay(self, overlay: Overlay, capacity_bytes: int) -> None:
        """Create an empty qcow2 file on ``overlay.base``. ``HostError`` when its path exists."""
        async with self._lock_for(overlay.path):
            await self._link.change(
                "create_overlay", lambda call: volumes.create_overlay(call, overlay, capacity_bytes)
            )

    async def make_durable(self, path: str) -> bool:
        """Have the file's content written to stable storage; False where no way exists."""
        async with self._lock_for(path):
            return await self._link.change(
                "make_durable", lambda call: volumes.make_durable(call, path), SYNC_DEADLINE_S
            )

    async def remove(self, path: str) -> None:
        """Remove the file at ``path``; nothing happens when there is none."""
        async with self._lock_for(path):
            await self._link.change("remove", lambda call: volumes.remove(call, path))

    async def release(self, directory: str, was: PoolState) -> None:
        """Bring the coverage of ``directory`` back to ``was``: pools of ours vanish, started ones stop."""
        async with self._locks[pools.normalised(directory)]:
            await self._link.change("release", lambda call: pools.release(call, directory, was))

    def _lock_for(self, path: str) -> asyncio.Lock:
        return self._locks[pools.normalised(path.rpartition("/")[0] or "/")]
