"""What domains a host has, for whoever decides which of them to migrate."""

from __future__ import annotations

from fsm.hypervisor.port import Connector
from fsm.hypervisor.values import DomainFacts


async def inventory(connector: Connector, uri: str) -> tuple[DomainFacts, ...]:
    """All domains of the host at ``uri``, by name. Raises ``HostUnreachable``."""
    host = await connector.connect(uri)
    try:
        # One after the other: calls that wait behind each other would come to their deadlines.
        found = [await host.domain(uuid) for uuid in await host.domains()]
    finally:
        await host.close()
    # None: it was there a moment ago.
    return tuple(sorted((facts for facts in found if facts is not None), key=lambda facts: facts.name))
