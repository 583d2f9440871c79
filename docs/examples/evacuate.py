"""Evacuates a host: migrates its running domains to other hosts, so many at once, and tells how each ended.

    python evacuate.py --journal evacuation.db qemu+ssh://root@a/system qemu+ssh://root@b/system ...

Run it again after an interruption: it goes on with what it had begun. Ctrl-C rolls back what is under way, a
second one leaves everything as it is. Its exit code is the worst that came of any domain: 0 all are away,
5 refused with nothing touched, 3 rolled back, 4 stuck, 1 anything else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle

import fsm

EXIT_CODES = {"committed": 0, "refused": 5, "rolled-back": 3, "stuck": 4}
WORST_FIRST = (1, 4, 3, 5, 0)


class Lines:
    """Tells how far one domain is: a line for each state, each failure and each tenth of a phase."""

    def __init__(self, name: str) -> None:
        self.name, self._last = name, ""

    def record(self, record: fsm.Record) -> None:
        if record.error:
            self.say(f"{record.name} failed: {record.error}")
        elif record.step is fsm.Step.TRANSITION and record.phase is fsm.Phase.OUTCOME:
            self.say(f"{record.state} -> {record.dest}")

    def progress(self, progress: fsm.Progress) -> None:
        tenths = 10 * progress.done_bytes // progress.total_bytes if progress.total_bytes else 0
        line = f"{progress.phase} {10 * tenths} %" if progress.total_bytes else progress.phase
        if line != self._last:
            self._last = line
            self.say(line)

    def say(self, text: str) -> None:
        print(f"{self.name}: {text}", flush=True)


def resumed(engine: fsm.SyncEngine, source: str) -> Iterator[fsm.SyncHandle]:
    """What an earlier run has left unfinished."""
    for header in engine.migrations(unfinished=True):
        if header.request["source_uri"] == source:
            lines = Lines(header.domain)
            try:
                yield engine.resume(header.migration, on_progress=lines.progress, on_record=lines.record)
            except fsm.Leased as error:
                lines.say(f"left alone: {error}")


def begun(engine: fsm.SyncEngine, source: str, destinations: Sequence[str]) -> Iterator[fsm.SyncHandle]:
    """One migration for every other running domain, to each destination in turn."""
    unfinished = {header.domain_uuid or header.domain for header in engine.migrations(unfinished=True)}
    turns = cycle(destinations)
    for domain in engine.domains(source):
        lines = Lines(domain.name)
        if domain.state is not fsm.DomainState.RUNNING:
            lines.say(f"stays, it is {domain.state.value}")
        elif unfinished.isdisjoint((domain.uuid, domain.name)):
            request = fsm.Request(domain.name, source_uri=source, destination_uri=next(turns))
            yield engine.start(request, on_progress=lines.progress, on_record=lines.record)


def end_of(handle: fsm.SyncHandle) -> int:
    """Wait for a migration, tell how it ended and what to do about it, and return its exit code."""
    try:
        result = handle.wait()
    except fsm.FsmError as error:
        print(f"{handle.request.domain}: {error}\n  what to do: {error.remedy}", file=sys.stderr)
        return 1
    print(
        f"{result.domain}: {result.state} (migration {result.migration} to {handle.request.destination_uri})"
    )
    problems = [(f"{one.host}: {one.message}", one.remedy) for one in result.findings]
    if result.state != "committed":
        for what, remedy in problems or [(result.cause, result.remedy)]:
            print(f"  {what}\n  what to do: {remedy or 'run this again'}", file=sys.stderr)
    return EXIT_CODES.get(result.state, 1)


def evacuate(engine: fsm.SyncEngine, source: str, destinations: Sequence[str]) -> int:
    """Migrate everything away; the exit code."""
    handles: list[fsm.SyncHandle] = []
    codes: dict[str, int] = {}
    try:
        handles += resumed(engine, source)
        handles += begun(engine, source, destinations)
        for handle in handles:
            codes[handle.migration] = end_of(handle)
    except KeyboardInterrupt:
        print("rolling back; once more to leave everything as it is", file=sys.stderr)
        for handle in (everything := {*handles, *engine.handles.values()}):
            handle.abort()
        for handle in everything:
            if handle.migration not in codes:
                end_of(handle)
        return 1
    return next((code for code in WORST_FIRST if code in codes.values()), 0)


def main(arguments: Sequence[str], connector: fsm.Connector | None = None) -> int:
    """Exit code; ``connector`` is given by tests, which have no hosts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", metavar="URI", help="the host to be emptied")
    parser.add_argument("destinations", metavar="URI", nargs="+", help="where its domains go")
    parser.add_argument("--journal", default="evacuation.db", help="file or URL; the same for every run")
    parser.add_argument(
        "--per-host", type=int, default=4, help="migrations at once that a host takes part in"
    )
    parser.add_argument("--per-link", type=int, default=2, help="migrations at once between two hosts")
    options = parser.parse_args(arguments)
    try:
        limits = fsm.Limits(per_host=options.per_host, per_link=options.per_link)
        with fsm.SyncEngine.open(options.journal, connector, limits=limits) as engine:
            return evacuate(engine, options.source, options.destinations)
    except fsm.FsmError as error:
        print(f"evacuate: {error}\n  what to do: {error.remedy}", file=sys.stderr)
        return 2 if isinstance(error, fsm.BadInput) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
