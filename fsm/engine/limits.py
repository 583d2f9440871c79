"""How many migrations an engine lets run at once, and in what order those that wait are let in.

First come, first served among those for which there is room: a migration that waits for one link holds up
nobody on another. So that it can't be passed for ever, the places of its hosts are kept for it once enough
others have gone before.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from attrs import Attribute, define, field, frozen

from fsm.errors import BadInput

COPIES_AT_ONCE = 8
"""Each has a thread and a pair of connections per worker. More would share the same links and disks."""

MOST_PASSED = 16
"""So many later migrations of the same hosts may be let in before one that waits."""


def _positive(_limits: Any, attribute: Attribute[Any], value: int | None) -> None:
    if value is not None and value < 1:
        raise BadInput(f"a limit of {value} for {attribute.name}", remedy="1 is the least; None: unlimited")


@frozen
class Limits:
    """How many migrations of one engine run at once; None is unlimited. Raises ``BadInput`` below 1.

    ``per_host``: those that a host takes part in, as source or destination. ``per_link``: those between the
    same two hosts, in either direction. ``copying``: those that copy their bases, of all that run. Hosts are
    told apart by their URIs.

    A migration beyond the limits waits in ``planned``, before it has asked its hosts anything; its progress
    says "waiting". One that is taken over after it had begun runs at once, and counts. A place is given back
    when the engine lets go of the migration.

    >>> Limits(per_host=4, per_link=2)
    Limits(per_host=4, per_link=2, copying=8)
    """

    per_host: int | None = field(default=None, validator=_positive)
    per_link: int | None = field(default=None, validator=_positive)
    copying: int = field(default=COPIES_AT_ONCE, validator=_positive)


@define(eq=False)
class _Wish:
    """A place that somebody waits for."""

    link: frozenset[str]
    granted: asyncio.Event = field(factory=asyncio.Event)
    passed: int = 0


@define(eq=False)
class Places:
    """The places of one engine. Belongs to one event loop."""

    limits: Limits
    _on_hosts: Counter[str] = field(factory=Counter, init=False)
    _on_links: Counter[frozenset[str]] = field(factory=Counter, init=False)
    _queue: list[_Wish] = field(factory=list, init=False)

    @asynccontextmanager
    async def place(
        self, source: str, destination: str, *, begun: bool, unless: asyncio.Event, waits: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Wait for a place, and have it for the ``with``'s body; ``waits`` is called if there is none yet.

        What has ``begun`` does not wait. Nor does it wait any longer when ``unless`` is set: the body is then
        run without a place, to end what has not begun.
        """
        wish = _Wish(frozenset((source, destination)))
        if begun:
            self._grant(wish)
        else:
            self._queue.append(wish)
            self._let_in()
        try:
            if not wish.granted.is_set():
                waits()
                await _first_of(wish.granted, unless)
            if not wish.granted.is_set():
                self._queue.remove(wish)
            yield
        finally:
            self._give_back(wish)

    def _grant(self, wish: _Wish) -> None:
        self._on_hosts.update(wish.link)
        self._on_links[wish.link] += 1
        wish.granted.set()

    def _give_back(self, wish: _Wish) -> None:
        if wish.granted.is_set():
            self._on_hosts.subtract(wish.link)
            self._on_links[wish.link] -= 1
        elif wish in self._queue:
            self._queue.remove(wish)
        self._let_in()

    def _let_in(self) -> None:
        """Grant what there is room for, in the order of coming."""
        kept: Counter[str] = Counter()
        passed: list[_Wish] = []
        for wish in list(self._queue):
            if self._has_room(wish, kept):
                self._queue.remove(wish)
                self._grant(wish)
                for earlier in passed:
                    earlier.passed += not wish.link.isdisjoint(earlier.link)
                continue
            passed.append(wish)
            if wish.passed >= MOST_PASSED:
                kept.update(wish.link)

    def _has_room(self, wish: _Wish, kept: Counter[str]) -> bool:
        per_host, per_link = self.limits.per_host, self.limits.per_link
        if per_link is not None and self._on_links[wish.link] >= per_link:
            return False
        return per_host is None or all(self._on_hosts[host] + kept[host] < per_host for host in wish.link)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
