"""The engine embedded, with every call to a host timed: ``python -m bench.own_time``.

It migrates once and prints when calls to hosts were under way: the time that is left is the engine's own.
A process of its own, so that nothing else competes for its interpreter.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import structlog

import fsm
from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.hypervisor.port import Connector, DataChannel, Host

_PARTS = ("storage",)
"""Attributes that are asked in their turn."""
_QUIET = ("check", "watch_thresholds", "abandon")
"""Not counted: they call no host, or wait for what nobody needs before going on."""


class Calls:
    """When at least one call was under way, by CLOCK_MONOTONIC, from whatever thread."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.intervals: list[tuple[float, float]] = []
        self._now_s = now_s
        self._lock = threading.Lock()
        self._under_way = 0
        self._began_s = 0.0

    @contextmanager
    def one(self) -> Iterator[None]:
        """As long as the call takes."""
        with self._lock:
            if self._under_way == 0:
                self._began_s = self._now_s()
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                if self._under_way == 0:
                    self.intervals.append((self._began_s, self._now_s()))


class Timed:
    """A host, its storage, a watch, a channel or a writer whose calls are timed."""

    def __init__(self, target: object, calls: Calls) -> None:
        self._target = target
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name in _PARTS:
            return Timed(found, self._calls)
        if name in _QUIET or not callable(found):
            return found
        return self._awaited(found) if inspect.iscoroutinefunction(found) else self._called(found)

    def _awaited(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def timed(*arguments: Any, **named: Any) -> Any:
            with self._calls.one():
                return await call(*arguments, **named)

        return timed

    def _called(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self._calls.one():
                return self._kept(call(*arguments, **named))

        return timed

    def _kept(self, result: Any) -> Any:
        """A watch or a writer is timed in its turn."""
        return Timed(result, self._calls) if _is_port(result) else result


def _is_port(result: object) -> bool:
    return hasattr(result, "changed") or hasattr(result, "abandon")


class TimedConnector:
    """See ``fsm.hypervisor.port.Connector``."""

    def __init__(self, connector: Connector, calls: Calls) -> None:
        self._connector = connector
        self._calls = calls

    def check(self, uri: str) -> None:
        """Asks no host."""
        self._connector.check(uri)

    async def connect(self, uri: str) -> Host:
        """Timed, and so is the host."""
        with self._calls.one():
            return cast(Host, Timed(await self._connector.connect(uri), self._calls))

    def open_channel(self, uri: str) -> DataChannel:
        """Timed, and so is the channel."""
        with self._calls.one():
            return cast(DataChannel, Timed(self._connector.open_channel(uri), self._calls))


async def _migrate(journal: Path, request: fsm.Request, calls: Calls) -> fsm.Result:
    async with fsm.Engine.open(journal, TimedConnector(LibvirtConnector(), calls)) as engine:
        return await engine.migrate(request)


def main(journal: str, domain: str, source: str, destination: str, merge: str) -> None:
    """Migrate, and print the intervals; exit 1 when it does not end as committed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    calls = Calls()
    request = fsm.Request(domain, destination, source, merge=fsm.MergeChoice(merge))
    result = asyncio.run(_migrate(Path(journal), request, calls))
    if result.state != "committed":
        sys.exit(f"{domain} is {result.state}: {result.cause}")
    json.dump(calls.intervals, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
