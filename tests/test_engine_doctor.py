"""What an examination tells of domains and hosts."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from attrs import evolve

from fsm.engine import preparation
from fsm.engine.cases import Case, Kind
from fsm.engine.engine import Engine
from fsm.errors import BadInput
from fsm.hypervisor import markers
from fsm.hypervisor.uris import is_local, is_plain
from fsm.hypervisor.values import Marker, SnapshotMetadata
from fsm.journal.records import Phase, Step
from fsm.journal.sql import open_journal
from tests.simulation import DESTINATION, SOURCE, Simulation, simulate

HOSTS = (SOURCE, DESTINATION)


async def _cut_off(simulation: Simulation) -> str:
    """Begin to migrate and let go while the bases are being copied."""
    reached = asyncio.Event()
    simulation.world.at("make_durable", reached.set)
    handle = await simulation.start()
    await reached.wait()
    await handle.detach()
    return handle.migration


async def _cases(simulation: Simulation, engine: Engine | None = None) -> list[Case]:
    calls = len(simulation.world.calls)
    examined = await (engine or simulation.engine).examine(HOSTS)
    asked = {call.name for call in simulation.world.calls[calls:]}
    assert asked <= {"connect", "identity", "domains", "domain", "snapshots"}, (
        "an examination changes nothing"
    )
    return [case for host in examined for case in host.cases]


def _stranger(simulation: Simulation, directory: Path) -> Engine:
    """An engine with a journal of its own."""
    return Engine(open_journal(directory / "other.db"), simulation.world, clock=simulation.world.clock)


async def test_hosts_without_trouble_have_nothing_to_tell() -> None:
    simulation = await simulate()
    examined = await simulation.engine.examine(HOSTS)
    assert [host.shown_uri for host in examined] == list(HOSTS)
    assert all(host.identity is not None and not host.cases and not host.unread for host in examined)
    assert not any(note.remedy for host in examined for note in host.notes)


async def test_what_is_driven_waits_for_nobody() -> None:
    simulation = await simulate()
    migration = await _cut_off(simulation)
    lease = simulation.journal.acquire(migration, simulation.engine._heart.holder, lambda _holder: False)
    (case,) = await _cases(simulation)
    assert (case.kind, case.waits, case.remedy) == (Kind.DRIVEN, False, "")
    assert migration in case.what
    assert f"process {os.getpid()} on " in case.what
    simulation.journal.release(lease)
    (case,) = await _cases(simulation)
    assert case.kind is Kind.UNFINISHED


async def test_what_this_journal_can_resume() -> None:
    simulation = await simulate()
    migration = await _cut_off(simulation)
    (case,) = await _cases(simulation)
    assert (case.kind, case.waits, case.on_overlay) == (Kind.UNFINISHED, True, True)
    assert case.remedy == f"fsm resume {migration}"
    assert "snapshotted" in case.what


async def test_what_another_journal_can_resume(tmp_path: Path) -> None:
    simulation = await simulate()
    migration = await _cut_off(simulation)
    (case,) = await _cases(simulation, _stranger(simulation, tmp_path))
    assert (case.kind, case.waits) == (Kind.LOST, True)
    path = simulation.journal.location.partition(":")[2]
    assert case.remedy == f"fsm --journal {path} resume {migration}"
    for word in (migration, "source", SOURCE, DESTINATION, simulation.journal.location):
        assert word in case.what


async def test_what_can_be_adopted(tmp_path: Path) -> None:
    simulation = await simulate()
    await _cut_off(simulation)
    host = await simulation.world.connect(SOURCE)
    await host.mark(simulation.uuid, Marker("0123456789ab", "o", SOURCE, DESTINATION, journal="ops:/lost.db"))
    (case,) = await _cases(simulation, _stranger(simulation, tmp_path))
    assert case.kind is Kind.LOST
    assert "ops:/lost.db is lost" in case.remedy
    assert f"fsm doctor --host {SOURCE} --host {DESTINATION} --adopt" in case.remedy


async def test_an_overlay_without_a_marker_is_known_by_its_name(tmp_path: Path) -> None:
    simulation = await simulate()
    migration = await _cut_off(simulation)
    host = await simulation.world.connect(SOURCE)
    await host.unmark(simulation.uuid)
    (case,) = await _cases(simulation)
    assert case.kind is Kind.UNFINISHED
    (case,) = await _cases(simulation, _stranger(simulation, tmp_path))
    assert (case.kind, case.waits, case.migration) == (Kind.UNMARKED, True, migration)
    assert f"fsm --journal FILE resume {migration}" in case.remedy
    for target in ("vda", "vdb"):
        assert f"virsh -c {SOURCE} blockcommit web {target} --active --pivot" in case.remedy


async def test_a_marker_of_a_later_version_is_left_to_that_version(tmp_path: Path) -> None:
    simulation = await simulate()
    with simulation.world.changing() as state:
        record = state.hosts[SOURCE].domains[simulation.uuid]
        assert record.instance is not None
        text = markers.marked(record.instance.xml, Marker("0123456789ab", owner="o"))
        record.instance.xml = text.replace('format="1"', 'format="99"')
    (case,) = await _cases(simulation, _stranger(simulation, tmp_path))
    assert (case.kind, case.waits) == (Kind.UNMARKED, True)
    assert "format" in case.what


def _end(simulation: Simulation, migration: str) -> None:
    """The journal says that it has ended as committed, by the operator's word that the source was off."""
    last = simulation.journal.records(migration)[-1]
    ended = evolve(last, step=Step.TRANSITION, phase=Phase.OUTCOME, dest="committed", error="")
    simulation.journal.append(migration, ended, final=True)


