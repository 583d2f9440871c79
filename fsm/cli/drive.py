"""Drives migrations from the command line to their end, whoever began them."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import click

from fsm.cli import exit_codes
from fsm.cli.display import Display, JsonLines, Lines
from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.engine.result import Result
from fsm.machine.loader import load

Begin = Callable[[Engine, Display], Awaitable[Sequence[Handle]]]


def drive(context: click.Context, begin: Begin, *, as_json: bool) -> None:
    """Do what ``begin`` begins to the end, and exit with what came of it."""
    context.exit(exit_codes.of_all(run(context, begin, as_json=as_json)))


def run(context: click.Context, begin: Begin, *, as_json: bool) -> list[Result]:
    """Do what ``begin`` begins to the end, and show it; exit where the user had it let go."""
    display: Display = JsonLines() if as_json else _for_a_reader()
    ends = asyncio.run(_to_the_end(open_engine(context), begin, display))
    results = [end for end in ends if isinstance(end, Result)]
    for result in results:
        display.result(result)
    for end in ends:
        if isinstance(end, asyncio.CancelledError):
            context.exit(exit_codes.ExitCode.UNEXPECTED)
        if isinstance(end, BaseException):
            raise end
    return results


def _for_a_reader() -> Display:
    if not sys.stdout.isatty():
        return Lines()
    from fsm.cli.bars import Terminal

    return Terminal()


def open_engine(context: click.Context) -> Engine:
    """The engine that the command's common options describe."""
    journal: Path = context.obj["journal"]
    states: Path | None = context.obj["states"]
    return Engine.open(journal, spec=load(states) if states else None)


async def _to_the_end(engine: Engine, begin: Begin, display: Display) -> list[Result | BaseException]:
    """How each ended: its result, its error, or ``CancelledError`` when the user had it let go."""
    async with engine:
        with display:
            handles = await begin(engine, display)
            _handle_signals(handles, display)
            # What ends one of many is no reason to let go of the others.
            ends = await asyncio.gather(*(handle.wait() for handle in handles), return_exceptions=True)
            for handle, end in zip(handles, ends, strict=True):
                if isinstance(end, asyncio.CancelledError):
                    await handle.detach()
                    display.say(f"let go; `fsm resume {handle.migration}` goes on")
            return ends


def _handle_signals(handles: Sequence[Handle], display: Display) -> None:
    """Ctrl-C: first a clean abort, then let go. SIGTERM: let go."""
    loop = asyncio.get_running_loop()
    letting_go: list[asyncio.Task[None]] = []

    def let_go() -> None:
        letting_go.extend(loop.create_task(handle.detach()) for handle in handles)

    def interrupted() -> None:
        display.say("aborting; once more to let go and leave everything as it is")
        for handle in handles:
            handle.abort()
        loop.add_signal_handler(signal.SIGINT, let_go)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, let_go)
