"""Between the journal's values and the rows of its tables. What can't be read back is ``JournalCorrupt``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from sqlite3 import Row
from typing import Any

from fsm.errors import JournalCorrupt
from fsm.journal.records import Asked, Data, Header, Phase, Record, Step, converter
from fsm.machine.observation import Observation

# SQLite may hold other types than its columns say.
_TEXTS_OF_A_HEADER = (
    "migration",
    "domain",
    "domain_uuid",
    "source_uri",
    "destination_uri",
    "state",
    "heading_for",
)
_TEXTS_OF_A_RECORD = ("spec_digest", "name", "state", "dest", "error")
_TRUTH = {0: False, 1: True}


def header_values(header: Header) -> dict[str, Any]:
    return {
        "migration": header.migration,
        "created": header.created.isoformat(),
        "updated": header.updated.isoformat() if header.updated else None,
        "domain": header.domain,
        "domain_uuid": header.domain_uuid,
        "source_uri": header.source_uri,
        "destination_uri": header.destination_uri,
        "state": header.state,
        "heading_for": header.heading_for,
        "final": header.final,
        "request": json.dumps(header.request),
    }


def header(row: Row) -> Header:
    values = dict(row)
    try:
        for name in ("created", "updated"):
            values[name] = datetime.fromisoformat(values[name]) if values[name] else None
        values["request"] = _object(values["request"])
        values["final"] = _TRUTH[values["final"]]
        _expect(str, values, _TEXTS_OF_A_HEADER)
        return Header(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise JournalCorrupt(
            f"the header of migration {values.get('migration')} can't be read: {error}"
        ) from error


def asked(row: Row) -> Asked:
    try:
        return Asked(row["request"], row["migration"], row["name"], _object(row["data"]))
    except (ValueError, TypeError) as error:
        what = f"request {row['request']} of migration {row['migration']}"
        raise JournalCorrupt(f"{what} can't be read: {error}") from error


def _object(text: str) -> Data:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"a JSON object was expected, not {text[:40]!r}")
    return value


def _expect(kind: type, values: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(values[name], kind):
            raise TypeError(f"{name} is {values[name]!r}")


def record_values(record: Record) -> dict[str, Any]:
    seen = record.observation
    return {
        "sequence": record.sequence,
        "at": record.at.isoformat() if record.at else "",
        "spec_digest": record.spec_digest,
        "step": str(record.step),
        "phase": str(record.phase),
        "name": record.name,
        "state": record.state,
        "dest": record.dest,
        # It may quote what an image or a host has, which need not be text.
        "error": record.error.encode("utf-8", "backslashreplace").decode(),
        "observation": None if seen is None else json.dumps(converter.unstructure(seen)),
        "data": json.dumps(record.data),
    }


def record(row: Row) -> Record:
    values = dict(row)
    migration = values.pop("migration")
    try:
        seen = values["observation"]
        values["observation"] = None if seen is None else converter.structure(json.loads(seen), Observation)
        values["step"], values["phase"] = Step(values["step"]), Phase(values["phase"])
        values["at"], values["data"] = datetime.fromisoformat(values["at"]), _object(values["data"])
        _expect(str, values, _TEXTS_OF_A_RECORD)
        _expect(int, values, ("sequence",))
        return Record(**values)
    # cattrs raises an ExceptionGroup of its own for malformed structures.
    except (ValueError, TypeError, KeyError, ExceptionGroup) as error:
        sequence = values.get("sequence")
        raise JournalCorrupt(f"record {sequence} of migration {migration} can't be read: {error}") from error
