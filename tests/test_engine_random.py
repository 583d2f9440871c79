"""Random accidents, several in one migration, with engines that die and others that take over.

When the accidents stop, the migration comes to its end and nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from attrs import frozen
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from fsm.engine.engine import Engine
from fsm.engine.result import Result
from fsm.errors import HostUnreachable, NotFound
from fsm.hypervisor.simulated import Moment
from fsm.hypervisor.simulated.state import Missing
from fsm.journal.records import Record
from fsm.machine.observation import DomainState
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, simulate

MOMENTS = tuple(Moment)
CALLS = (
    "create_overlays",
    "create_sparse",
    "create_overlay",
    "forget_snapshots",
    "define_snapshots",
    "migrate",
    "start_commit",
    "pivot",
    "remove",
    "release",
    "domain",
    "stat",
    "snapshots",
    "make_durable",
    "writer",
    "read",
)
LIVES = 6


@frozen
class FailingCall:
    """Some calls of the port fail."""

    call: str
    host: str
    nth: int
    times: int
    when: str
    gone: bool

    def arm(self, simulation: Simulation) -> None:
        """Prepare it."""
        error: Callable[[], BaseException] | None = None
        if self.gone:
            error = lambda: HostUnreachable("gone", host=self.host, call=self.call)  # noqa: E731
        simulation.world.fail(
            self.call, host=self.host, nth=self.nth, times=self.times, when=self.when, error=error
        )


@frozen
class Accident:
    """Something happens at a moment of the migration or the commit."""

    moment: Moment
    what: str

    def arm(self, simulation: Simulation) -> None:
        """Prepare it."""
        world, uuid = simulation.world, simulation.uuid
        happens: dict[str, Callable[[], None]] = {
            "kill-destination-qemu": lambda: world.kill_qemu(DESTINATION, uuid),
            "restart-source-libvirtd": lambda: world.restart_libvirtd(SOURCE),
            "restart-destination-libvirtd": lambda: world.restart_libvirtd(DESTINATION),
            "cut": lambda: world.cut(SOURCE, DESTINATION),
            "guest-power-off": lambda: world.power_off_guest(uuid),
            "destination-full": lambda: world.set_free_bytes(DESTINATION, "/var/lib/libvirt/images", 0),
            "source-full": lambda: world.set_free_bytes(SOURCE, "/var/lib/libvirt/images", 0),
        }

        def happen() -> None:
            simulation.write()
            with suppress(Missing):  # there is no such domain now: then nothing happens to it
                happens[self.what]()

        world.at_moment(uuid, self.moment, happen)


failing_calls = st.builds(
    FailingCall,
    call=st.sampled_from(CALLS),
    host=st.sampled_from((SOURCE, DESTINATION)),
    nth=st.integers(1, 6),
    times=st.integers(1, 4),
    when=st.sampled_from(("before", "after")),
    gone=st.booleans(),
)
accidents = st.builds(
    Accident,
    moment=st.sampled_from(MOMENTS),
    what=st.sampled_from(
        (
            "kill-destination-qemu",
            "restart-source-libvirtd",
            "restart-destination-libvirtd",
            "cut",
            "guest-power-off",
            "destination-full",
            "source-full",
        )
    ),
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    faults=st.lists(failing_calls | accidents, max_size=4),
    deaths=st.lists(st.integers(1, 30), max_size=2),
    abort=st.booleans(),
)
def test_any_accidents_lose_nothing(
    faults: list[FailingCall | Accident],
    deaths: list[int],
    abort: bool,  # noqa: FBT001  # drawn by Hypothesis
) -> None:
    asyncio.run(_live_through(faults, deaths, abort=abort))


async def _live_through(faults: list[FailingCall | Accident], deaths: list[int], *, abort: bool) -> None:
    simulation = await simulate()
    for fault in faults:
        fault.arm(simulation)
    handle = await simulation.engine.start(simulation.request())
    migration = handle.migration
    await handle.detach()
    result = None
    for count in deaths:
        result = await _drive(simulation, migration, die_after=count)
    _stop_the_accidents(simulation)
    if abort:
        simulation.journal.ask(migration, "abort", {})
    for _ in range(LIVES):
        simulation.journal.ask(migration, "retry", {})
        result = await _drive(simulation, migration, die_after=None)
        assert result is not None
        if result.state != "stuck":
            break
        _stop_the_accidents(simulation)
    records = simulation.journal.records(migration)
    path = [(record.sequence, record.state, record.name, record.error) for record in records]
    note(f"{result}; path: {path}")
    assert result is not None
    assert result.state in ("committed", "rolled-back", "refused")
    await check_end(simulation, result)


async def _drive(simulation: Simulation, migration: str, *, die_after: int | None) -> Result | None:
    """Take the migration over; let go of it after so many records."""
    engine = Engine(simulation.journal, simulation.world, clock=simulation.world.clock)
    died = asyncio.Event()
    written = 0

    def on_record(_record: Record) -> None:
        nonlocal written
        written += 1
        simulation.write()
        if written == die_after:
            died.set()

    handle = await engine.resume(migration, on_record=on_record)
    ends = asyncio.ensure_future(handle.wait()), asyncio.ensure_future(died.wait())
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not ends[0].done():
        await handle.detach()
    for end in ends:
        end.cancel()
    await asyncio.wait(ends)
    await engine._heart.stop()
    return None if ends[0].cancelled() else ends[0].result()


def _stop_the_accidents(simulation: Simulation) -> None:
    world = simulation.world
    world.faults.clear()
    world._moments.clear()
    world.mend(SOURCE, DESTINATION)
    for uri in (SOURCE, DESTINATION):
        world.set_free_bytes(uri, "/var/lib/libvirt/images", 1 << 40)


def test_the_guest_did_write() -> None:
    """The property above would hold for a guest that never writes."""

    async def run() -> None:
        simulation = await simulate()
        await simulation.migrate()
        assert simulation.written > 10
        host = await simulation.world.connect(DESTINATION)
        facts = await host.domain(simulation.uuid)
        assert facts is not None
        assert facts.state is DomainState.RUNNING
        try:
            await (await simulation.world.connect(SOURCE)).resolve(simulation.uuid)
        except NotFound:
            return
        raise AssertionError("the source still has the domain")

    asyncio.run(run())
