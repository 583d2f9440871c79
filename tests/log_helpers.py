"""The log's events of simulated migrations, and golden logs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from tests.machine_helpers import TESTS

GOLDEN = TESTS / "testdata" / "logs"


@contextmanager
def logged() -> Iterator[list[dict[str, Any]]]:
    """The events logged inside, as they come back from the JSON that the command writes."""
    lines: list[dict[str, Any]] = []

    def keep(_logger: object, _name: str, event: structlog.typing.EventDict) -> str:
        lines.append(json.loads(json.dumps(event, default=str)))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        yield lines
    finally:
        structlog.configure(**before)


def transitions_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The transition events alone."""
    return [line for line in lines if re.fullmatch(r"\w+-(intent|outcome)", line["event"])]
