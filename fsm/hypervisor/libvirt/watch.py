"""Watches: who is to be woken when libvirt reports that something about a domain changed."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from fsm.hypervisor.port import Watch


class Watches:
    """All watches of one host. Events arrive on libvirt's thread, waiters live in asyncio."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[str, set[LibvirtWatch]] = {}

    def add(self, uuid: str) -> Watch:
        """A new watch on one domain; call it in the event loop that will wait on it."""
        watch = LibvirtWatch(self, uuid)
        with self._lock:
            self._watches.setdefault(uuid, set()).add(watch)
        return watch

    def discard(self, watch: LibvirtWatch) -> None:
        """Forget a watch; nothing happens when it is forgotten already."""
        with self._lock:
            watches = self._watches.get(watch.uuid, set())
            watches.discard(watch)
            if not watches:
                self._watches.pop(watch.uuid, None)

    def notify(self, uuid: str | None) -> None:
        """Wake the watches on one domain, or on all when ``uuid`` is None. From any thread."""
        with self._lock:
            chosen = self._watches.values() if uuid is None else (self._watches.get(uuid, set()),)
            watches = [watch for group in chosen for watch in group]
        for watch in watches:
            watch.wake()


class LibvirtWatch:
    """See ``fsm.hypervisor.port.Watch``."""

    def __init__(self, watches: Watches, uuid: str) -> None:
        self.uuid = uuid
        self._watches = watches
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> bool:
        """Wait for a change since the last call; False when ``timeout_s`` passed without one."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    def close(self) -> None:
        """Stop watching."""
        self._watches.discard(self)

    def wake(self) -> None:
        """Let ``changed`` return. From any thread."""
        # RuntimeError: that event loop is closed, so nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)
