"""A migration whose journal is lost at some point, and what ``fsm doctor --adopt`` makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest
from attrs import define, evolve

from fsm.engine.adoption import AdoptionRefused
from fsm.engine.cases import Case, Examined
from fsm.engine.engine import Engine
from fsm.engine.result import Result
from fsm.hypervisor.port import CHANGES
from fsm.hypervisor.simulated import Moment, SimulatedDisk
from fsm.hypervisor.values import Marker
from fsm.journal.records import Record
from fsm.journal.sql import SqlJournal
from fsm.machine.observation import Merge
from tests.simulation import DESTINATION, SOURCE, Simulation, check_end, fresh_journal, in_loop, simulate

HOSTS = (SOURCE, DESTINATION)


def _delete(journal: SqlJournal) -> None:
    Path(journal.location.partition(":")[2]).unlink()


async def lose_journal(simulation: Simulation) -> Engine:
    """An engine that knows nothing; the journal from before is gone."""
    await simulation.engine.close()
    _delete(simulation.journal)
    simulation.journal = fresh_journal()
    world = simulation.world
    simulation.engine = Engine(simulation.journal, world, clock=world.clock, deliver=in_loop)
    return simulation.engine


def kill_destination(simulation: Simulation) -> None:
    """QEMU there dies while the memory moves."""
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.kill_qemu(DESTINATION, uuid))


async def die_after(simulation: Simulation, count: int, merge: Merge = Merge.COMMIT, **also: object) -> str:
    """Drive until ``count`` records are written, then let go at once, as a killed process does."""
    died = asyncio.Event()

    def on_record(record: Record) -> None:
        simulation.write()
        if record.sequence >= count:
            died.set()

    request = simulation.request(merge=merge, **also)
    handle = await simulation.engine.start(request, on_record=on_record)
    await asyncio.wait(
        (asyncio.ensure_future(died.wait()), asyncio.ensure_future(handle.wait())),
        return_when=asyncio.FIRST_COMPLETED,
    )
    await handle.detach()
    return handle.migration


async def settle(simulation: Simulation) -> None:
    """Libvirt's own migration ends without an engine; a block commit becomes ready."""
    simulation.world.tick(1000)


def waiting(examined: tuple[Examined, ...]) -> list[Case]:
    """What an examination has found that has not ended, each once."""
    found = {case.migration: case for host in examined for case in host.cases if case.waits}
    return list(found.values())


async def adopt(engine: Engine, uris: tuple[str, ...] = HOSTS) -> Result | None:
    """What ``fsm doctor --adopt`` does; None where nothing waits."""
    examined = await engine.examine(uris)
    cases = waiting(examined)
    if not cases:
        return None
    (case,) = cases
    return await (await engine.adopt(case, examined)).wait()


async def adopted(engine: Engine, uris: tuple[str, ...] = HOSTS) -> Result:
    """The same, where something waits."""
    result = await adopt(engine, uris)
    assert result is not None
    return result


async def check_adopted(simulation: Simulation, result: Result | None) -> None:
    """The end is right; where nothing waited the domain is whole on the host that has it."""
    if result is None:
        there = await (await simulation.world.connect(DESTINATION)).domain(simulation.uuid)
        result = Result("", "web", "committed" if there else "rolled-back")
    assert result.state in ("committed", "rolled-back"), result
    await check_end(simulation, result)
    host = await simulation.world.connect(DESTINATION if result.state == "committed" else SOURCE)
    described = [
        evolve(one, xml=simulation.described_at(host.uri, one.xml)) for one in simulation.before.metadata
    ]
    assert list(await host.snapshots(simulation.uuid)) == described, "descriptions are lost"


async def marker_of(simulation: Simulation, uri: str = SOURCE) -> Marker:
    """The domain's marker on a host, which must be there."""
    facts = await (await simulation.world.connect(uri)).domain(simulation.uuid)
    assert facts is not None
    assert facts.marker is not None
    return facts.marker


async def mark(simulation: Simulation, **changes: object) -> None:
    """Change the domain's marker at the source."""
    host = await simulation.world.connect(SOURCE)
    await host.mark(simulation.uuid, evolve(await marker_of(simulation), **changes))


async def _after_start() -> int:
    """So many records are written when the domain is on its overlay, with the copies made."""
    simulation = await simulate()
    result = await simulation.migrate()
    records = simulation.journal.records(result.migration)
    return next(record.sequence for record in records if record.name == "copy-bases")


AFTER_START = asyncio.run(_after_start())


@define
class Lost:
    """A migration cut off while the bases were being copied, and an engine that does not know it."""

    simulation: Simulation
    migration: str
    engine: Engine

    async def examined(self, uris: tuple[str, ...] = HOSTS) -> tuple[Case, tuple[Examined, ...]]:
        examined = await self.engine.examine(uris)
        (case,) = waiting(examined)
        return case, examined

    async def refused(self, uris: tuple[str, ...] = HOSTS) -> str:
        """Why it is not adopted; nothing was done."""
        case, examined = await self.examined(uris)
        before = changes_of(self.simulation)
        with pytest.raises(AdoptionRefused) as refusal:
            await self.engine.adopt(case, examined)
        assert self.migration in str(refusal.value)
        assert refusal.value.remedy
        assert changes_of(self.simulation) == before
        assert self.engine.migrations() == []
        return f"{refusal.value}; {refusal.value.remedy}"

    async def marked(self, **changes: object) -> None:
        """Change the marker."""
        await mark(self.simulation, **changes)


def changes_of(simulation: Simulation) -> list[str]:
    """All changes so far."""
    harmless = {"mark", "release"}
    return [call.name for call in simulation.world.calls if call.name in CHANGES - harmless]


async def lose(disks: Iterable[SimulatedDisk | str] = ("vda", "vdb")) -> Lost:
    """Begin to migrate a domain of such disks, and lose the journal."""
    simulation = await simulate(disks)
    migration = await die_after(simulation, AFTER_START)
    return Lost(simulation, migration, await lose_journal(simulation))


@pytest.fixture
async def lost() -> Lost:
    return await lose()
