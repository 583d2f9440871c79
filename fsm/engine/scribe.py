"""Writes the records of all migrations that an engine drives.

A record is safe only when the disk has been told so, and that takes a disk about as long for many records as
for one. So records that come while others are being written wait and then share a transaction.
"""

from __future__ import annotations

import asyncio
from functools import partial

from attrs import define, field

from fsm.errors import FsmError
from fsm.journal.port import Entry, Journal
from fsm.journal.records import Record

# A transaction keeps every other writer of the journal waiting, the heartbeat too.
MOST_AT_ONCE = 250

_Waiting = list[tuple[Entry, "asyncio.Future[Record]"]]


@define(eq=False)
class Scribe:
    """One engine's pen. Belongs to one event loop."""

    journal: Journal
    _waiting: _Waiting = field(factory=list, init=False)
    _busy: bool = field(default=False, init=False)

    def write(self, entry: Entry) -> asyncio.Future[Record]:
        """Write a record; the future ends, as ``Journal.append`` would, when it is durable.

        What was begun is finished, whoever stops to wait for it.
        """
        written: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, written))
        if not self._busy:
            self._next()
        return written

    def _next(self) -> None:
        batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
        self._busy = bool(batch)
        if batch:
            # No task: one that is cancelled with all others would leave those who wait without an answer.
            entries = [entry for entry, _ in batch]
            writing = asyncio.get_running_loop().run_in_executor(None, self.journal.append_all, entries)
            writing.add_done_callback(partial(self._told, batch))

    def _told(self, batch: _Waiting, writing: asyncio.Future[list[Record | FsmError]]) -> None:
        failure = writing.exception()
        results = [failure] * len(batch) if failure is not None else writing.result()
        for (_, written), result in zip(batch, results, strict=True):
            if written.cancelled():
                continue
            if isinstance(result, Record):
                written.set_result(result)
            else:
                written.set_exception(result)
        self._next()
