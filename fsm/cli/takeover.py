"""``fsm resume``, ``fsm abort`` and ``fsm retry``: migrations that another process began."""

from __future__ import annotations

import asyncio

import click

from fsm.cli.display import Display, line_of
from fsm.cli.drive import drive
from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.engine.plan import Side
from fsm.journal.port import Leased

# How often a migration that another process drives is looked at.
LOOK_S = 0.5

_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a line; the last is the result."
)
_fenced = click.option(
    "--fenced",
    type=click.Choice([side.value for side in Side]),
    multiple=True,
    help="Your word that this host, which can't be reached, is off.",
)


@click.command()
@click.argument("migration", required=False)
@_fenced
@_json
@click.pass_context
def resume(context: click.Context, migration: str | None, fenced: tuple[str, ...], as_json: bool) -> None:
    """Go on with MIGRATION, or with every unfinished one that nobody drives."""
    if migration is None and fenced:
        raise click.UsageError("--fenced needs the MIGRATION that it is said of")

    async def begin(engine: Engine, display: Display) -> list[Handle]:
        if migration is not None:
            await engine.ask(migration, "retry", [Side(side) for side in fenced])
            return [await _take_over(engine, migration, display)]
        handles, left = await engine.resume_all(on_progress=display.progress, on_record=display.record)
        for error in left:
            display.say(f"{error}; left alone")
        return handles

    drive(context, begin, as_json=as_json)


@click.command()
@click.argument("migration")
@_fenced
@_json
@click.pass_context
def abort(context: click.Context, migration: str, fenced: tuple[str, ...], as_json: bool) -> None:
    """Abort MIGRATION: roll it back, or, behind the point of no return, finish it."""
    _ask(context, migration, "abort", fenced, as_json=as_json)


@click.command()
@click.argument("migration")
@click.option(
    "--accept-loss",
    "given_up",
    metavar="NAME",
    multiple=True,
    help="Give up the snapshot NAME, which was taken into an overlay and vanishes with it.",
)
@_fenced
@_json
@click.pass_context
def retry(
    context: click.Context,
    migration: str,
    given_up: tuple[str, ...],
    fenced: tuple[str, ...],
    as_json: bool,
) -> None:
    """Try a stuck MIGRATION again at once."""
    _ask(context, migration, "retry", fenced, given_up, as_json=as_json)


@click.command()
@click.argument("migration")
@_json
@click.pass_context
def rescue(context: click.Context, migration: str, as_json: bool) -> None:
    """Save the snapshots that were taken into MIGRATION's overlays, then try again.

    Each becomes an image of its own beside its disk's image, with its saved memory; fsm show names them.
    """
    _ask(context, migration, "rescue", (), as_json=as_json)


def _ask(
    context: click.Context,
    migration: str,
    name: str,
    fenced: tuple[str, ...],
    given_up: tuple[str, ...] = (),
    *,
    as_json: bool,
) -> None:
    """Leave the request, and do what it asks; or watch the process do it that drives the migration."""

    async def begin(engine: Engine, display: Display) -> list[Handle]:
        await engine.ask(migration, name, [Side(side) for side in fenced], given_up)
        try:
            return [await _take_over(engine, migration, display)]
        except Leased as error:
            display.say(f"{error}, which has been told")
            return [await _follow(engine, migration, display)]

    drive(context, begin, as_json=as_json)


async def _take_over(engine: Engine, migration: str, display: Display) -> Handle:
    return await engine.resume(migration, on_progress=display.progress, on_record=display.record)


async def _follow(engine: Engine, migration: str, display: Display) -> Handle:
    """Show what the other process does until it lets go; what then is left to do is done here."""
    shown = len(await asyncio.to_thread(engine.journal.records, migration))
    while True:  # ends when the other process does, or stops to beat
        try:
            return await _take_over(engine, migration, display)
        except Leased:
            records = await asyncio.to_thread(engine.journal.records, migration)
        for record in records[shown:]:
            if text := line_of(record):
                display.say(text)
        shown = len(records)
        await asyncio.sleep(LOOK_S)
