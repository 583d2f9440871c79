"""One migration as a page to step through: timeline, diagram, and what was observed at each decision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from attrs import frozen

from fsm.cli.graphviz import draw
from fsm.errors import FsmError
from fsm.hypervisor.uris import safe_text
from fsm.journal.events import Decided
from fsm.journal.records import converter
from fsm.machine.diagram import dot
from fsm.machine.picture import machine
from fsm.machine.replay import TRANSITION_INTENT, TRANSITION_OUTCOME, Verdict
from fsm.machine.spec import Spec


@frozen
class Step:
    """A record, and what came of replaying it: a verdict, an error, or None where nothing was decided."""

    event: Decided
    came: Verdict | FsmError | None


def page(spec: Spec, steps: Sequence[Step]) -> str:
    """The page, in one piece: it opens from a file and asks no network for anything.

    Raises ``BadInput`` where Graphviz is not installed.
    """
    shown = machine(spec)
    arrows = {
        (row.trigger, row.source, row.dest): f"arrow-{number}"
        for number, arrow in enumerate(shown.arrows)
        for row in arrow.rows
    }
    svg = draw(dot(shown), "svg").decode()
    first, troubles = steps[0].event, sum(isinstance(step.came, FsmError) for step in steps)
    title = f"Migration {first.migration}, {first.at:%Y-%m-%d %H:%M:%S %Z}"
    data = {
        "title": title,
        "summary": f"{len(steps)} records on machine {spec.digest}, "
        + (f"{troubles} with trouble" if troubles else "all decided as recorded"),
        "steps": [_step(step, first, arrows) for step in steps],
    }
    # "<" in data could end the script; JSON has another way to write it.
    parts = {
        "%TITLE%": escape(title),
        "%SVG%": svg[svg.index("<svg") :],
        "%DATA%": json.dumps(data).replace("<", "\\u003c"),
    }
    template = files("fsm").joinpath("cli/replay_page.html").read_text("utf-8")
    for mark, text in parts.items():
        before, _, behind = template.partition(mark)
        template = before + text + behind
    return template


def _step(step: Step, first: Decided, arrows: dict[tuple[str, str, str], str]) -> dict[str, Any]:
    event, came = step.event, step.came
    moved = event.event == TRANSITION_OUTCOME and not event.error
    return {
        "sequence": event.sequence,
        "at": event.at.isoformat(),
        "elapsed_s": (event.at - first.at).total_seconds(),
        "kind": "decision" if event.event.endswith("-intent") else "outcome",
        "told": _told(event),
        "state": event.state,
        "after": event.dest if moved else event.state,
        "heading": event.dest if event.event == TRANSITION_INTENT else "",
        "moved": moved,
        "arrow": arrows.get((event.name, event.state, event.dest)),
        "error": safe_text(event.error),
        "verdict": str(came) if isinstance(came, Verdict) else "",
        "because": _because(came),
        "trouble": str(came) if isinstance(came, FsmError) else "",
        "observation": converter.unstructure(event.observation) if event.observation else None,
    }


def _because(came: object) -> str:
    row = came.row if isinstance(came, Verdict) else None
    return ", ".join(row.when) or "anything else" if row else ""


def _told(event: Decided) -> str:
    """A record in a few words."""
    failed = " failed" if event.error else ""
    match event.event:
        case "transition-intent":
            return f"{event.name}: {event.state} → {event.dest}"
        case "transition-outcome":
            return f"{event.name}{failed or ' done'}: " + (
                "still " + event.state if failed else "now " + event.dest
            )
        case "activity-intent":
            return f"activity {event.name}"
        case "request-outcome":
            return f"{event.name} asked for"
        case _:
            return f"{event.name}{failed or ' done'}"
