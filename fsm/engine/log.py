"""Where the engine's events go: to a logger of the embedder's, of structlog or of the standard library."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from typing import Any, Protocol, cast

from attrs import frozen

NAME = "fsm"
# What the standard library asks of a library: silent until somebody wants to hear it.
logging.getLogger(NAME).addHandler(logging.NullHandler())


class EventLog(Protocol):
    """What the engine asks of a logger; every logger of structlog has it."""

    def debug(self, event: str, /, **fields: Any) -> Any:
        """Log what only a developer wants to know."""

    def info(self, event: str, /, **fields: Any) -> Any:
        """Log an event."""

    def warning(self, event: str, /, **fields: Any) -> Any:
        """Log one that somebody should look at."""


Logger = logging.Logger | EventLog


def event_log(logger: Logger | None = None) -> EventLog:
    """The event log on ``logger``: structlog's as it is, one of the standard library with JSON as messages.

    None: structlog as the process has configured it; where it has not, the standard library's logger "fsm".
    Nobody's configuration is changed. What the logger raises harms nobody.
    """
    if logger is None:
        # Nobody has configured what was never imported, and its import takes long: it brings Rich along.
        structlog = sys.modules.get("structlog")
        if structlog is not None and structlog.is_configured():
            return _Unfailing(cast(EventLog, structlog.get_logger(NAME)))
        logger = logging.getLogger(NAME)
    return _Unfailing(_JsonMessages(logger) if isinstance(logger, logging.Logger) else logger)


@frozen
class _Unfailing:
    """A log that may be closed, or full: no migration stops half-way because nobody could be told."""

    _log: EventLog

    def debug(self, event: str, /, **fields: Any) -> None:
        with suppress(Exception):
            self._log.debug(event, **fields)

    def info(self, event: str, /, **fields: Any) -> None:
        with suppress(Exception):
            self._log.info(event, **fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        with suppress(Exception):
            self._log.warning(event, **fields)


@frozen
class _JsonMessages:
    """A logger of the standard library that gets each event as a line of JSON."""

    logger: logging.Logger

    def debug(self, event: str, /, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if self.logger.isEnabledFor(level):
            self.logger.log(level, "%s", json.dumps({**fields, "event": event}, default=str))
