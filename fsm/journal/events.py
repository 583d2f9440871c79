"""The log's transition events: one JSON object for every record of the journal, in a format of its own.

The type below is the format: the engine writes it, replay reads it, ``docs/event.schema.json`` is generated
from it. Within one ``VERSION`` keys may be added, and none is removed or changes its meaning.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from fsm.errors import JournalCorrupt
from fsm.journal.records import Phase, Record, Step
from fsm.machine.observation import Observation

VERSION: Literal[1] = 1

Kind = Literal[
    "transition-intent",
    "transition-outcome",
    "action-outcome",
    "activity-intent",
    "activity-outcome",
    "request-outcome",
]

# What of a record's data may be told to everybody, and what it means. Whatever is not named here stays in the
# journal: plans and snapshots embed domain XML, and that may hold passwords.
PUBLIC_DATA = {
    "preflight": "preflight's verdict",
    "findings": "what preflight found against the migration",
    "accepted": "findings that the user takes on himself",
    "notes": "what preflight tells that stands against nothing",
    "merge": "how the overlays will be merged at the destination",
    "merge_reason": "why in that way",
    "warning": "what may go wrong, and what to do",
    "pools": "how directories were covered by storage pools before",
    "probes": "files made at the source to see whether they appear at the destination, and removed again",
    "shared": "disks whose bases both hosts share",
    "placed": "where the copies of disks lie at the destination, if not at their originals' paths",
    "destination_name": "what the domain is called at the destination, if it is renamed",
    "created": "files made at the destination",
    "kept_bytes": "bytes of interrupted copies that were found at the destination and kept",
    "compression": "that the link was slow, and whether bases were compressed on their way",
    "copies_verified": "all copies are made and compared",
    "durable_with_commit": "copies that reach stable storage with the commit's end only",
    "committed_bytes": "bytes that the commit has merged",
    "started_paused": "a shut-off domain was started paused, for its commit",
    "throttled": "disks to which the guest's writes may be throttled",
    "throttle": "why they could not be throttled",
    "abort": "why libvirt's job could not be aborted",
    "cut": "why the migration's connections could not be cut",
    "left_behind": "what could not be removed, such as on a host that is off",
    "removing": "bases of the source that are about to be removed, as was asked for",
    "removed": "those of them that are gone",
    "flattening": "disks that are about to be flattened at the destination, as was asked for",
    "pulling": "those of them whose block pull has begun, and what shows how far it is",
    "not_flattened": "those whose block pull could not be begun, and why",
    "accept_loss": "snapshots taken into the overlays that may vanish",
    "fenced": "hosts that the operator attests to be off",
    "unfenced": "hosts that are back: that word does not count any more",
    "cause": "why a row was taken that leads away from success",
    "remedy": "what to do about the error or the cause",
}
_DATA_SCHEMA = {
    "properties": {name: {"description": meaning} for name, meaning in PUBLIC_DATA.items()},
    "additionalProperties": False,
}


class Decided(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What replay reads of an event: of a record, all but its data."""

    event: Annotated[Kind, Meta(description="The record's step and phase.")]
    schema: Annotated[Literal[1], Meta(description="The version of this format.")]
    migration: Annotated[str, Meta(description="The migration's id; it joins all its events.")]
    sequence: Annotated[
        int, Meta(ge=1, description="The record's number within the migration, without gaps.")
    ]
    at: Annotated[datetime, Meta(tz=True, description="When the record was written.")]
    name: Annotated[str, Meta(description="The trigger, action, activity or request.")]
    state: Annotated[str, Meta(description="The machine's state when the record was written.")]
    spec_digest: Annotated[str, Meta(description="The digest of the states.yaml that decided.")]
    dest: Annotated[str, Meta(description="The state that the transition leads to.")] = ""
    observation: Annotated[
        Observation | None, Meta(description="What the decision was made from; every intent has it.")
    ] = None
    error: Annotated[str, Meta(description="Why the step failed; absent when it did not.")] = ""
    lease: Annotated[int, Meta(description="That engine's lease; each take-over has a greater one.")] = 0


class Event(Decided, frozen=True, omit_defaults=True, gc=False):
    """One record of a migration's history, as the log has it."""

    data: Annotated[
        dict[str, Any], Meta(description="What the step found or did.", extra_json_schema=_DATA_SCHEMA)
    ] = {}
    intent: Annotated[int, Meta(description="The sequence of the intent that this is an outcome of.")] = 0
    engine: Annotated[str, Meta(description="The engine that drives the migration.")] = ""
    domain: Annotated[str, Meta(description="The domain as the user named it.")] = ""
    correlation: Annotated[str, Meta(description="The caller's own id for the request.")] = ""


decode = msgspec.json.Decoder(Decided).decode
"""The event in a line of JSON. Raises ``msgspec.DecodeError``, a ``ValueError``, if there is none."""
_decode_observation = msgspec.json.Decoder(Observation).decode


def kind_of(step: Step, phase: Phase) -> Kind:
    """The event's name for such a record."""
    kind: Kind = msgspec.convert(f"{step.value}-{phase.value}", Kind)
    return kind


def of_record(migration: str, record: Record) -> Event:
    """A record as an event, with nothing of its data. Raises ``ValueError`` for one without a time."""
    if record.at is None:
        raise ValueError(f"record {record.sequence} has no time")
    return Event(
        event=kind_of(record.step, record.phase),
        schema=VERSION,
        migration=migration,
        sequence=record.sequence,
        at=record.at,
        name=record.name,
        state=record.state,
        spec_digest=record.spec_digest,
        dest=record.dest,
        observation=record.observation,
        error=record.error,
    )


class _Row(msgspec.Struct, array_like=True, gc=False):
    """What a row of the journal's table must hold, in the order of ``COLUMNS``."""

    migration: str
    sequence: int
    at: datetime
    step: str
    phase: str
    name: str
    state: str
    spec_digest: str
    dest: str
    observation: str | None
    error: str


COLUMNS = _Row.__struct_fields__
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}


def of_row(values: tuple[Any, ...]) -> Decided:
    """The same straight from a row of the journal's table, its ``COLUMNS``. Raises ``JournalCorrupt``."""
    try:
        row = msgspec.convert(values, _Row)
        seen = row.observation
        return Decided(
            _KINDS[f"{row.step}-{row.phase}"],
            VERSION,
            row.migration,
            row.sequence,
            row.at,
            row.name,
            row.state,
            row.spec_digest,
            row.dest,
            None if seen is None else _decode_observation(seen),
            row.error,
        )
    except (msgspec.MsgspecError, KeyError, RecursionError) as error:
        message = f"record {values[1]} of migration {values[0]} can't be read: {error}"
        raise JournalCorrupt(message) from error


def json_schema() -> dict[str, Any]:
    """The format as a JSON Schema (draft 2020-12)."""
    described = msgspec.json.schema(Event)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Transition event of fsm's log, version {VERSION}",
        **described,
    }
