"""Remembers in the journal how far a copy has come, in few records, so that it can be continued."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from fsm.engine.context import Context
from fsm.images.blocks import Block
from fsm.images.resumption import stretches_of
from fsm.images.transfer import CHUNK_BYTES, MIB
from fsm.journal.records import converter

RECORD_BYTES = 4 * CHUNK_BYTES
"""Data copied between two records: what a killed engine has copied in vain at most, besides what was under
way."""

MOST_RECORDS = 128
"""Of one file, however large: it then loses less than a hundredth."""

WORTH_BYTES = 16 * MIB
"""Less data than this is copied anew sooner than it is worth a record."""


@define
class CopyRecorder:
    """Collects the finished blocks of one copy of ``size_bytes`` bytes."""

    context: Context
    path: str
    size_bytes: int
    _blocks: list[Block] = field(factory=list, init=False)

    async def add(self, blocks: Sequence[Block]) -> None:
        """Take finished blocks, and record them when enough have come together."""
        self._blocks += blocks
        if self._data_bytes >= max(RECORD_BYTES, self.size_bytes // MOST_RECORDS):
            await self._write()

    async def end(self) -> None:
        """The copy has ended, or was interrupted: record the rest."""
        if self._data_bytes >= WORTH_BYTES:
            await self._write()

    @property
    def _data_bytes(self) -> int:
        return sum(block.data_bytes for block in self._blocks)

    async def _write(self) -> None:
        stretches, self._blocks = stretches_of(self._blocks), []
        await self.context.note("copied", {"copied": {self.path: converter.unstructure(stretches)}})
