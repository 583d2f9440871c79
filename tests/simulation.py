"""A migration on simulated hosts, with a guest that writes at every call, and what must hold at its end."""

from __future__ import annotations

import asyncio
import copy
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from attrs import define, field, frozen

from fsm.engine import heart
from fsm.engine.engine import Engine
from fsm.engine.handle import Handle
from fsm.engine.plan import MergeChoice, Request
from fsm.engine.result import Result
from fsm.hypervisor.simulated import (
    CallRecord,
    GuestStopped,
    SimulatedDisk,
    SimulatedWorld,
    WorldState,
    domains,
    snapshots,
)
from fsm.hypervisor.values import SnapshotMetadata
from fsm.images import workers
from fsm.journal.records import Record
from fsm.journal.sql import SqlJournal, open_journal
from fsm.machine.observation import DomainState

SOURCE, DESTINATION = "sim://alpha/system", "sim://beta/system"
IMAGES = "/var/lib/libvirt/images"
SHARED = "/srv/shared"
ON_SHARED = tuple(SimulatedDisk(target, f"{SHARED}/web-{target}.qcow2") for target in ("vda", "vdb"))
"""The disks of a domain on a file system that both hosts see."""
TEMPLATE = f"{IMAGES}/template.raw"
ON_TEMPLATE = tuple(SimulatedDisk(target, backing=(TEMPLATE, "raw")) for target in ("vda", "vdb"))
"""The disks of a domain on a common template, which the destination does not have."""
RENAMED = "mail"
PLACED = ("vda=/srv/first.qcow2", f"vdb={IMAGES}/web-vda.qcow2")
"""Other places for the copies, one of them that of another's original."""
SNAPSHOTS = {"s1": None, "s2": "s1", "s3": "s1"}
# Where flushing costs nothing: what a disk keeps is tested with the journal itself.
_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108
_FILES = tempfile.TemporaryDirectory(prefix="simulated-", dir=_MEMORY)


@frozen
class Before:
    """What the domain was like before its migration. ``layers`` is how many each disk has."""

    contents: dict[tuple[str, str], dict[int, bytes]]
    metadata: tuple[SnapshotMetadata, ...]
    definition: str
    files: dict[str, list[str]]
    pools: dict[str, dict[str, bool]]
    layers: int = 1

    @classmethod
    def of(
        cls, world: SimulatedWorld, uuid: str, destination: str = DESTINATION, *, layers: int = 1
    ) -> Before:
        """The domain as it is now, at the source."""
        source = world.state.hosts[SOURCE]
        return cls(
            contents=world.snapshot_contents(SOURCE, uuid),
            metadata=snapshots.listed(source, uuid),
            definition=domains.persistent_xml(source, uuid),
            files={uri: world.files(uri) for uri in (SOURCE, destination)},
            pools={uri: world.pools(uri) for uri in (SOURCE, destination)},
            layers=layers,
        )


@define
class Simulation:
    """Two hosts, one domain with snapshots, an engine with a journal of its own."""

    world: SimulatedWorld
    uuid: str
    before: Before
    journal: SqlJournal
    records: list[Record] = field(factory=list)
    written: int = 0
    second_at: str = ""
    moved: dict[str, str] = field(factory=dict)
    renamed: str = ""
    taken: set[str] = field(factory=set)

    @cached_property
    def engine(self) -> Engine:
        """One for those who need no more than one; ``tests.lives`` has others."""
        return Engine(self.journal, self.world, clock=self.world.clock, deliver=in_loop)

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.journal._file.path

    def open_again(self) -> None:
        """Open the journal once more, which an engine has closed."""
        self.journal = open_journal(self.journal_path)

    def put_away(self) -> None:
        """It is over, and nobody needs its journal any more."""
        self.journal.close()
        shutil.rmtree(self.journal_path.parent, ignore_errors=True)

    def write(self) -> None:
        """The guest writes a new block to each disk, if it runs.

        It never runs twice, unless an operator has started a second instance: ``second_at`` that host.
        """
        running = self.world.running_at(self.uuid)
        assert len(running) <= 1 or self.second_at, "two instances run"
        if len(running) == 1:
            self.written += 1
            with suppress(GuestStopped):  # such a write was not acknowledged
                for target in ("vda", "vdb"):
                    block, content = 100 + self.written % 50, f"w{self.written}".encode()
                    self.world.guest_write(self.uuid, target, block, content)

    def described_at(self, uri: str, xml: str) -> str:
        """A description from before as that host is to have it: with its own names of domain and files."""
        moved = self.moved if uri == DESTINATION else {}
        if self.renamed and uri == DESTINATION:
            xml = xml.replace("<name>web</name>", f"<name>{self.renamed}</name>")
        return re.sub(r'(?<=file=")[^"]*', lambda path: moved.get(path[0], path[0]), xml)

    def request(self, **changes: object) -> Request:
        """The plain request, by commit, with changes."""
        mapped = (entry.partition("=") for entry in cast(tuple[str, ...], changes.get("disk_map", ())))
        self.renamed = cast(str, changes.get("destination_name", ""))
        self.moved = {f"{IMAGES}/web-{target}.qcow2": path for target, _, path in mapped}
        wanted = {
            "domain": "web",
            "merge": MergeChoice.COMMIT,
            "source_uri": SOURCE,
            "destination_uri": DESTINATION,
            **changes,
        }
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

    @property
    def planned(self) -> dict[str, Any]:
        """What preflight has put into the journal."""
        (data,) = [record.data for record in self.records if record.data.get("preflight")]
        return data


