"""The command line: ``python -m bench``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from bench import report, session
from bench.crowd import crowd
from bench.recovery import recovery
from bench.results import save
from fsm.errors import FsmError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WIDTH = 130


@click.group(invoke_without_command=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Better five or more.")
@click.option("--size-mib", type=click.IntRange(8), default=512, show_default=True, help="The guest's disk.")
@click.option("--data-mib", type=click.IntRange(0), default=256, show_default=True, help="Data on it.")
@click.option("--only", multiple=True, type=click.Choice(session.NAMES), help="This contender; repeatable.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default="bench-results.json",
    show_default=True,
    help="Every raw value.",
)
@click.pass_context
def main(
    context: click.Context, rounds: int, size_mib: int, data_mib: int, only: tuple[str, ...], output: Path
) -> None:
    """Measure this project against what people use today, on two real hosts."""
    if context.invoked_subcommand:
        return
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"{output.parent} is no directory", param_hint="--output")
    for number in _ENDING:
        signal.signal(number, _end)
    settings = session.Settings(rounds, size_mib, data_mib, only)
    try:
        results = session.measure(settings, lambda text: click.echo(text, err=True))
    except FsmError as error:
        click.echo(f"bench: {error}", err=True)
        if error.remedy:
            click.echo(f"  what to do: {error.remedy}", err=True)
        sys.exit(1)
    save(results, output)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    report.show(results, session.REFERENCES, console)
    click.echo(f"every raw value: {output}")


main.add_command(crowd)
main.add_command(recovery)


def _end(number: int, _: FrameType | None) -> None:
    """End as an error would, so that the lab is taken down; a second signal must not disturb that."""
    for one in _ENDING:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
