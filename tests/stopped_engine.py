"""A process with an engine that sends itself a signal in the middle of a migration: for the test of leases.

    python -m tests.stopped_engine JOURNAL SIGNAL CALL

Prints the migration, then, should it live on, how its engine ended and what it did after the signal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

import structlog

from fsm.engine import heart
from fsm.engine.engine import Engine
from fsm.engine.plan import MergeChoice, Request
from fsm.errors import FsmError
from fsm.hypervisor.port import CHANGES
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.journal.sql import open_journal
from tests.simulation import DESTINATION, SOURCE

# Long enough for a machine under load to beat in time, short enough to wait for.
LEASE_S, MARGIN_S = 8.0, 1.0


async def main(path: str, sent: str, call: str) -> None:
    """See above."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    heart.LEASE_S, heart.MARGIN_S = LEASE_S, MARGIN_S
    world = SimulatedWorld()
    world.add_host(SOURCE)
    world.add_host(DESTINATION)
    world.add_domain(SOURCE, "web", snapshots={"s1": None})
    before = 0

    def strike() -> None:
        nonlocal before
        before = len(world.calls)
        os.kill(os.getpid(), signal.Signals[sent])

    world.at(call, strike)
    async with Engine(open_journal(Path(path)), world, clock=world.clock) as engine:
        request = Request("web", source_uri=SOURCE, destination_uri=DESTINATION, merge=MergeChoice.COMMIT)
        handle = await engine.start(request)
        print(handle.migration, flush=True)  # noqa: T201  # what the test reads
        try:
            end = (await handle.wait()).state
        except FsmError as error:
            end = type(error).__name__
    acts = [one.name for one in world.calls[before:] if one.name in CHANGES]
    print(json.dumps({"end": end, "acts": acts}))  # noqa: T201  # as above


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
