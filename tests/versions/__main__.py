"""The command line: ``python -m tests.versions``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from fsm.lab import LabError, suite
from fsm.machine.observation import Merge
from tests.endings import end_as_errors_do
from tests.versions.cells import MERGES, PAIRS, STORAGES, Pair, cells, parse
from tests.versions.run import run
from tests.versions.table import all_right, line_of, markdown, save


class PairType(click.ParamType):
    """Two suites that are known."""

    name = "SOURCE:DESTINATION"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Pair:
        """See ``parse``."""
        try:
            return value if isinstance(value, Pair) else parse(str(value))
        except LabError as error:
            self.fail(f"{error}; {error.remedy}", param, ctx)


@click.command()
@click.option(
    "--pair",
    "pairs",
    multiple=True,
    type=PairType(),
    default=PAIRS,
    help=f"Of {', '.join(suite.SUITES)}; repeatable. Default: from each to itself and to the newer ones.",
)
@click.option(
    "--merge",
    "merges",
    multiple=True,
    type=click.Choice([choice.value for choice in MERGES]),
    default=[choice.value for choice in MERGES],
    help="This way to merge; repeatable.",
)
@click.option(
    "--storage",
    "storages",
    multiple=True,
    type=click.Choice(STORAGES),
    default=STORAGES,
    help="Where the images are; repeatable.",
)
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Every value.")
def main(
    pairs: tuple[Pair, ...], merges: tuple[str, ...], storages: tuple[str, ...], output: Path | None
) -> None:
    """Migrate between hosts of different Debian suites, and see that nothing is lost."""
    if os.geteuid() != 0:
        raise click.UsageError("only root can make the namespaces of a lab")
    end_as_errors_do()
    try:
        for name in dict.fromkeys(name for pair in pairs for name in pair.suites):
            suite.build(name, _say)
    except LabError as error:
        raise click.ClickException(f"{error}\n  {error.remedy}") from error
    rows = []
    for cell in cells(pairs, [Merge(merge) for merge in merges], storages):
        rows.append(run(cell))
        _say(line_of(rows[-1]))
    click.echo(markdown(rows))
    if output is not None:
        save(rows, output)
    sys.exit(0 if all_right(rows) else 1)


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
