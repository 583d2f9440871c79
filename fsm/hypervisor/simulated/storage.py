"""The asynchronous port to a simulated host's files, and the blocking one for bulk data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from attrs import define, field

from fsm.errors import HostError, HostUnreachable
from fsm.hypervisor.port import DataSink
from fsm.hypervisor.simulated import files, pools
from fsm.hypervisor.simulated.core import WorldCore
from fsm.hypervisor.simulated.state import HostState, WorldState
from fsm.hypervisor.values import FileFacts, Overlay, PoolState, Space

T = TypeVar("T")


@define(eq=False)
class SimulatedStorage:
    """See ``fsm.hypervisor.port.Storage``."""

    _uri: str
    _core: WorldCore

    async def _call(
        self, name: str, arguments: tuple[object, ...], effect: Callable[[WorldState, HostState], T]
    ) -> T:
        await asyncio.sleep(0)
        result = self._core.perform(self._uri, name, arguments, effect)
        await asyncio.sleep(0)
        return result

    async def pool_state(self, directory: str) -> PoolState:
        """See the port."""
        return await self._call("pool_state", (directory,), lambda _, host: pools.state_of(host, directory))

    async def pool_directory(self, pool: str) -> str:
        """See the port."""
        return await self._call("pool_directory", (pool,), lambda _, host: pools.directory_of(host, pool))

    async def stat(self, path: str) -> FileFacts | None:
        """See the port."""
        return await self._call("stat", (path,), lambda state, host: pools.stat(state, host, path))

    async def peek(self, path: str, offset: int, length: int) -> bytes:
        """See the port."""
        return await self._call(
            "peek",
            (path, offset, length),
            lambda state, host: files.read(pools.existing(state, host, path), offset, length),
        )

    async def free_bytes(self, directory: str) -> int:
        """See the port."""
        return await self._call(
            "free_bytes", (directory,), lambda state, host: pools.free_bytes(state, host, directory)
        )

    async def space(self, directory: str, paths: Sequence[str]) -> Space:
        """See the port."""
        wanted = tuple(paths)
        return await self._call(
            "space", (directory, wanted), lambda state, host: pools.space(state, host, directory, wanted)
        )

    async def create_sparse(self, path: str, size_bytes: int) -> None:
        """See the port."""
        await self._call(
            "create_sparse",
            (path, size_bytes),
            lambda state, host: pools.create_sparse(state, host, path, size_bytes),
        )

    async def create_overlay(self, overlay: Overlay, capacity_bytes: int) -> None:
        """See the port."""
        await self._call(
            "create_overlay",
            (overlay, capacity_bytes),
            lambda state, host: pools.create_overlay(state, host, overlay, capacity_bytes),
        )

    async def make_durable(self, path: str) -> bool:
        """See the port."""
        return await self._call(
            "make_durable", (path,), lambda state, host: pools.make_durable(state, host, path)
        )

    async def remove(self, path: str) -> None:
        """See the port."""
        await self._call("remove", (path,), lambda state, host: pools.remove(state, host, path))

    async def release(self, directory: str, was: PoolState) -> None:
        """See the port."""
        await self._call("release", (directory, was), lambda _, host: pools.release(host, directory, was))


@define(eq=False)
class SimulatedChannel:
    """See ``fsm.hypervisor.port.DataChannel``."""

    _uri: str
    _core: WorldCore
    _closed: bool = field(default=False, init=False)

    def perform(
        self, name: str, arguments: tuple[object, ...], effect: Callable[[WorldState, HostState], T]
    ) -> T:
        """One call on this connection."""
        if self._closed:
            raise HostUnreachable("the connection is closed", host=self._uri, call=name)
        return self._core.perform(self._uri, name, arguments, effect)

    def read(self, path: str, offset: int, length: int, sink: DataSink) -> None:
        """See the port."""
        found = self.perform(
            "read",
            (path, offset, length),
            lambda state, host: list(files.extents(pools.existing(state, host, path), offset, length)),
        )
        for at, size, is_data in found:
            # The lock is not held while the sink takes its time.
            self._alive("read")
            if is_data:
                sink.data(at, self._bytes(path, at, size))
            else:
                sink.hole(at, size)

    def _bytes(self, path: str, offset: int, length: int) -> bytes:
        with self._core.changing() as state:
            host = state.hosts[self._uri]
            file = files.find(state, host, path)
            return b"" if file is None else files.read(file, offset, length)

    def _alive(self, call: str) -> None:
        if self._closed or not self._core.reaches(self._uri):
            raise HostUnreachable("the connection broke", host=self._uri, call=call)

    def writer(self, path: str) -> SimulatedWriter:
        """See the port."""
        self.perform("writer", (path,), lambda state, host: pools.existing(state, host, path))
        return SimulatedWriter(path, self)

    def close(self) -> None:
        """See the port."""
        self._closed = True


@define(eq=False)
class SimulatedWriter:
    """See ``fsm.hypervisor.port.RangeWriter``. As with a stream, an error shows at the next call."""

    _path: str
    _channel: SimulatedChannel
    _error: HostError | None = field(default=None, init=False)
    _ended: bool = field(default=False, init=False)

    def data(self, offset: int, chunk: bytes) -> None:
        """See the port."""
        self._raise_earlier()
        try:
            self._channel.perform(
                "write",
                (self._path, offset, len(chunk)),
                lambda state, host: files.write(state, host, self._path, offset, chunk),
            )
        except HostError as error:
            self._error = error

    def hole(self, offset: int, length: int) -> None:  # noqa: ARG002  # a hole needs nothing
        """See the port. Nothing is sent."""
        self._raise_earlier()

    def close(self) -> None:
        """See the port."""
        self._ended = True
        self._raise_earlier()

    def abandon(self) -> None:
        """See the port."""
        self._ended = True

    def _raise_earlier(self) -> None:
        if self._error is not None:
            raise self._error