async def test_an_overlay_of_a_migration_that_has_ended_is_for_the_operator() -> None:
    simulation = await simulate()
    _end(simulation, await _cut_off(simulation))
    (case,) = await _cases(simulation)
    assert (case.kind, case.waits) == (Kind.LEFTOVER, True)
    assert "committed" in case.what
    assert DESTINATION in case.remedy
    assert f"virsh -c {SOURCE} destroy web" in case.remedy


@pytest.mark.parametrize("running", [True, False], ids=["running", "shut-off"])
async def test_a_marker_of_a_migration_that_has_ended(running: bool) -> None:  # noqa: FBT001  # pytest's
    simulation = await simulate()
    migration = (await simulation.migrate()).migration
    host = await simulation.world.connect(DESTINATION)
    await host.mark(simulation.uuid, Marker(migration, "o", SOURCE, DESTINATION))
    if not running:
        await host.destroy(simulation.uuid)
    (case,) = await _cases(simulation)
    assert (case.kind, case.waits) == (Kind.LEFTOVER, False)
    live = " --live" if running else ""
    assert case.remedy == f"virsh -c {DESTINATION} metadata web {markers.NAMESPACE} --remove --config{live}"


async def test_layers_that_no_snapshot_explains() -> None:
    simulation = await simulate()
    backup = "/var/lib/libvirt/images/b.backup"
    simulation.world.add_layer(SOURCE, simulation.uuid, "vdb", backup)
    (case,) = await _cases(simulation)
    assert (case.kind, case.waits) == (Kind.LAYERED, False)
    assert "vdb" in case.what
    assert "b.backup on " in case.what
    assert "vda" not in case.what
    # One that is an external snapshot's is no surprise.
    host = await simulation.world.connect(SOURCE)
    xml = (
        "<domainsnapshot><name>e</name><disks><disk name='vdb' snapshot='external'>"
        f"<source file='{backup}'/></disk></disks></domainsnapshot>"
    )
    await host.define_snapshots(simulation.uuid, [SnapshotMetadata("e", xml)])
    assert await _cases(simulation) == []


