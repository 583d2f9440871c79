"""For commands that take a lab down at their end, whatever ends them."""

from __future__ import annotations

import signal
import sys
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_as_errors_do() -> None:
    """From now on a signal ends this process as an error would, through every ``finally``."""
    for number in _ENDING:
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    for one in _ENDING:  # a second one must not disturb the first one's end
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)
