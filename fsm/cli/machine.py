"""``fsm check`` and ``fsm diagram``: the machine's description."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fsm.cli import exploration
from fsm.cli.app import has_journal
from fsm.cli.exit_codes import ExitCode
from fsm.cli.graphviz import draw
from fsm.cli.revision import load_old
from fsm.errors import BadInput
from fsm.journal.journey import journey_of
from fsm.journal.sql import open_journal
from fsm.machine import reference
from fsm.machine.diagram import dot, mermaid
from fsm.machine.difference import compare
from fsm.machine.difference import picture as difference_picture
from fsm.machine.difference import text as difference_text
from fsm.machine.exploration.search import BOUND
from fsm.machine.journey import Journey
from fsm.machine.journey import picture as journey_picture
from fsm.machine.loader import DEFAULT, load, load_default
from fsm.machine.picture import Picture, machine
from fsm.machine.spec import Spec
from fsm.machine.validation import validate


def described(context: click.Context, file: Path | None) -> Spec:
    """The machine in that file, else the one in use."""
    path: Path | None = file or context.obj["states"]
    return load(path) if path else load_default()


@click.command()
@click.option("--explore", "explores", is_flag=True, help="Also go through everything that can come to pass.")
@click.option(
    "--bound", default=BOUND, show_default=True, help="The most points that --explore goes through."
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the log of a violation there; fsm replay reads it. Else it goes to stdout.",
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_context
def check(context: click.Context, file: Path | None, explores: bool, bound: int, trace: Path | None) -> None:
    """Validate a machine description: FILE, or the one in use."""
    spec = described(context, file)
    problems = validate(spec)
    for problem in problems:
        click.echo(f"fsm: {problem}", err=True)
    if problems:
        context.exit(ExitCode.BAD_INPUT)
    click.echo(
        f"{spec.file}: valid; {len(spec.states)} states, {len(spec.rows)} transitions, digest {spec.digest}"
    )
    if explores and not exploration.proven(spec, bound, trace):
        context.exit(ExitCode.BAD_INPUT)


@click.command()
@click.option(
    "--format",
    "language",
    type=click.Choice(["mermaid", "dot", "svg", "png", "md", "text"]),
    help="The language to draw it in; text is for --diff, and its default. Else: mermaid.",
)
@click.option(
    "--diff",
    "old",
    metavar="OLD",
    help="Show what differs from OLD, a file or a git revision.",
)
@click.option("--migration", metavar="ID", help="Show the path that this migration of the journal took.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it there, not to stdout."
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_context
def diagram(
    context: click.Context,
    language: str | None,
    old: str | None,
    migration: str | None,
    output: Path | None,
    file: Path | None,
) -> None:
    """Draw a machine description: FILE, or the one in use."""
    spec = described(context, file)
    if old is not None and migration is not None:
        raise click.UsageError("--diff and --migration can't be drawn in one picture")
    if old is not None:
        path: Path = file or context.obj["states"] or DEFAULT
        difference = compare(load_old(old, path), spec)
        told = difference_text(difference)
        written = _written(language or "text", difference_picture(difference), f"```diff\n{told}```", told)
    elif migration is not None:
        shown = journey_picture(spec, _journey(context, migration))
        written = _written(language or "mermaid", shown, f"## {shown.title}")
    else:
        written = _written(language or "mermaid", machine(spec), "", page=reference.markdown(spec))
    _put(written, output)


def _written(language: str, picture: Picture, head: str, told: str = "", page: str = "") -> str | bytes:
    """The picture in that language; ``head`` stands above it on a page that is not given as a whole."""
    match language:
        case "svg" | "png":
            return draw(dot(picture), language)
        case "dot":
            return dot(picture)
        case "md":
            return page or f"{head}\n\n```mermaid\n{mermaid(picture)}```\n"
        case "text":
            if not told:
                raise click.UsageError("--format text is for --diff")
            return told
        case _:
            return mermaid(picture)


def _journey(context: click.Context, migration: str) -> Journey:
    journal_file: Path = context.obj["journal"]
    if not has_journal(journal_file):
        raise BadInput(f"there is no journal {journal_file}", remedy="--journal or FSM_JOURNAL names another")
    journal = open_journal(journal_file)
    try:
        return journey_of(journal.events(migration))
    finally:
        journal.close()


def _put(written: str | bytes, output: Path | None) -> None:
    if output is not None:
        try:
            output.write_bytes(written if isinstance(written, bytes) else written.encode())
        except OSError as error:
            raise BadInput(f"{output} can't be written: {error.strerror}") from error
    elif isinstance(written, bytes):
        if sys.stdout.isatty():
            raise BadInput("a picture is no text for a terminal", remedy="name a file with --output")
        click.echo(written, nl=False)
    else:
        # click leaves the colours away where the output is no terminal.
        click.echo("".join(map(_coloured, written.splitlines(keepends=True))), nl=False)


def _coloured(line: str) -> str:
    colour = {"+": "green", "-": "red", "~": "yellow"}.get(line[:1])
    return click.style(line, fg=colour) if colour else line