def numbered_calls(simulation: Simulation) -> list[tuple[CallRecord, tuple[str, str, int]]]:
    """Every call of the port so far: its name, its host, and the how-manieth it was of that kind."""
    counts: Counter[tuple[str, str]] = Counter()
    numbered = []
    for call in simulation.world.calls:
        counts[call.name, call.host] += 1
        numbered.append((call, (call.name, call.host, counts[call.name, call.host])))
    return numbered


def in_loop(call: Callable[[], None]) -> None:
    """Callbacks in the loop's own thread, so that they may change the world, and every run is the same."""
    asyncio.get_running_loop().call_soon(call)


class Inline(ThreadPoolExecutor):
    """Does in the caller's thread what others do in their own, so that every run is the same."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """See ``concurrent.futures.Executor``."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except BaseException as error:  # noqa: BLE001  # raised where the future is awaited
            future.set_exception(error)
        return future


class _Ended:
    """A thread that has returned."""

    def join(self) -> None:
        """See ``threading.Thread``."""


@contextmanager
def without_threads() -> Iterator[None]:
    """Bases are copied, and hearts beat, in the event loop's thread as well."""

    def run(crew: Any, body: Callable[[], None], _name: str) -> None:
        end = asyncio.get_running_loop().create_future()
        crew.ends.append(end)
        crew._threads.append(_Ended())
        body()
        end.set_result(None)

    with patch.object(workers._Crew, "_spawn", run), patch.object(heart, "ThreadPoolExecutor", Inline):
        yield


@cache
def _beginning(
    disks: tuple[SimulatedDisk | str, ...], destination: str, state: DomainState
) -> tuple[WorldState, str, Before]:
    """The world and the domain, made once and then copied."""
    world = SimulatedWorld()
    world.add_host(SOURCE)
    world.add_host(destination)
    world.add_filesystem(SOURCE, destination, mount=SHARED, size_bytes=1 << 40)
    world.add_pool(SOURCE, IMAGES)
    if ON_TEMPLATE[0] in disks:
        # Written by other steps than its copy is: simulated files count them in place of a time.
        pieces = {number * 4096: b"block" for number in range(5)}
        world.put_file(SOURCE, TEMPLATE, pieces, size_bytes=8 << 20)
    uuid = world.add_domain(SOURCE, "web", disks=disks, snapshots=SNAPSHOTS, state=state)
    before = Before.of(world, uuid, destination, layers=2 if ON_TEMPLATE[0] in disks else 1)
    return world.state, uuid, before


def fresh_journal() -> SqlJournal:
    """A journal in which nothing is written."""
    return open_journal(Path(tempfile.mkdtemp(dir=_FILES.name)) / "journal.db")


async def simulate(
    disks: Iterable[SimulatedDisk | str] = ("vda", "vdb"),
    destination: str = DESTINATION,
    state: DomainState = DomainState.RUNNING,
) -> Simulation:
    """A fresh world."""
    asyncio.get_running_loop().set_default_executor(Inline())
    world, uuid, before = copy.deepcopy(_beginning(tuple(disks), destination, state))
    return Simulation(SimulatedWorld(state=world), uuid, before, fresh_journal())


async def check_end(simulation: Simulation, result: Result, also: Collection[str] = ()) -> None:
    """What must hold however the migration ended. ``also`` names snapshots taken into the bases meanwhile."""
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
    newer = [snapshot for snapshot in after if snapshot.name in also]
    described = {one.name: simulation.described_at(home, one.xml) for one in simulation.before.metadata}
    assert {one.name: one.xml for one in after if one not in newer} == described
    wanted = _essence(simulation.before.metadata)
    if any(snapshot.current for snapshot in newer):
        wanted = {(name, parent, False) for name, parent, _ in wanted}
    assert _essence(after) - _essence(newer) == wanted, "snapshot metadata differs"
    other = SOURCE if home == DESTINATION else DESTINATION
    assert await (await world.connect(other)).domain(uuid) is None, "the other host has the domain too"
    facts = await host.domain(uuid)
    assert facts is not None
    assert facts.marker is None
    described_now = simulation.described_at(home, simulation.before.definition)
    assert await host.persistent_xml(uuid) == described_now
    # Of a domain that is shut off, the active layer alone is known.
    known = 1 if facts.state is DomainState.SHUT_OFF else simulation.before.layers
    assert all(len(disk.chain) == known and disk.block_job is None for disk in facts.disks)
    left = {uri: [path for path in world.files(uri) if "fsm-" in path] for uri in (SOURCE, DESTINATION)}
    assert left == {SOURCE: [], DESTINATION: []}, "overlays are left behind"
    if result.state != "committed":
        assert world.files(DESTINATION) == simulation.before.files[DESTINATION], "copies are left behind"
    for uri in (SOURCE, DESTINATION):
        told = any(uri in left and "storage pool" in left for left in result.left_behind)
        assert told or world.pools(uri) == simulation.before.pools[uri], "a storage pool is left behind"


def _essence(snapshots: Iterable[SnapshotMetadata]) -> set[tuple[str, str | None, bool]]:
    return {(snapshot.name, snapshot.parent, snapshot.current) for snapshot in snapshots}
