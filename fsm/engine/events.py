"""Makes the log's transition events, without anything that is a secret."""

from __future__ import annotations

from typing import Any

import msgspec
from attrs import define

from fsm.engine.plan import Request
from fsm.hypervisor.uris import safe_text
from fsm.journal import events
from fsm.journal.records import Data, Lease, Phase, Record, converter

# Data that is only ever read by people.
_SENTENCES = frozenset(
    {"findings", "accepted", "notes", "warning", "throttle", "abort", "cut", "cause", "remedy", "pulling"}
    | {"not_flattened"}
)


@define
class EventMaker:
    """Makes one migration's events, in the order of its records; each outcome names its intent."""

    migration: str
    request: Request
    lease: Lease
    _intent: int = 0

    def of(self, record: Record) -> dict[str, Any]:
        """The event's keys and values, ready for any JSON renderer."""
        if record.phase is Phase.INTENT:
            self._intent = record.sequence
        event = msgspec.structs.replace(
            events.of_record(self.migration, record),
            observation=None,
            error=safe_text(record.error),
            data=public(record.data),
            intent=self._intent if record.phase is Phase.OUTCOME else 0,
            engine=self.lease.holder,
            lease=self.lease.token,
            domain=self.request.domain,
            correlation=self.request.correlation,
        )
        fields: dict[str, Any] = msgspec.to_builtins(event)
        if record.observation is not None:
            # Complete, whatever the defaults of a later version will be.
            fields["observation"] = converter.unstructure(record.observation)
        return fields


def public(data: Data) -> Data:
    """What of a record's data may leave the journal."""
    return {key: _without_secrets(value) for key, value in data.items() if key in events.PUBLIC_DATA}


def told(data: Data) -> Data:
    """A step's data with its sentences free of secrets; what the engine works with is left as it is."""
    return {key: _without_secrets(value) if key in _SENTENCES else value for key, value in data.items()}


def _without_secrets(value: Any) -> Any:
    match value:
        case str():
            return safe_text(value)
        case dict():
            return {key: _without_secrets(one) for key, one in value.items()}
        case list() | tuple():
            return [_without_secrets(one) for one in value]
        case _:
            return value
