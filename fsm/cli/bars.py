"""What a terminal shows while a migration runs: bars.

Apart from the other displays, so that no command imports Rich whose output goes elsewhere.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from fsm.cli.display import line_of, show_result
from fsm.engine.context import Progress
from fsm.engine.result import Result
from fsm.journal.records import Record


class Terminal:
    """Bars for the phases that move bytes, lines for the rest."""

    def __init__(self) -> None:
        self._console = Console()
        self._bars = Bars(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """See ``Display``."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See ``Display``."""
        self._bars.stop()

    def progress(self, progress: Progress) -> None:
        """See ``Display``."""
        if progress.phase not in self._tasks:
            self._tasks[progress.phase] = self._bars.add_task(progress.phase, total=None)
        self._bars.update(
            self._tasks[progress.phase],
            completed=progress.done_bytes,
            total=max(progress.total_bytes, progress.done_bytes) or None,
        )

    def record(self, record: Record) -> None:
        """See ``Display``."""
        if text := line_of(record):
            self.say(text)

    def say(self, text: str) -> None:
        """See ``Display``."""
        self._console.print(escape(text), highlight=False)

    def result(self, result: Result) -> None:
        """See ``Display``."""
        show_result(result)
