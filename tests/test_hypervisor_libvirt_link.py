"""A link whose connection breaks, on a connection that tells when it is used after its end."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import libvirt
import pytest

from fsm.errors import HostError, HostUnreachable, OutcomeUnknown
from fsm.hypervisor.libvirt import LibvirtConnector, channel, migration, session, volumes
from fsm.hypervisor.libvirt.host import LibvirtHost
from fsm.hypervisor.libvirt.link import Link
from fsm.hypervisor.libvirt.session import Call
from fsm.hypervisor.values import MigrationRequest


class Connection:
    """Stands for libvirt's, which must not be touched once it is closed."""

    def __init__(self, uuid: str = "first") -> None:
        self.uuid = uuid
        self.broken = False
        self.closed = threading.Event()
        self.touched_late = False
        self.pools: list[Any] = []

    def listAllStoragePools(self, _flags: int) -> list[Any]:  # noqa: N802
        return self.pools

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        self.touched_late |= self.closed.is_set()
        return not self.broken

    def close(self) -> None:
        self.closed.set()

    def getCapabilities(self) -> str:  # noqa: N802
        return f"<capabilities><host><uuid>{self.uuid}</uuid></host></capabilities>"

    def domainEventRegisterAny(self, *_: object) -> int:  # noqa: N802
        return 0

    def domainEventDeregisterAny(self, _: int) -> None:  # noqa: N802
        pass

    def registerCloseCallback(self, *_: object) -> None:  # noqa: N802
        pass

    def unregisterCloseCallback(self) -> None:  # noqa: N802
        pass


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """The connections in the order of their opening."""
    connections: list[Connection] = []

    def open_connection(_uri: str) -> Any:
        connections.append(Connection())
        return connections[-1]

    monkeypatch.setattr(session, "open_connection", open_connection)
    return connections


