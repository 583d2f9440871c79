"""One connection to each host for all migrations of an engine, however many those are.

A connection takes a socket, a place among the host's clients and threads on both sides; a thousand migrations
between two hosts need two of them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

from attrs import define, field

from fsm.errors import FsmError
from fsm.hypervisor.port import Connector, DataChannel, Host


@define(eq=False)
class _Shared:
    """A host, or the attempt to connect it, and how many use it."""

    opening: asyncio.Task[Host]
    users: int = 0


@define(eq=False)
class SharedConnector:
    """A connector whose hosts are connected once and closed with their last user. For one event loop."""

    connector: Connector
    _shared: dict[str, _Shared] = field(factory=dict, init=False)
    _closing: set[asyncio.Task[None]] = field(factory=set, init=False)

    def check(self, uri: str) -> None:
        """See ``fsm.hypervisor.port.Connector``."""
        self.connector.check(uri)

    async def connect(self, uri: str) -> Host:
        """See ``fsm.hypervisor.port.Connector``. An attempt that is under way is waited for, not repeated."""
        if uri not in self._shared:
            self._shared[uri] = _Shared(asyncio.create_task(self.connector.connect(uri)))
        shared = self._shared[uri]
        shared.users += 1
        try:
            host = await asyncio.shield(shared.opening)
        except BaseException:
            await self._leave(uri, shared)
            raise
        return cast(Host, _Use(self, uri, shared, host))

    def __getattr__(self, name: str) -> Any:
        """What the connector has besides, such as a way of its own to save a snapshot."""
        return getattr(self.connector, name)

    def open_channel(self, uri: str) -> DataChannel:
        """See ``fsm.hypervisor.port.Connector``. Channels are never shared."""
        return self.connector.open_channel(uri)

    async def _leave(self, uri: str, shared: _Shared) -> None:
        shared.users -= 1
        failed = shared.opening.done() and (shared.opening.cancelled() or shared.opening.exception())
        if shared.users and not failed:
            return
        if self._shared.get(uri) is shared:
            del self._shared[uri]
        if shared.users or failed:
            return
        if shared.opening.done():
            await shared.opening.result().close()
        else:
            # Whoever leaves an attempt was told to let go: he waits for no host, nor hears why it failed.
            closing = asyncio.create_task(_close_late(shared.opening))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def _close_late(opening: asyncio.Task[Host]) -> None:
    """Close a host that comes to stand when nobody wants it any more."""
    with suppress(FsmError):
        await (await opening).close()


class _Use:
    """A host as one of its users has it."""

    def __init__(self, connector: SharedConnector, uri: str, shared: _Shared, host: Host) -> None:
        self._connector, self._of, self._shared, self._host = connector, uri, shared, host
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    async def close(self) -> None:
        """Close the host with its last user."""
        if not self._closed:
            self._closed = True
            await self._connector._leave(self._of, self._shared)
