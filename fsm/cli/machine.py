"""``fsm check`` and ``fsm diagram``: the machine's description."""

from __future__ import annotations

from pathlib import Path

import click

from fsm.cli.exit_codes import ExitCode
from fsm.machine import diagram as drawing
from fsm.machine.loader import load, load_default
from fsm.machine.spec import Spec
from fsm.machine.validation import validate


def _described(context: click.Context, file: Path | None) -> Spec:
    path: Path | None = file or context.obj["states"]
    return load(path) if path else load_default()


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_context
def check(context: click.Context, file: Path | None) -> None:
    """Validate a machine description: FILE, or the one in use."""
    spec = _described(context, file)
    problems = validate(spec)
    for problem in problems:
        click.echo(f"fsm: {problem}", err=True)
    if problems:
        context.exit(ExitCode.BAD_INPUT)
    click.echo(
        f"{spec.file}: valid; {len(spec.states)} states, {len(spec.rows)} transitions, digest {spec.digest}"
    )


@click.command()
@click.option(
    "--format",
    "language",
    type=click.Choice(["mermaid", "dot"]),
    default="mermaid",
    help="The language to draw it in.",
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_context
def diagram(context: click.Context, language: str, file: Path | None) -> None:
    """Draw a machine description: FILE, or the one in use."""
    spec = _described(context, file)
    click.echo(drawing.mermaid(spec) if language == "mermaid" else drawing.dot(spec))
