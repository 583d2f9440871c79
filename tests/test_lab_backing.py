"""Guests on a common image, between two real hosts: the files below their bases stay what they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsm.lab import DiskSpec, GuestSpec, LabHost
from fsm.lab.guest import Guest, revert, start
from fsm.lab.host import IMAGES
from tests.lab_rig import LONG_LAB, Rig, by_nbd, check_kept, check_untouched, look, still, watched
from tests.libvirt_helpers import digest

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK, REFUSED = 0, 3, 5
GOLDEN, MIDDLE = f"{IMAGES}/golden.raw", f"{IMAGES}/middle.qcow2"
LOWER = (GOLDEN, MIDDLE)
SHARED = "/var/lib/libvirt/shared"
CHAINED = GuestSpec(
    name="chained",
    disks=(DiskSpec(target="vda", size_mib=64, data_mib=16), DiskSpec(target="vdb", size_mib=32)),
    state="shut off",
)


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.lab.share(SHARED)
    return rig


@pytest.fixture
def guest(rig: Rig) -> Iterator[Guest]:
    """A guest that is shut off; its first disk stands on two files, one of them by a relative name."""
    alpha = rig.alpha
    guest = rig.lab.define_guest(alpha, CHAINED)
    base = CHAINED.disks[0].image(CHAINED.name)
    alpha.run(["qemu-img", "convert", "-O", "raw", base, GOLDEN])
    alpha.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", GOLDEN, "-F", "raw", MIDDLE])
    alpha.run(["qemu-io", "-c", "write -P 5 40M 1M", MIDDLE])
    alpha.run(["rm", base])
    alpha.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", base])
    yield guest
    rig.destroy(CHAINED)
    for host in rig.lab.hosts:
        for path in LOWER:
            host.path(path).unlink(missing_ok=True)


def bring(rig: Rig, source: LabHost) -> None:
    """Somebody has copied the files below before."""
    for path in LOWER:
        rig.other(source).path(path).write_bytes(source.path(path).read_bytes())


def lower(rig: Rig) -> dict[str, tuple[str, int]]:
    """What is in the files below the bases, and when they were written last."""
    return {
        f"{host.name}: {path}": (digest(host.path(path)), host.path(path).stat().st_mtime_ns)
        for host in rig.lab.hosts
        for path in LOWER
        if host.path(path).exists()
    }


def digests(rig: Rig, host: LabHost) -> list[str]:
    """What is in those of one host, which must all be there."""
    return [lower(rig)[f"{host.name}: {path}"][0] for path in LOWER]


def begun(rig: Rig, guest: Guest) -> None:
    """Start it, and take two snapshots."""
    start(guest)
    for name in ("s1", "s2"):
        rig.alpha.virsh("snapshot-create-as", "--domain", CHAINED.name, "--name", name)
        guest.wait_for_writes()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("merge", ["mirror", "commit"])
def test_it_arrives_on_its_chain_and_reverts_there(
    rig: Rig,
    guest: Guest,
    merge: str,
    there: bool,  # noqa: FBT001
) -> None:
    """The files below are there already, or are copied along."""
    begun(rig, guest)
    if there:
        bring(rig, rig.alpha)
    before, below = look(rig, rig.alpha, CHAINED), lower(rig)
    with watched(rig, CHAINED) as watch:
        finished = rig.migrate(CHAINED.name, rig.alpha, "--merge", merge, "--verify", "full")
    assert finished.returncode == COMMITTED, finished.stderr
    check_kept(rig, CHAINED, before, rig.beta, watch.acks)
    assert below.items() <= lower(rig).items()
    assert digests(rig, rig.beta) == digests(rig, rig.alpha)
    arrived = Guest(rig.beta, CHAINED.name, CHAINED)
    revert(arrived, "s1")
    assert arrived.state == "running"
    assert digests(rig, rig.beta) == digests(rig, rig.alpha)


@pytest.mark.parametrize("there", [True, False])
def test_a_rollback_leaves_it_on_its_chain(rig: Rig, guest: Guest, there: bool) -> None:  # noqa: FBT001
    """What was brought along is gone again, what was there is not."""
    begun(rig, guest)
    if there:
        bring(rig, rig.alpha)
    before, below = look(rig, rig.alpha, CHAINED), lower(rig)
    with (
        watched(rig, CHAINED) as watch,
        rig.migrating(CHAINED.name, rig.alpha, "--bandwidth", "16") as running,
    ):
        assert running.until(lambda event: event["event"] == "progress" and event["phase"] == "memory")
        rig.beta.kill_qemu(CHAINED.name)
        code, _ = running.finish()
    assert code == ROLLED_BACK
    check_kept(rig, CHAINED, before, rig.alpha, watch.acks)
    check_untouched(rig, before, rig.beta)
    assert lower(rig) == below
    revert(guest, "s1")
    assert guest.state == "running"


def test_one_that_is_shut_off_finds_its_chain_by_the_headers(rig: Rig, guest: Guest) -> None:
    bring(rig, rig.alpha)
    with rig.beta.path(GOLDEN).open("r+b") as file:
        file.seek(4 << 20)
        file.write(b"another")
    other = rig.migrate(CHAINED.name, rig.alpha)
    assert other.returncode == REFUSED
    assert f"the first byte that differs is {4 << 20}" in other.stderr
    for path in LOWER:
        rig.beta.path(path).unlink()
    contents, below = still(rig.alpha, CHAINED), lower(rig)
    finished = rig.migrate(CHAINED.name, rig.alpha, *by_nbd(rig, rig.alpha))
    assert finished.returncode == COMMITTED, finished.stderr
    assert still(rig.beta, CHAINED) == contents
    assert below.items() <= lower(rig).items()
    assert digests(rig, rig.beta) == digests(rig, rig.alpha)
    start(Guest(rig.beta, CHAINED.name, CHAINED))


def test_a_shared_base_stays_on_a_shared_chain(rig: Rig) -> None:
    golden, base = f"{SHARED}/golden.qcow2", f"{SHARED}/base.qcow2"
    spec = GuestSpec(
        name="both", disks=(DiskSpec(target="vda", size_mib=32, data_mib=8, path=base),), state="shut off"
    )
    guest = rig.lab.define_guest(rig.alpha, spec)
    rig.alpha.run(["mv", base, golden])
    rig.alpha.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "golden.qcow2", "-F", "qcow2", base])
    start(guest)
    rig.alpha.virsh("snapshot-create-as", "--domain", spec.name, "--name", "s1")
    guest.wait_for_writes()
    before, below = look(rig, rig.alpha, spec), digest(rig.alpha.path(golden))
    with watched(rig, spec) as watch:
        finished = rig.migrate(spec.name, rig.alpha)
    assert finished.returncode == COMMITTED, finished.stderr
    check_kept(rig, spec, before, rig.beta, watch.acks)
    assert digest(rig.beta.path(golden)) == below
    revert(Guest(rig.beta, spec.name, spec), "s1")
    rig.destroy(spec)
