"""A migration on simulated hosts, with a guest that writes at every call, and what must hold at its end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from attrs import define, field, frozen

from fsm.engine.engine import Engine, Handle
from fsm.engine.plan import Request
from fsm.engine.result import Result
from fsm.hypervisor.simulated import GuestStopped, SimulatedWorld
from fsm.hypervisor.values import SnapshotMetadata
from fsm.journal.records import Record
from fsm.journal.sql import SqlJournal, open_journal

SOURCE, DESTINATION = "sim://alpha/system", "sim://beta/system"
SNAPSHOTS = {"s1": None, "s2": "s1", "s3": "s1"}
# In memory where that can be: what a power failure leaves of a journal is not what these tests are about.
_MEMORY = "/dev/shm"  # noqa: S108  # a directory of its own is made there
_JOURNALS = tempfile.TemporaryDirectory(prefix="fsm-test-", dir=_MEMORY if Path(_MEMORY).is_dir() else None)


@frozen
class Before:
    """What the domain was like before its migration."""

    contents: dict[tuple[str, str], dict[int, bytes]]
    metadata: tuple[SnapshotMetadata, ...]
    definition: str
    files: dict[str, list[str]]
    pools: dict[str, dict[str, bool]]


@define
class Simulation:
    """Two hosts, one domain with snapshots, an engine with a journal of its own."""

    world: SimulatedWorld
    uuid: str
    before: Before
    journal: SqlJournal
    engine: Engine
    records: list[Record] = field(factory=list)
    written: int = 0

    def write(self) -> None:
        """The guest writes a new block to each disk, if it runs."""
        if len(self.world.running_at(self.uuid)) == 1:
            self.written += 1
            with suppress(GuestStopped):  # such a write was not acknowledged
                for target in ("vda", "vdb"):
                    block, content = 100 + self.written % 50, f"w{self.written}".encode()
                    self.world.guest_write(self.uuid, target, block, content)

    def request(self, **changes: object) -> Request:
        """The plain request, with changes."""
        wanted = {"domain": "web", "source_uri": SOURCE, "destination_uri": DESTINATION, **changes}
        return Request(**wanted)  # type: ignore[arg-type]

    async def start(self, **changes: object) -> Handle:
        """Begin to migrate; the guest writes whenever a record is written."""

        def on_record(record: Record) -> None:
            self.records.append(record)
            self.write()

        return await self.engine.start(self.request(**changes), on_record=on_record)

    async def migrate(self, **changes: object) -> Result:
        """Migrate to the end."""
        return await (await self.start(**changes)).wait()

    @property
    def path(self) -> list[str]:
        """The states that the migration went through."""
        done = [r for r in self.records if r.step == "transition" and r.phase == "outcome" and not r.error]
        return ["planned", *(record.dest for record in done)]


def fresh_journal() -> SqlJournal:
    """A journal that nobody has written to."""
    return open_journal(Path(tempfile.mkdtemp(dir=_JOURNALS.name)) / "journal.db")


async def simulate(disks: Iterable[str] = ("vda", "vdb"), destination: str = DESTINATION) -> Simulation:
    """A fresh world."""
    world = SimulatedWorld()
    world.add_host(SOURCE)
    world.add_host(destination)
    world.add_pool(SOURCE, "/var/lib/libvirt/images")
    uuid = world.add_domain(SOURCE, "web", disks=disks, snapshots=SNAPSHOTS)
    source = await world.connect(SOURCE)
    before = Before(
        contents=world.snapshot_contents(SOURCE, uuid),
        metadata=await source.snapshots(uuid),
        definition=await source.persistent_xml(uuid),
        files={uri: world.files(uri) for uri in (SOURCE, destination)},
        pools={uri: world.pools(uri) for uri in (SOURCE, destination)},
    )
    await source.close()
    world.calls.clear()
    journal = fresh_journal()
    return Simulation(world, uuid, before, journal, Engine(journal, world, clock=world.clock))


async def check_end(simulation: Simulation, result: Result) -> None:
    """What must hold however the migration ended."""
    world, uuid = simulation.world, simulation.uuid
    world.faults.clear()
    assert len(world.running_at(uuid)) <= 1, "two instances run"
    home = DESTINATION if result.state == "committed" else SOURCE
    if result.state in ("stuck", "snapshotted"):
        homes = [uri for uri in (SOURCE, DESTINATION) if world.active_at(uuid) == [uri]]
        home = homes[0] if homes else home
    assert world.lost_writes(uuid, at=home) == [], "acknowledged writes are lost"
    found = world.snapshot_contents(home, uuid)
    assert {key: found.get(key) for key in simulation.before.contents} == simulation.before.contents
    if result.state == "stuck":
        return
    host = await world.connect(home)
    after = await host.snapshots(uuid)
    assert _essence(after) == _essence(simulation.before.metadata), "snapshot metadata differs"
    other = SOURCE if home == DESTINATION else DESTINATION
    assert await (await world.connect(other)).domain(uuid) is None, "the other host has the domain too"
    facts = await host.domain(uuid)
    assert facts is not None
    assert facts.marker is None
    assert await host.persistent_xml(uuid) == simulation.before.definition
    assert all(len(disk.chain) == 1 and disk.block_job is None for disk in facts.disks)
    left = {uri: [path for path in world.files(uri) if "fsm-" in path] for uri in (SOURCE, DESTINATION)}
    assert left == {SOURCE: [], DESTINATION: []}, "overlays are left behind"
    if result.state != "committed":
        assert world.files(DESTINATION) == simulation.before.files[DESTINATION], "copies are left behind"
    for uri in (SOURCE, DESTINATION):
        assert world.pools(uri) == simulation.before.pools[uri], "a storage pool is left behind"


def _essence(snapshots: Iterable[SnapshotMetadata]) -> set[tuple[str, str | None, bool]]:
    return {(snapshot.name, snapshot.parent, snapshot.current) for snapshot in snapshots}
