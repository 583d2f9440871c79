"""The reference of the log's events, for readers; ``event.schema.json`` is the same for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from fsm.journal.events import PUBLIC_DATA, VERSION, Kind, json_schema
from fsm.machine.observation import Observation

_HEAD = f"""\
# The log's events

Generated from `fsm/journal/events.py`; change that, never this page. Every record of the journal is one event
of the log, a JSON object on a line, with `fsm -v` as with an embedder's own log.
[event.schema.json](event.schema.json) is the same for programs, version {VERSION}: within a version keys may
be added, and none is removed or changes its meaning. [replay.md](replay.md#the-log) tells which keys join
what belongs together.

| event | when |
| --- | --- |
"""
_WHEN: Mapping[Kind, str] = {
    "transition-intent": "a transition was decided, before its first action",
    "transition-outcome": "the transition is done and the state has changed; with `error`: it failed, "
    "and the state is as before",
    "action-outcome": "one action of a transition, or one step within an activity, is done or has failed",
    "activity-intent": "a state's activity begins, is taken over or is tried again",
    "activity-outcome": "the activity is done or has failed",
    "request-outcome": "somebody has asked for an abort, a retry or a rescue, and it has been taken up",
}


def markdown() -> str:
    """The page: the kinds of events, the keys of each, what `data` may hold, and what an observation has."""
    schema = json_schema()
    event = schema["$defs"]["Event"]
    parts = [_HEAD + "".join(f"| `{kind}` | {_WHEN[kind]} |\n" for kind in get_args(Kind))]
    parts += ["## Keys\n\n| key | always there | meaning |\n| --- | --- | --- |\n" + "".join(_keys(event))]
    data = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in PUBLIC_DATA.items())
    parts += [f"## What `data` may hold\n\n| key | meaning |\n| --- | --- |\n{data}"]
    seen = "".join(f"| {who} | {names} |\n" for who, names in _observed(schema["$defs"]))
    parts += [f"## What an observation has\n\n| of | what is known |\n| --- | --- |\n{seen}"]
    return "\n".join(parts)


def _observed(defined: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, described in defined[Observation.__name__]["properties"].items():
        reference = described.get("$ref") or next(one["$ref"] for one in described["anyOf"] if "$ref" in one)
        keys = defined[reference.rpartition("/")[2]]["properties"]
        yield f"`{name}`", ", ".join(f"`{key}`" for key in keys)


def _keys(event: Mapping[str, Any]) -> Iterator[str]:
    for name, described in event["properties"].items():
        always = "yes" if name in event["required"] else ""
        yield f"| `{name}` | {always} | {_description(described)} |\n"


def _description(described: Mapping[str, Any]) -> str:
    return str(described.get("description", ""))
