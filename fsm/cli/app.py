"""The command's entry point: options that all commands share, and how errors become exit codes."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from fsm.cli.exit_codes import ExitCode
from fsm.errors import BadInput, FsmError, SpecError

COMMANDS = {
    **dict.fromkeys(("abort", "rescue", "resume", "retry"), "takeover"),
    **dict.fromkeys(("list", "show"), "journal"),
    **dict.fromkeys(("check", "diagram"), "machine"),
    **{name: name for name in ("doctor", "guard", "lab", "migrate", "replay")},
}
"""Each command, and the module of this package in which it stands under its own name."""

_FUNCTIONS = {"list": "list_migrations"}


class Commands(click.Group):
    """Imports the command that is asked for, and no other: a migration is not to wait for the lab's code.

    Turns this package's errors into a sentence on stderr and the exit code that belongs to it.
    """

    def list_commands(self, _context: click.Context) -> list[str]:
        """All of them."""
        return sorted(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The one of that name."""
        if name not in COMMANDS:
            return None
        module = import_module(f"fsm.cli.{COMMANDS[name]}")
        command: click.Command = getattr(module, _FUNCTIONS.get(name, name))
        # What imports have made lives to the end: looking at it again at the exit took a tenth of a second.
        gc.freeze()
        return command

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Refuse bytes that are no UTF-8, wherever they stand: neither libvirt nor a journal takes them."""
        for word in args:
            if any("\ud800" <= character <= "\udfff" for character in word):
                raise click.UsageError(f"{os.fsencode(word)!r} is no UTF-8", context)
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except FsmError as error:
            click.echo(f"fsm: {error}", err=True)
            if error.remedy:
                click.echo(f"  what to do: {error.remedy}", err=True)
            bad = isinstance(error, BadInput | SpecError)
            context.exit(ExitCode.BAD_INPUT if bad else ExitCode.UNEXPECTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The journal file; else $FSM_JOURNAL, else the default of this user.",
)
@click.option(
    "--states",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Another machine description than the one shipped.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log every record, as JSON lines, on stderr.")
@click.version_option(package_name="migration-fsm", prog_name="fsm")
@click.pass_context
def main(context: click.Context, journal: Path | None, states: Path | None, verbose: bool) -> None:
    """Migrate libvirt domains live, and keep their internal snapshots."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # whatever a terminal is able to show, names are shown
            stream.reconfigure(errors="backslashreplace")
    if verbose:
        _log_to_stderr()
    context.obj = {"journal": journal or default_journal(), "states": states}


def default_journal() -> Path:
    """Where the journal is when nobody says: one for the host as root, one for each other user.

    Raises ``click.UsageError`` for a user who has no home.
    """
    if named := os.environ.get("FSM_JOURNAL"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/fsm/journal.db")
    try:
        state_home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    except RuntimeError as error:
        raise click.UsageError(
            "this user has no home: name a journal with --journal or FSM_JOURNAL"
        ) from error
    return Path(state_home) / "fsm/journal.db"


def has_journal(file: Path) -> bool:
    """Whether there is a journal; ``BadInput`` where this user can't be told."""
    try:
        return file.exists()
    except OSError as error:
        raise BadInput(
            f"the journal {file} can't be looked at: {error.strerror}",
            remedy="--journal or FSM_JOURNAL names another",
        ) from error


def _log_to_stderr() -> None:
    # Here, since its import is a good part of a command's start and few ask for the log.
    import structlog

    processors: Sequence[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(default=str),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
