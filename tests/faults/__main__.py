"""The command line: ``python -m tests.faults``."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import click
from rich.console import Console

from fsm.lab.process import run
from fsm.machine.observation import Merge
from tests.endings import end_as_errors_do
from tests.faults.cells import FAULTS, STATES, cells
from tests.faults.run import Stage
from tests.faults.table import all_right, line_of, save, show

WIDTH = 160


@click.command()
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="This state; repeatable.")
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)), help="This fault.")
@click.option(
    "--merge",
    type=click.Choice([choice.value for choice in Merge]),
    default=Merge.COMMIT.value,
    show_default=True,
    help="How the migrations merge.",
)
@click.option(
    "--transport",
    type=click.Choice(["streams", "nbd"]),
    default="streams",
    show_default=True,
    help="How the bases are copied.",
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Each cell so often.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Every value.")
def main(
    states: tuple[str, ...],
    faults: tuple[str, ...],
    merge: str,
    transport: str,
    rounds: int,
    output: Path | None,
) -> None:
    """Do every fault in every state, and see that nothing is lost and nothing left behind."""
    if os.geteuid() != 0:
        raise click.UsageError("only root can make the namespaces of a lab")
    end_as_errors_do()
    rows = []
    with Stage(lambda text: click.echo(text, err=True)) as stage:
        for cell in cells(states, faults, Merge(merge), transport) * rounds:
            rows.append(stage.run(cell))
            click.echo(line_of(rows[-1]), err=True)
    show(rows, Console(width=None if sys.stdout.isatty() else WIDTH))
    if output is not None:
        save(rows, _machine(), output)
    sys.exit(0 if all_right(rows) else 1)


def _machine() -> dict[str, object]:
    """What the numbers depend on."""
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "libvirt": run(["virsh", "--version"]).strip(),
        "qemu": run(["qemu-img", "--version"]).splitlines()[0],
        "guest": "emulated, without KVM",
    }


if __name__ == "__main__":
    main()
