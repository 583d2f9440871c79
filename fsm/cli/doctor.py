"""``fsm doctor``: what waits on hosts, and what they lack."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import click
from attrs import evolve

from fsm.cli import exit_codes
from fsm.cli.display import Display
from fsm.cli.drive import run
from fsm.engine.adoption import AdoptionRefused
from fsm.engine.cases import Case, Examined, Kind
from fsm.engine.checks import Finding
from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.errors import HostError
from fsm.journal.port import DomainBusy, Leased
from fsm.journal.records import converter


@click.command()
@click.option("--host", "uris", required=True, multiple=True, metavar="URI", help="A host; say it for each.")
@click.option(
    "--adopt",
    is_flag=True,
    help="Finish what waits. Your word that the journal is lost and that nothing drives the migration.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def doctor(context: click.Context, uris: tuple[str, ...], adopt: bool, as_json: bool) -> None:
    """Find domains that wait on an overlay, explain them, and say what a host lacks.

    Exit code: 0 nothing to do; 4 a domain waits and nobody finishes it; 1 a host or a domain could not be
    read; 5 something else is to be done. With --adopt that of the migrations, 4 where some were not adopted.
    """
    examined: list[Examined] = []
    taken: set[str] = set()

    async def begin(engine: Engine, display: Display) -> list[Handle]:
        examined.extend(await engine.examine(uris))
        for host in examined:
            for line in map(json.dumps, _objects(host)) if as_json else ():
                click.echo(line)
            for line in () if as_json else _lines(host):
                display.say(line)
        if not adopt:
            return []
        handles = []
        for case in _to_adopt(examined):
            handle = await _adopted(engine, case, examined, display)
            if handle is not None:
                handles.append(handle)
                taken.add(case.migration)
        return handles

    results = run(context, begin, as_json=as_json)
    left = [
        evolve(host, cases=tuple(case for case in host.cases if case.migration not in taken))
        for host in examined
    ]
    code = exit_codes.of_examination(left)
    if results and code is not exit_codes.ExitCode.STUCK:
        code = exit_codes.of_all(results)
    context.exit(code)


def _to_adopt(examined: Sequence[Examined]) -> Iterator[Case]:
    """Each migration once, however many hosts show its domain."""
    cases = (case for host in examined for case in host.cases if case.waits)
    yield from {case.migration: case for case in cases if case.kind is not Kind.LEFTOVER}.values()


async def _adopted(
    engine: Engine, case: Case, examined: Sequence[Examined], display: Display
) -> Handle | None:
    """The migration under way, None where it can't be taken up."""
    progress, record = display.progress, display.record
    try:
        if case.kind is Kind.UNFINISHED:
            await engine.ask(case.migration, "retry")
            return await engine.resume(case.migration, on_progress=progress, on_record=record)
        return await engine.adopt(case, examined, on_progress=progress, on_record=record)
    except (AdoptionRefused, DomainBusy, HostError, Leased) as error:
        display.say(f"{error}" + (f"; {error.remedy}" if error.remedy else ""))
        return None


def _lines(host: Examined) -> Iterator[str]:
    yield f"{host.shown_uri}: {_versions(host)}"
    told = [(f"domain {case.domain}: {case.what}", case.remedy) for case in host.cases]
    told += [(f"{found.message} [{found.check}]", found.remedy) for found in (*host.unread, *host.notes)]
    for what, remedy in told:
        yield f"  {what}"
        if remedy:
            yield f"    what to do: {remedy}"


def _versions(host: Examined) -> str:
    if host.identity is None:
        return "not reached"
    versions = host.identity.libvirt_version, host.identity.hypervisor_version
    libvirt, qemu = (".".join(map(str, version)) for version in versions)
    confined = ", ".join(host.identity.security_models) or "none"
    return f"{host.identity.hostname}, libvirt {libvirt}, QEMU {qemu}, security models: {confined}"


def _objects(host: Examined) -> Iterator[dict[str, object]]:
    """The host, then each domain of which there is something to say."""
    yield {
        "event": "host",
        "host": host.shown_uri,
        "identity": None if host.identity is None else converter.unstructure(host.identity),
        "notes": converter.unstructure(host.notes, tuple[Finding, ...]),
        "unread": converter.unstructure(host.unread, tuple[Finding, ...]),
    }
    for case in host.cases:
        values = converter.unstructure(evolve(case, marker=None))
        del values["marker"]
        yield {"event": "domain", **values, "waits": case.waits}
