"""What the commands that use a lab have in common on the terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click
from rich.console import Console

from fsm.errors import FsmError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WIDTH = 160
"""Of tables that go into a file."""


@contextmanager
def lab_command() -> Iterator[None]:
    """Let a signal end the command as an error would, and tell an error with its remedy."""
    for number in _ENDING:
        signal.signal(number, _end)
    try:
        yield
    except FsmError as error:
        click.echo(f"bench: {error}", err=True)
        if error.remedy:
            click.echo(f"  what to do: {error.remedy}", err=True)
        sys.exit(1)


def _end(number: int, _: FrameType | None) -> None:
    """End as an error would, so that the lab is taken down; a second signal must not disturb that."""
    for one in _ENDING:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def say(text: str) -> None:
    """Tell how far it is, apart from the results."""
    click.echo(text, err=True)


def console() -> Console:
    """Where the tables go."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH)
