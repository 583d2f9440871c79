"""Hosts that an engine's migrations share: whoever lets go in the midst of connecting lets go at once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from attrs import define, field

from fsm.engine.context import Hosts
from fsm.engine.plan import Plan, Request, Side
from fsm.engine.sharing import SharedConnector
from fsm.errors import HostUnreachable
from fsm.hypervisor.port import Connector

URI = "sim://alpha/system"


@define(eq=False)
class Slow:
    """A connector, and its host, that answer when they are let; both tell whether the host was closed."""

    begun: asyncio.Event = field(factory=asyncio.Event)
    answers: asyncio.Event = field(factory=asyncio.Event)
    closed: asyncio.Event = field(factory=asyncio.Event)
    is_reachable: bool = True
    identifies: bool = False

    async def _answer(self) -> None:
        self.begun.set()
        await self.answers.wait()

    async def connect(self, uri: str) -> Any:
        if not self.identifies:
            await self._answer()
        if not self.is_reachable:
            raise HostUnreachable("no answer", host=uri, call="connect")
        return self

    async def identity(self) -> Any:
        await self._answer()

    async def close(self) -> None:
        self.closed.set()


async def cancelled_while(slow: Slow, asking: Any) -> None:
    task = asyncio.create_task(asking)
    await slow.begun.wait()
    task.cancel()
    for _ in range(10):  # far more turns of the loop than it takes
        await asyncio.sleep(0)
    assert task.cancelled()


@pytest.mark.parametrize("is_reachable", [True, False])
async def test_who_is_told_to_let_go_does_not_wait_for_a_host(*, is_reachable: bool) -> None:
    """An unreachable host's error in place of the cancellation would have the migration go on."""
    slow = Slow(is_reachable=is_reachable)
    shared = SharedConnector(cast(Connector, slow))
    await cancelled_while(slow, shared.connect(URI))
    # A later one is not given the attempt that nobody waits for any more.
    slow.begun.clear()
    again = asyncio.create_task(shared.connect(URI))
    await slow.begun.wait()
    slow.answers.set()
    if is_reachable:
        host = await again
        await asyncio.wait_for(slow.closed.wait(), 10)  # that of the first attempt, which came late
        slow.closed.clear()
        await host.close()
        assert slow.closed.is_set()
    else:
        with pytest.raises(HostUnreachable):
            await again


async def test_a_host_that_is_not_recognised_yet_is_closed() -> None:
    slow = Slow(identifies=True)
    request = Request("web", source_uri=URI, destination_uri=URI)
    hosts = Hosts(SharedConnector(cast(Connector, slow)), request, Plan("uuid", "web", (), source_host="one"))
    await cancelled_while(slow, hosts.get(Side.SOURCE))
    assert slow.closed.is_set()