async def test_a_connection_that_broke_is_not_touched_after_its_end(
    opened: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link("qemu+tcp://h/system", 5, lambda _uuid: None, lambda *_: None)
    drop = link._drop

    def drop_and_wait_for_the_end(dropped: session.Session) -> None:
        drop(dropped)
        assert dropped.closed.wait(5)

    monkeypatch.setattr(link, "_drop", drop_and_wait_for_the_end)

    def work(call: Call) -> str:
        if call.connection is opened[0]:
            opened[0].broken = True
            raise libvirt.libvirtError("End of file while reading data")
        return "answer"

    assert await link.ask("question", work) == "answer"
    assert len(opened) == 2
    assert not opened[0].touched_late
    await link.close()


async def test_a_host_that_is_slow_is_not_asked_twice(opened: list[Connection]) -> None:
    link = Link("qemu+tcp://h/system", 0.05, lambda _uuid: None, lambda *_: None)
    release = threading.Event()
    with pytest.raises(HostUnreachable, match="no answer within"):
        await link.ask("question", lambda _call: release.wait(5))
    release.set()
    assert len(opened) == 1


async def test_a_uri_that_leads_to_another_host_later_is_an_unreachable_host(
    opened: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another host does not have is not gone: it would be rolled back while it runs where it was."""
    link = Link("qemu+tcp://h/system", 5, lambda _uuid: None, lambda *_: None)
    hosts = iter(["first", "first", "second", "first"])

    def open_connection(_uri: str) -> Any:
        opened.append(Connection(next(hosts)))
        return opened[-1]

    monkeypatch.setattr(session, "open_connection", open_connection)

    def answering(call: Call) -> Any:
        return call.connection.uuid

    link.expect(await link.ask("who", answering))
    opened[-1].broken = True
    assert await link.ask("who", answering) == "first"
    opened[-1].broken = True
    with pytest.raises(HostUnreachable, match="another host answers there now: its UUID is second"):
        await link.ask("who", answering)
    assert opened[-1].closed.wait(5)
    assert await link.ask("who", answering) == "first"
    await link.close()


@pytest.fixture
def gate(opened: list[Connection], monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Every connection but the first comes to stand once this is set."""
    gate = threading.Event()

    def open_connection(_uri: str) -> Any:
        if opened:
            assert gate.wait(5)
        opened.append(Connection())
        return opened[-1]

    monkeypatch.setattr(session, "open_connection", open_connection)
    return gate


@pytest.mark.parametrize("turns", [1, 2])
async def test_closed_while_it_is_opened_again_it_leaves_no_connection(
    opened: list[Connection], gate: threading.Event, turns: int
) -> None:
    link = Link("qemu+tcp://h/system", 5, lambda _uuid: None, lambda *_: None)
    await link.open()
    opened[0].broken = True
    asking = asyncio.create_task(link.ask("question", lambda _call: "answer"))
    for _ in range(turns):  # of the event loop: the opening is due, or begun
        await asyncio.sleep(0)
    await link.close()
    gate.set()
    with pytest.raises(HostUnreachable, match="was closed"):
        await asking
    assert len(opened) == 2
    assert all(one.closed.wait(5) for one in opened)
    assert await link.ask("question", lambda _call: "answer") == "answer"
    assert not opened[2].closed.is_set()
    await link.close()
    assert opened[2].closed.is_set()


def test_an_event_loop_that_ends_while_it_is_opened_again_leaves_no_connection(
    opened: list[Connection], gate: threading.Event
) -> None:
    async def engine() -> None:
        link = Link("qemu+tcp://h/system", 5, lambda _uuid: None, lambda *_: None)
        await link.open()
        opened[0].broken = True
        asking = asyncio.create_task(link.ask("question", lambda _call: "answer"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()

    asyncio.run(engine())
    gate.set()
    # The first is closed by the opening that took its place.
    assert opened[0].closed.wait(5)
    deadline = threading.Event()
    while len(opened) < 2:  # bounded: by the thread that opens it
        deadline.wait(0.01)
    assert opened[1].closed.wait(5)


async def test_closed_before_who_waited_for_the_connection_has_used_it(opened: list[Connection]) -> None:
    link = Link("qemu+tcp://h/system", 5, lambda _uuid: None, lambda *_: None)
    asking = asyncio.create_task(link.ask("question", lambda _call: "answer"))
    while link._session is None:  # noqa: ASYNC110  # the very turn in which it comes to stand
        await asyncio.sleep(0)
    await link.close()
    with pytest.raises(HostUnreachable, match="was closed"):
        await asking


# What a host does late


class Volume(libvirt.virStorageVol):
    """A file."""

    _o = None

    def __init__(self) -> None:
        self.deleted = False

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        return "<volume><physical>1</physical><target><format type='raw'/></target></volume>"

    def delete(self, _flags: int) -> None:
        self.deleted = True


class Pool(libvirt.virStoragePool):
    """One that looks at its directory for as long as it is held."""

    _o = None

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.looking, self.held = threading.Event(), threading.Event()

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        return "<pool><target><path>/images</path></target></pool>"

    def refresh(self, _flags: int) -> None:
        self.looking.set()
        assert self.held.wait(5)

    def storageVolLookupByName(self, _name: str) -> Volume:  # noqa: N802
        return self.volume


@pytest.mark.parametrize("end", ["late", "cancelled"])
async def test_what_nobody_waits_for_any_more_changes_nothing_more(
    opened: list[Connection], end: str
) -> None:
    """By then the engine has asked again and gone on: what bears the name now may be another file."""
    link = Link("qemu+tcp://h/system", 0.1 if end == "late" else 5, lambda _uuid: None, lambda *_: None)
    await link.open()
    pool = Pool(Volume())
    opened[0].pools = [pool]
    removing = asyncio.create_task(link.change("remove", lambda call: volumes.remove(call, "/images/a")))
    if end == "late":
        with pytest.raises(OutcomeUnknown, match="no answer within"):
            await removing
    else:
        assert await asyncio.to_thread(pool.looking.wait, 5)
        removing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removing
    pool.held.set()
    await link.close()
    assert opened[0].closed.wait(5)  # once the last call has ended
    assert not pool.volume.deleted


async def test_a_migration_that_was_called_off_before_it_began_does_not_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host is slow to let the call in, and the engine has rolled back by then."""
    connection, opening, gate = Connection(), threading.Event(), threading.Event()
    begun: list[str] = []

    class Domain:
        def migrateToURI3(self, uri: str, *_: object) -> None:  # noqa: N802
            begun.append(uri)

    def open_connection(_uri: str) -> Connection:
        opening.set()
        assert gate.wait(5)
        return connection

    monkeypatch.setattr(migration, "open_connection", open_connection)
    monkeypatch.setattr(connection, "lookupByUUIDString", lambda _uuid: Domain(), raising=False)
    host = LibvirtHost("qemu+tcp://h/system", 5)
    request = MigrationRequest("qemu+tcp://other/system", "<domain/>", "<domain/>", ())
    migrating = asyncio.create_task(host.migrate("uuid", request))
    assert await asyncio.to_thread(opening.wait, 5)
    migrating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await migrating
    gate.set()
    assert await asyncio.to_thread(connection.closed.wait, 5)
    assert begun == []


async def test_bulk_data_goes_to_the_host_that_was_asked_before(
    opened: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may lead to another host by now, whose file of that path would be overwritten."""
    hosts = iter(["first", "second", "first"])

    def open_connection(_uri: str) -> Any:
        opened.append(Connection(next(hosts)))
        return opened[-1]

    monkeypatch.setattr(session, "open_connection", open_connection)
    monkeypatch.setattr(channel, "open_connection", open_connection)
    monkeypatch.setattr(Connection, "getHostname", lambda _connection: "h", raising=False)
    for version in ("getLibVersion", "getVersion"):
        monkeypatch.setattr(Connection, version, lambda _connection: 9_000_000, raising=False)
    connector = LibvirtConnector(deadline_s=5)
    uri = "qemu+tcp://h/system"
    host = await connector.connect(uri)
    assert (await host.identity()).uuid == "first"
    with pytest.raises(HostUnreachable, match="another host answers there now: its UUID is second"):
        connector.open_channel(uri)
    assert opened[1].closed.is_set()
    connector.open_channel(uri).close()
    await host.close()


def _migrated(domain: libvirt.virDomain, params: dict[str, object], _call: Call) -> None:
    domain.migrateToURI3("test:///default", params, 0)


async def test_what_libvirt_can_not_be_told_is_an_error_of_the_host(opened: list[Connection]) -> None:
    """Its binding takes and gives UTF-8 alone, and numbers that C has a type for."""
    domain = libvirt.open("test:///default").lookupByName("test")
    link = Link("qemu+tcp://h/system", 5, lambda _uuid: None, lambda *_: None)
    for params, why in (
        ({libvirt.VIR_MIGRATE_PARAM_URI: "tcp://\udcff"}, "surrogates not allowed"),
        ({libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: 1 << 64}, "too big"),
    ):
        work = partial(_migrated, domain, params)
        for call in (link.ask, link.change):
            with pytest.raises(HostError, match=why):
                await call("question", work)
    await link.close()


async def test_a_directory_that_no_pool_can_show_is_an_error_of_the_host(opened: list[Connection]) -> None:
    link = Link("qemu+tcp://h/system", 5, lambda _uuid: None, lambda *_: None)
    with pytest.raises(HostError, match="can't show '/a\\\\x01b'"):
        await link.ask("free_bytes", lambda call: volumes.free_bytes(call, "/a\x01b"))
    await link.close()


@pytest.mark.parametrize("path", ["/dev/vg/lv", "//dev/vg/lv", "/dev//vg/lv", "/srv/../dev/vg/lv"])
async def test_no_name_of_a_device_is_removed(opened: list[Connection], path: str) -> None:
    link = Link("qemu+tcp://h/system", 5, lambda _uuid: None, lambda *_: None)
    with pytest.raises(HostError, match="among the host's devices"):
        await link.change("remove", lambda call: volumes.remove(call, path))
    await link.close()
