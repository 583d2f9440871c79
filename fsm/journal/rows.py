"""Between the journal's values and the rows of its tables. What can't be read back is ``JournalCorrupt``."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Row, Table

from fsm.errors import JournalCorrupt
from fsm.journal import tables
from fsm.journal.records import Data, Header, Phase, Record, Step, converter
from fsm.machine.observation import Observation

# Columns whose text stands for a value of another type.
_DECODED = frozenset({"created", "updated", "request", "at", "observation", "data", "step", "phase"})


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


def header(row: Row[Any]) -> Header:
    values = dict(row._mapping)
    try:
        for name in ("created", "updated"):
            values[name] = datetime.fromisoformat(values[name]) if values[name] else None
        values["request"] = _object(values["request"])
        _check_types(values, tables.migrations)
        return Header(**values)
    except (ValueError, TypeError) as error:
        raise JournalCorrupt(
            f"the header of migration {values.get('migration')} can't be read: {error}"
        ) from error


def _object(text: str) -> Data:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"a JSON object was expected, not {text[:40]!r}")
    return value


def _check_types(values: dict[str, Any], table: Table) -> None:
    """A database may hold other types than its columns say (SQLite does)."""
    for name, kind in _types(table):
        if name in values and not isinstance(values[name], kind):
            raise TypeError(f"{name} is {values[name]!r}")


@cache
def _types(table: Table) -> tuple[tuple[str, type], ...]:
    columns = table.columns.items()
    return tuple((name, column.type.python_type) for name, column in columns if name not in _DECODED)


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
        "error": record.error,
        "observation": None if seen is None else json.dumps(converter.unstructure(seen)),
        "data": json.dumps(record.data),
    }


def record(row: Row[Any]) -> Record:
    values = dict(row._mapping)
    migration = values.pop("migration")
    try:
        seen = values["observation"]
        values["observation"] = None if seen is None else converter.structure(json.loads(seen), Observation)
        values["step"], values["phase"] = Step(values["step"]), Phase(values["phase"])
        values["at"], values["data"] = datetime.fromisoformat(values["at"]), _object(values["data"])
        _check_types(values, tables.records)
        return Record(**values)
    # cattrs raises an ExceptionGroup of its own for malformed structures.
    except (ValueError, TypeError, KeyError, ExceptionGroup) as error:
        sequence = values.get("sequence")
        raise JournalCorrupt(f"record {sequence} of migration {migration} can't be read: {error}") from error