async def test_a_host_that_cannot_be_reached_is_told() -> None:
    simulation = await simulate()
    simulation.world.power_off(DESTINATION)
    source, destination = await simulation.engine.examine(HOSTS)
    assert source.identity is not None
    assert destination.identity is None
    (finding,) = destination.unread
    assert finding.check == "unreachable"
    assert finding.remedy


async def test_a_domain_that_can_not_be_read_does_not_hide_the_others() -> None:
    simulation = await simulate()
    await _cut_off(simulation)
    simulation.world.add_domain(SOURCE, "mail")
    simulation.world.fail("domain", host=SOURCE, nth=2)
    source, _ = await simulation.engine.examine(HOSTS)
    assert [case.kind for case in source.cases] == [Kind.UNFINISHED]
    assert [finding.check for finding in source.unread] == ["domain"]


async def test_a_malformed_uri_is_the_callers_mistake() -> None:
    simulation = await simulate()
    with pytest.raises(BadInput):
        await simulation.engine.examine(["nonsense"])


# What a host lacks


@pytest.mark.parametrize(("value", "told"), [("15", True), ("5", False), ("3", False)])
def test_the_kernel_of_this_machine(
    value: str,
    told: bool,  # noqa: FBT001  # a parameter of the test
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sysctl = tmp_path / "tcp_retries2"
    sysctl.write_text(f"{value}\n")
    monkeypatch.setattr(preparation, "SYSCTL", sysctl)
    found = preparation.kernel("qemu:///system")
    assert [finding.check for finding in found] == (["tcp-retries2"] if told else [])
    assert all("5" in finding.remedy and value in finding.message for finding in found)
    assert preparation.kernel_unread("qemu:///system") == []
    assert preparation.kernel("qemu+ssh://other/system") == []
    (unread,) = preparation.kernel_unread("qemu+ssh://other/system")
    assert "should be 5" in unread.message
    assert unread.remedy == ""


def test_a_kernel_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SYSCTL", tmp_path / "missing")
    assert preparation.kernel("qemu:///system") == []
    assert preparation.kernel_unread("qemu:///system") != []


async def test_preflight_tells_it_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysctl = tmp_path / "tcp_retries2"
    sysctl.write_text("15\n")
    monkeypatch.setattr(preparation, "SYSCTL", sysctl)
    monkeypatch.setattr(preparation, "is_local", lambda uri: uri == SOURCE)
    simulation = await simulate()
    result = await simulation.migrate()
    assert result.state == "committed"
    assert [note.host for note in result.notes] == [SOURCE]
    (record,) = [one for one in simulation.journal.records(result.migration) if one.data.get("notes")]
    assert record.name == "preflight"
    assert "tcp_retries2" in record.data["notes"][0]["message"]


async def test_apparmor_is_told() -> None:
    simulation = await simulate()
    simulation.world.state.hosts[DESTINATION].security_models = ("apparmor", "dac")
    _, destination = await simulation.engine.examine(HOSTS)
    assert [note.check for note in destination.notes if note.remedy] == ["apparmor"]


@pytest.mark.parametrize(
    ("uri", "local", "plain"),
    [
        ("qemu:///system", True, False),
        ("qemu+unix:///system?socket=/run/x", True, False),
        ("qemu+tcp://a/system", False, True),
        ("qemu+ssh://root@a/system", False, True),
        ("qemu+ssh://root@a/system?keyfile=x", False, False),
        ("qemu+ssh://-oProxyCommand=x/system", False, False),
        ("qemu+ssh://x@-oProxyCommand=x/system", False, False),
        ("qemu+ext://a/system", False, False),
        ("qemu://a/system#x", False, False),
        ("qemu://[a/system", False, False),
        ("", False, False),
    ],
)
def test_uris_by_what_they_can_do(uri: str, local: bool, plain: bool) -> None:  # noqa: FBT001  # pytest's
    assert (is_local(uri), is_plain(uri)) == (local, plain)
