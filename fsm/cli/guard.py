"""``fsm guard``: may this be done to that domain now?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fsm.cli.app import has_journal
from fsm.cli.exit_codes import ExitCode
from fsm.cli.polkit import polkit
from fsm.engine.guard import Guard, operation_of
from fsm.errors import HostUnreachable
from fsm.hypervisor.libvirt import LibvirtConnector
from fsm.journal.sql import open_journal
from fsm.machine.guard import Verdict
from fsm.machine.loader import load, load_default

_ASK = "ask"


class _DomainOrCommand(click.Group):
    """Whatever is no command is a domain. ``--`` in front says that it is a domain, whatever its name."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Have the words of a question go to the command that asks."""
        commands = [name for name, command in self.commands.items() if not command.hidden]
        if args and args[0] not in (*commands, "-h", "--help"):
            args = [_ASK, *args]
        return super().parse_args(context, args)

    def format_usage(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Both forms."""
        formatter.write_usage(context.command_path, "[--from URI] [--] DOMAIN [OPERATION]")
        formatter.write_usage(context.command_path, "COMMAND ...")


@click.group(cls=_DomainOrCommand)
def guard() -> None:
    """Say whether an OPERATION on DOMAIN would harm its migration: exit code 0 if not, 6 if it is blocked.

    Without an OPERATION all of them are shown, with their reasons. The journal is asked, and on the host that
    --from names the marker that a domain carries while it is migrated. A domain that is called like one of
    the commands is asked for by its UUID, or behind --.
    """


@guard.command(_ASK, hidden=True)
@click.argument("domain")
@click.argument("operation", required=False)
@click.option("--from", "source", default=None, help="The host where the domain is; default qemu:///system.")
@click.pass_context
def ask(context: click.Context, domain: str, operation: str | None, source: str | None) -> None:
    """Ask."""
    wanted = operation_of(operation) if operation else None
    verdicts = _verdicts(context, domain, source)
    if wanted is None:
        _show(verdicts)
        return
    verdict = next(verdict for verdict in verdicts if verdict.operation is wanted)
    if verdict.permitted:
        click.echo(f"{wanted} is permitted")
        return
    whose = f"migration {verdict.migration}" + (f", which is {verdict.state}" if verdict.state else "")
    click.echo(f"fsm: {wanted} on {domain} is blocked by {whose}", err=True)
    click.echo(f"  why: {verdict.harm}", err=True)
    click.echo(f"  permitted again: {verdict.until}", err=True)
    context.exit(ExitCode.BLOCKED)


def _verdicts(context: click.Context, domain: str, source: str | None) -> Sequence[Verdict]:
    options: dict[str, Any] = context.obj
    states: Path | None = options["states"]
    file: Path = options["journal"]
    journal = open_journal(file) if has_journal(file) else None
    asking = Guard(load(states) if states else load_default(), journal, LibvirtConnector())
    try:
        return asyncio.run(asking.look(source or "qemu:///system", domain))
    except HostUnreachable as error:
        # Only the host has the marker. Without a host named, and with a journal, that one's word must do.
        if source is not None or journal is None:
            raise
        click.echo(f"fsm: by the journal alone, as the host can't be asked: {error}", err=True)
        return asking.table(domain)
    finally:
        if journal is not None:
            journal.close()


def _show(verdicts: Sequence[Verdict]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("operation", "", "why"):
        table.add_column(title, overflow="fold")
    for verdict in verdicts:
        word = "permitted" if verdict.permitted else "blocked"
        table.add_row(*map(Text, (verdict.operation, word, verdict.reason)))
    # A pipe has no width that anything would have to be folded to.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


guard.add_command(polkit)
