"""Writes into this folder what is generated: from states.yaml, the log's format, and the code's tables.

``--check`` only fails if a file is stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import api_reference
import event_reference

from fsm.cli import exit_codes, virsh_words
from fsm.journal.events import json_schema
from fsm.machine import permissions
from fsm.machine.diagram import dot, mermaid
from fsm.machine.loader import load
from fsm.machine.picture import machine
from fsm.machine.reference import markdown
from fsm.machine.validation import check

DOCS = Path(__file__).resolve().parent
RENEW = ".venv/bin/python docs/generate.py"


def generated() -> dict[Path, str]:
    """Every generated file and what it must hold."""
    spec = check(load(DOCS.parent / "states.yaml"))
    return {
        DOCS / "machine.md": markdown(spec),
        DOCS / "machine.mmd": mermaid(machine(spec)),
        DOCS / "machine.dot": dot(machine(spec)),
        DOCS / "event.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        DOCS / "events.md": event_reference.markdown(),
        DOCS / "api.md": api_reference.markdown(),
        DOCS / "exit-codes.md": exit_codes.markdown(),
        DOCS / "permissions.md": permissions.markdown(spec),
        DOCS / "virsh-migrate.md": virsh_words.markdown(),
    }


def main(arguments: list[str]) -> int:
    """Exit code 0, 1 when a file is stale, 2 for wrong arguments."""
    if arguments not in ([], ["--check"]):
        print(f"usage: {RENEW} [--check]", file=sys.stderr)  # noqa: T201  # a script's own output
        return 2
    files = generated()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    if not arguments:
        for path in stale:
            path.write_text(files[path], "utf-8")
        return 0
    for path in stale:
        print(f"{path} is stale; renew it with: {RENEW}", file=sys.stderr)  # noqa: T201  # as above
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
