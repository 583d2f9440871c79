"""The parts of the libvirt binding that need no libvirtd."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import libvirt
import pytest

from fsm.errors import BadInput, HostError, HostUnreachable, NotFound, OutcomeUnknown
from fsm.hypervisor.libvirt import LibvirtConnector, errors, pools, snapshots, words
from fsm.hypervisor.libvirt.watch import Watches
from fsm.hypervisor.libvirt.workers import Workers, run_alone
from fsm.hypervisor.uris import safe_uri
from fsm.hypervisor.values import Overlay
from fsm.machine.observation import DomainState, Job


@pytest.mark.parametrize(
    ("uri", "safe"),
    [
        ("qemu:///system", "qemu:///system"),
        ("qemu+ssh://root@host:22/system?keyfile=/k", "qemu+ssh://root@host:22/system?keyfile=/k"),
        ("qemu+ssh://root:geheim@host/system", "qemu+ssh://root@host/system"),
        ("qemu+tcp://a:b:c@[::1]:16509/system", "qemu+tcp://a@[::1]:16509/system"),
        ("qemu://me:geheim@[::1/system", "[::1/system"),
    ],
)
def test_uris_without_secrets(uri: str, safe: str) -> None:
    assert safe_uri(uri) == safe


class Raised(libvirt.libvirtError):  # type: ignore[misc]
    """An error with a code that no call raised."""

    def __init__(self, code: int) -> None:
        super().__init__("words")
        self.err = (code, 0, "words", 2, None, None, None, -1, -1)


@pytest.mark.parametrize(
    ("code", "change", "connected", "kind"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, False, True, NotFound),
        (libvirt.VIR_ERR_NO_STORAGE_VOL, True, True, NotFound),
        (libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT, True, True, NotFound),
        (libvirt.VIR_ERR_OPERATION_FAILED, True, True, HostError),
        (libvirt.VIR_ERR_RPC, True, True, HostError),  # between two hosts, not between us and this one
        (libvirt.VIR_ERR_ACCESS_DENIED, True, True, HostError),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, True, True, HostError),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, False, True, HostUnreachable),
        (libvirt.VIR_ERR_RPC, True, False, OutcomeUnknown),
        (libvirt.VIR_ERR_SYSTEM_ERROR, False, False, HostUnreachable),
    ],
)
def test_kinds_of_errors(code: int, change: bool, connected: bool, kind: type[HostError]) -> None:  # noqa: FBT001
    found = errors.from_call(Raised(code), host="h", call="c", change=change, connected=connected)
    assert type(found) is kind
    assert "words" in str(found)
    assert (found.host, found.call) == ("h", "c")


@pytest.mark.parametrize(
    ("number", "reason", "expected"),
    [
        (1, 1, (DomainState.RUNNING, "booted")),
        (1, 99, (DomainState.RUNNING, "unknown")),
        (2, 0, (DomainState.RUNNING, "blocked")),
        (3, 5, (DomainState.PAUSED, "io-error")),
        (3, 13, (DomainState.PAUSED, "postcopy-failed")),
        (3, 14, (DomainState.PAUSED, "api-error")),
        (4, 0, (DomainState.RUNNING, "shutting-down")),
        (5, 4, (DomainState.SHUT_OFF, "migrated")),
        (6, 1, (DomainState.CRASHED, "panicked")),
        (7, 0, (DomainState.PAUSED, "pm-suspended")),
    ],
)
def test_states(number: int, reason: int, expected: tuple[DomainState, str]) -> None:
    assert words.state(number, reason) == expected


def test_jobs() -> None:
    assert words.job({}) is Job.NONE
    assert words.job({"type": 0}) is Job.NONE
    assert (
        words.job({"type": 2, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT})
        is Job.MIGRATION_OUT
    )
    assert words.job({"type": 2, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP}) is Job.OTHER
    assert words.job({"type": 2}) is Job.OTHER


def test_versions() -> None:
    assert words.version(9_002_001) == (9, 2, 1)


def test_one_name_for_each_directory() -> None:
    assert pools.our_name("/a/b") == pools.our_name("/a/b/") == pools.our_name("//a//b")
    assert pools.our_name("/a/b") != pools.our_name("/a/c")
    assert pools.our_name("/a/b").startswith("fsm-")


def test_disks_without_overlay_are_left_out_by_name() -> None:
    text = snapshots.overlay_document(["vda", "hda"], [Overlay("vda", "/a & <b>'\"", "/base", "qcow2")])
    assert text == (
        '<domainsnapshot><disks><disk name="vda" snapshot="external"><driver type="qcow2"/>'
        '<source file="/a &amp; &lt;b&gt;\'&quot;"/></disk><disk name="hda" snapshot="no"/></disks>'
        "</domainsnapshot>"
    )


def test_workers_are_bounded_and_work_is_not_lost() -> None:
    workers = Workers(3, "test")
    gate, running, most = threading.Semaphore(0), [0], [0]
    lock, full = threading.Lock(), threading.Event()

    def work(number: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            if running[0] == 3:
                full.set()
        gate.acquire()
        with lock:
            running[0] -= 1
        return number

    futures = [workers.submit(lambda number=number: work(number)) for number in range(20)]
    assert futures[-1].cancel()
    assert full.wait(5)
    for _ in range(20):
        gate.release()
    assert [future.result(5) for future in futures[:-1]] == list(range(19))
    with pytest.raises(CancelledError):
        futures[-1].result()
    assert most[0] == 3
    workers.close()
    with pytest.raises(RuntimeError):
        workers.submit(lambda: 1)


def test_workers_pass_errors_on() -> None:
    workers = Workers(1, "test")
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 // 0).result(5)
    assert workers.submit(lambda: 5).result(5) == 5
    workers.close()
    with pytest.raises(ZeroDivisionError):
        run_alone(lambda: 1 // 0, "test").result(5)


async def test_watches_wake_their_own_domain() -> None:
    watches = Watches()
    one, two = watches.add("1"), watches.add("2")
    thread = threading.Thread(target=lambda: (watches.notify("1"), watches.notify("3")))
    thread.start()
    assert await one.changed(5)
    assert not await one.changed(0.01)
    assert not await two.changed(0.01)
    watches.notify(None)
    assert await one.changed(5)
    assert await two.changed(5)
    one.close()
    watches.notify("1")
    assert not await one.changed(0.01)
    thread.join()


def test_a_watch_of_a_closed_event_loop_is_harmless() -> None:
    watches = Watches()

    async def leave() -> None:
        watches.add("1")

    asyncio.run(leave())
    watches.notify(None)


def test_a_uri_of_other_bytes_is_bad_input() -> None:
    for uri in ("qemu+tcp://\udcff/system", "\udcff"):
        with pytest.raises(BadInput, match="no URI of a QEMU host"):
            LibvirtConnector().open_channel(uri)
