"""Hosts that let changes through only while this engine holds the migration's lease.

An engine that was stopped for a while, and woken after another one took over, must not act. The check stands
right before each call that changes something, and before each question that may open a storage pool: the
engine that took over may have put back all of them by then. Other questions are free. What remains is the
moment between the check and the call itself, which no check at this side can close.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from attrs import frozen

from fsm.hypervisor.port import CHANGES, OPENERS, Connector, DataChannel, DataSink, Host, RangeWriter

Check = Callable[[], None]


@frozen
class LeashedConnector:
    """A connector whose hosts and channels call ``permit`` before what needs a lease. It raises to forbid."""

    connector: Connector
    permit: Check

    def check(self, uri: str) -> None:
        """See ``fsm.hypervisor.port.Connector``."""
        self.connector.check(uri)

    async def connect(self, uri: str) -> Host:
        """See ``fsm.hypervisor.port.Connector``."""
        return cast(Host, _Leashed(await self.connector.connect(uri), self.permit))

    def __getattr__(self, name: str) -> Any:
        """What a connector may have besides: a way of its own to save a snapshot."""
        if name != "save_snapshot":
            raise AttributeError(name)
        own = getattr(self.connector, name)

        async def checked(*arguments: Any) -> None:
            self.permit()
            await own(*arguments)

        return checked

    def open_channel(self, uri: str) -> DataChannel:
        """See ``fsm.hypervisor.port.Connector``."""
        return cast(DataChannel, _LeashedChannel(self.connector.open_channel(uri), self.permit))


class _Leashed:
    """A host or its storage."""

    def __init__(self, target: object, check: Check) -> None:
        self._target = target
        self._check = check

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name == "storage":
            return _Leashed(attribute, self._check)
        if name not in CHANGES | OPENERS:
            return attribute

        async def checked(*arguments: Any, **named: Any) -> Any:
            self._check()
            return await attribute(*arguments, **named)

        return checked


@frozen
class _LeashedChannel:
    _channel: DataChannel
    _check: Check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def read(self, path: str, offset: int, length: int, sink: DataSink) -> None:
        self._check()
        self._channel.read(path, offset, length, sink)

    def writer(self, path: str) -> RangeWriter:
        self._check()
        return cast(RangeWriter, _LeashedWriter(self._channel.writer(path), self._check))


@frozen
class _LeashedWriter:
    _writer: RangeWriter
    _check: Check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def data(self, offset: int, chunk: bytes) -> None:
        self._check()
        self._writer.data(offset, chunk)
