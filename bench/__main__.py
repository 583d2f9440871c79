"""The command line: ``python -m bench``."""

from __future__ import annotations

from pathlib import Path

import click

from bench import plot, report, session
from bench.crowd import crowd
from bench.holes import holes
from bench.images import IMAGES, Image, ImageType
from bench.recovery import recovery
from bench.results import Results, load, save
from bench.telling import console, lab_command, say


@click.group(invoke_without_command=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=ImageType(),
    default=IMAGES,
    metavar="NAME[=SIZE_MIB:DATA_MIB]",
    help=f"The guest's disk, and the data on it; repeatable. Default: {', '.join(map(str, IMAGES))}.",
)
@click.option("--only", multiple=True, type=click.Choice(session.NAMES), help="This contender; repeatable.")
@click.option(
    "--pause-ms",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="How long the guest waits behind each write; 0: it writes as fast as it can.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default="bench-results.json",
    show_default=True,
    help="Every raw value, written after each run; plots stand beside it.",
)
@click.pass_context
def main(
    context: click.Context,
    rounds: int,
    images: tuple[Image, ...],
    only: tuple[str, ...],
    pause_ms: int,
    output: Path,
) -> None:
    """Measure this project against what people use today, on two real hosts."""
    if context.invoked_subcommand:
        return
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"{output.parent} is no directory", param_hint="--output")
    if len({one.name for one in images}) < len(images):
        raise click.BadParameter("two have one name", param_hint="--image")
    settings = session.Settings(rounds, images, only, pause_ms)
    with lab_command():
        results = session.measure(settings, say, lambda so_far: save(so_far, output))
    _tell(results, output)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def show(file: Path) -> None:
    """Show the tables and draw the plots of FILE again, or those of a bench that was interrupted."""
    with lab_command():
        results = load(file)
    _tell(results, file)


def _tell(results: Results, output: Path) -> None:
    report.show(results, console())
    click.echo(f"every raw value: {output}")
    try:
        for path in plot.draw(plot.panels(results.runs), output):
            click.echo(f"plot: {path}")
    except ImportError as error:
        click.echo(f"no plot: {error}; {plot.INSTALL}", err=True)


main.add_command(crowd)
main.add_command(holes)
main.add_command(recovery)


if __name__ == "__main__":
    main()
