"""``fsm list`` and ``fsm show``: what the journal knows."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fsm.cli.app import has_journal
from fsm.cli.display import public, public_header
from fsm.engine.effective import as_defined
from fsm.engine.history import History, fold
from fsm.errors import BadInput
from fsm.journal.records import Header, Phase, Record, Step
from fsm.journal.sql import open_journal
from fsm.machine.loader import load_default


@click.command("list")
@click.option("--unfinished", is_flag=True, help="Only those that have not ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def list_migrations(context: click.Context, unfinished: bool, as_json: bool) -> None:
    """List the migrations in the journal, oldest first."""
    journal_file: Path = context.obj["journal"]
    if not has_journal(journal_file):
        _show_headers([], as_json=as_json)
        return
    journal = open_journal(journal_file)
    _show_headers(journal.headers(unfinished=unfinished), as_json=as_json)
    journal.close()


def _show_headers(headers: Sequence[Header], *, as_json: bool) -> None:
    if as_json:
        for header in headers:
            click.echo(json.dumps(public_header(header), default=str))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("migration", "domain", "state", "from", "to", "begun"):
        table.add_column(title, overflow="fold")
    for header in headers:
        state = f"{header.state} -> {header.heading_for}" if header.heading_for else header.state
        begun = f"{header.created:%Y-%m-%d %H:%M:%S}"
        cells = header.migration, header.domain, state, header.source_uri, header.destination_uri, begun
        table.add_row(*map(Text, cells))  # as text: a domain's name may look like rich's markup
    # A pipe has no width that anything would have to be folded to.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


@click.command()
@click.argument("migration")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: the header, then the records.")
@click.option("--recorded-xml", "as_xml", is_flag=True, help="The domain's definition, secrets included.")
@click.option(
    "--xml", "as_defined_xml", is_flag=True, help="The same as its user wrote it, without overlays."
)
@click.pass_context
def show(context: click.Context, migration: str, as_json: bool, as_xml: bool, as_defined_xml: bool) -> None:
    """Show what happened to MIGRATION, and what to do where it waits."""
    journal_file: Path = context.obj["journal"]
    if not has_journal(journal_file):
        raise BadInput(f"there is no journal {journal_file}", remedy="--journal or FSM_JOURNAL names another")
    journal = open_journal(journal_file)
    header, records = journal.header(migration), journal.records(migration)
    journal.close()
    if as_json:
        click.echo(json.dumps(public_header(header), default=str))
        for record in records:
            click.echo(json.dumps(public(record), default=str))
        return
    history = fold(load_default().initial, records)
    if as_xml:
        click.echo(history.bases.persistent_xml)
        return
    if as_defined_xml:
        _show_defined(history, migration)
        return
    _show_summary(header, history)
    for record in records:
        click.echo(_row(record))


def _show_defined(history: History, migration: str) -> None:
    if not history.bases.persistent_xml:
        raise BadInput(
            f"migration {migration} has recorded no definition: it has made no overlay",
            remedy="the domain is as its host shows it: virsh dumpxml --inactive",
        )
    click.echo(as_defined(history.bases.persistent_xml, history.plan))


def _show_summary(header: Header, history: History) -> None:
    click.echo(f"migration {header.migration}: domain {header.domain} {header.domain_uuid}")
    click.echo(f"from {header.source_uri}")
    click.echo(f"to   {header.destination_uri}")
    click.echo(
        f"state {header.state}" + (f", heading for {header.heading_for}" if header.heading_for else "")
    )
    if history.plan is not None:
        plan = history.plan
        click.echo(f"merge {plan.merge}" + (f": {plan.merge_reason}" if plan.merge_reason else ""))
        if plan.destination_name:
            click.echo(f"name there: {plan.destination_name}")
        for overlay in plan.overlays:
            if overlay.destination_base:
                click.echo(f"copy of {overlay.target}: {overlay.destination_base}")
    if history.kept_bytes:
        click.echo(f"kept {history.kept_bytes >> 20} MiB of an interrupted copy")
    if history.cause and header.state != "committed":
        click.echo(f"cause: {history.cause}")
    if history.remedy and header.state != "committed":
        click.echo(f"what to do: {history.remedy}")
    for rescued in history.rescued:
        click.echo(rescued.what)
    if history.left_behind:
        click.echo(f"left behind: {', '.join(history.left_behind)}")
    for pull in history.pulling:
        click.echo(f"block pull begun: {pull}")
    for why in history.not_flattened:
        click.echo(f"not flattened: {why}")


def _row(record: Record) -> str:
    at = f"{record.at:%H:%M:%S.%f}"[:-3] if record.at else ""
    what = f"{record.step.value} {record.name}"
    if record.step is Step.TRANSITION:
        what += f" to {record.dest}"
    if record.error:
        how = f"failed: {record.error}"
    elif "warning" in record.data:
        how = record.data["warning"]
    elif record.phase is Phase.INTENT:
        how = "begun"
    else:
        how = "done"
    return f"{record.sequence:4} {at} {record.state:20} {what}: {how}"
