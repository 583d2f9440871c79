"""Preflight on two real hosts: every obstacle is named, the exit code is 5 and nothing is touched."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

import pytest

from fsm.lab import BOOT, IMAGES, DiskSpec, GuestSpec, SnapshotSpec
from fsm.lab.guest import Guest
from fsm.lab.process import clean_environment, wait_until
from tests.lab_rig import NEEDS_LAB, Rig, picture

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

REFUSED = 5
SMALL = f"{IMAGES}/small"
WEB = GuestSpec(
    name="web",
    disks=(
        DiskSpec(target="vda", size_mib=16),
        DiskSpec(target="vdb", size_mib=16, path=f"{SMALL}/b.qcow2"),
        DiskSpec(target="hda", device="cdrom", size_mib=1, format="raw"),
    ),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
)
VDA, VDB, CDROM = (disk.image(WEB.name) for disk in WEB.disks)


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.beta.mount_small(SMALL, 200)
    rig.alpha.path(f"{SMALL}/lost+found").mkdir(parents=True)
    rig.lab.define_guest(rig.alpha, WEB)
    return rig


class Obstacle(Protocol):
    """Puts something in the way of a migration for a while."""

    def __call__(self, rig: Rig) -> AbstractContextManager[None]:
        """Put it there, and take it away."""


@contextmanager
def file_exists(rig: Rig) -> Iterator[None]:
    rig.beta.path(VDB).write_bytes(b"somebody's")
    yield
    assert rig.beta.path(VDB).read_bytes() == b"somebody's"
    rig.beta.path(VDB).unlink()


@contextmanager
def domain_exists(rig: Rig) -> Iterator[None]:
    xml = "<domain type='qemu'><name>web</name><memory>1024</memory><os><type>hvm</type></os></domain>"
    rig.beta.virsh("define", "/dev/stdin", stdin=xml)
    yield
    rig.beta.virsh("undefine", "--domain", "web")


@contextmanager
def directory_missing(rig: Rig) -> Iterator[None]:
    with moved_away(rig, IMAGES):
        yield


@contextmanager
def moved_away(rig: Rig, path: str) -> Iterator[None]:
    rig.beta.run(["mv", path, f"{path}.away"])
    yield
    rig.beta.run(["mv", f"{path}.away", path])


@contextmanager
def initrd_missing(rig: Rig) -> Iterator[None]:
    with moved_away(rig, f"{BOOT}/fsm-guest.img"):
        yield


@contextmanager
def cdrom_missing(rig: Rig) -> Iterator[None]:
    with moved_away(rig, CDROM):
        yield


@contextmanager
def no_space(rig: Rig) -> Iterator[None]:
    rig.beta.run(["fallocate", "-l", "130M", f"{SMALL}/full"])
    yield
    rig.beta.run(["rm", f"{SMALL}/full"])


@contextmanager
def other_template(rig: Rig) -> Iterator[None]:
    """The domain stands on an image of its own above ``VDA``; at the destination that is another file."""
    rig.beta.path(VDA).write_bytes(b"somebody's")
    words = ("--no-metadata", "--disk-only", "--diskspec", f"vda,file={IMAGES}/theirs.img")
    rig.alpha.virsh("snapshot-create-as", "--domain", "web", *words, "--diskspec", "vdb,snapshot=no")
    yield
    rig.alpha.virsh("blockcommit", "web", "vda", "--active", "--pivot", "--wait")
    rig.alpha.path(f"{IMAGES}/theirs.img").unlink()
    assert rig.beta.path(VDA).read_bytes() == b"somebody's"
    rig.beta.path(VDA).unlink()


@contextmanager
def external_snapshot(rig: Rig) -> Iterator[None]:
    words = ("--name", "ext", "--disk-only", "--diskspec", f"vda,file={IMAGES}/theirs.img")
    rig.alpha.virsh("snapshot-create-as", "--domain", "web", *words, "--diskspec", "vdb,snapshot=no")
    yield
    rig.alpha.virsh("snapshot-delete", "--domain", "web", "--snapshotname", "ext", "--metadata")
    rig.alpha.virsh("snapshot-current", "--domain", "web", "--snapshotname", "s2")
    rig.alpha.virsh("blockcommit", "web", "vda", "--active", "--pivot", "--wait")
    rig.alpha.path(f"{IMAGES}/theirs.img").unlink()


@contextmanager
def block_job(rig: Rig) -> Iterator[None]:
    words = ("--dest", f"{IMAGES}/theirs.img", "--format", "qcow2", "--transient-job")
    rig.alpha.virsh("blockcopy", "web", "vda", *words)
    wait_until(
        lambda: "ready='yes'" in rig.alpha.virsh("dumpxml", "web"), timeout=30, what="blockcopy to be ready"
    )
    yield
    rig.alpha.virsh("blockjob", "web", "vda", "--abort")
    rig.alpha.path(f"{IMAGES}/theirs.img").unlink()


@pytest.mark.parametrize(
    ("obstacle", "expected"),
    [
        (file_exists, {"path-taken"}),
        (domain_exists, {"domain-exists"}),
        (directory_missing, {"directory-missing", "file-missing"}),
        (initrd_missing, {"file-missing"}),
        (cdrom_missing, {"file-missing"}),
        (no_space, {"space"}),
        (other_template, {"backing-file"}),
        (external_snapshot, {"external-snapshot"}),
        (block_job, {"block-job"}),
    ],
)
def test_an_obstacle_is_named_and_nothing_touched(rig: Rig, obstacle: Obstacle, expected: set[str]) -> None:
    with obstacle(rig):
        before = [picture(host) for host in rig.lab.hosts]
        finished = rig.migrate("web", rig.alpha)
        assert [picture(host) for host in rig.lab.hosts] == before
    assert finished.returncode == REFUSED, finished.stderr
    assert checks_named(finished) == expected, finished.stderr
    for line in finished.stderr.splitlines():
        assert not line.startswith("Traceback")


def checks_named(finished: subprocess.CompletedProcess[str]) -> set[str]:
    """The names of the checks whose findings stand on stderr."""
    return set(re.findall(r"\[([a-z-]+)\]$", finished.stderr, re.MULTILINE))


def test_all_obstacles_are_told_at_once(rig: Rig) -> None:
    with ExitStack() as stack:
        for obstacle in (file_exists, domain_exists, cdrom_missing, no_space, other_template):
            stack.enter_context(obstacle(rig))
        before = [picture(host) for host in rig.lab.hosts]
        finished = rig.migrate("web", rig.alpha, "--exclude-disk", "vdx")
        assert [picture(host) for host in rig.lab.hosts] == before
    assert finished.returncode == REFUSED
    wanted = {"path-taken", "domain-exists", "file-missing", "space", "backing-file", "no-such-disk"}
    assert checks_named(finished) == wanted, finished.stderr
    assert "'vdx'" in finished.stderr
    assert CDROM in finished.stderr


def test_hosts_and_domains_that_are_not_there(rig: Rig) -> None:
    alpha, beta = rig.alpha, rig.beta
    closed = f"qemu+tcp://{beta.address}:1/system"
    # The root namespace reaches the host's socket through the file system of the process that holds it.
    socket = alpha.path("/run/libvirt/libvirt-sock")
    before = [picture(host) for host in rig.lab.hosts]
    for domain, source, destination, check, says in (
        ("nobody", alpha.uri, beta.uri, "no-such-domain", "'nobody'"),
        ("web", alpha.uri, closed, "unreachable", ":1/"),
        ("web", closed, beta.uri, "unreachable", ":1/"),
        ("web", alpha.uri, alpha.uri, "same-host", "alpha"),
        ("web", alpha.uri, f"qemu+unix:///system?socket={socket}", "same-host", "alpha"),
        ("web", beta.uri, alpha.uri, "no-such-domain", "'web'"),
    ):
        finished = rig.fsm("migrate", domain, "--from", source, "--to", destination)
        assert finished.returncode == REFUSED, finished.stderr
        assert check in checks_named(finished), finished.stderr
        assert says in finished.stderr
        assert "what to do" in finished.stderr
    assert [picture(host) for host in rig.lab.hosts] == before


@contextmanager
def somebody_elses_migration(rig: Rig, spec: GuestSpec) -> Iterator[None]:
    image = spec.disks[0].image(spec.name)
    rig.beta.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"])
    words = ["migrate", "--live", "--p2p", "--copy-storage-all", "--bandwidth", "1", spec.name, rig.beta.uri]
    with subprocess.Popen(["virsh", "-c", rig.alpha.uri, *words], env=clean_environment()) as virsh:
        wait_until(
            lambda: "Outgoing migration" in rig.alpha.virsh("domjobinfo", spec.name),
            timeout=30,
            what="somebody's migration",
        )
        yield
        rig.alpha.virsh("domjobabort", spec.name)
        virsh.wait()
    rig.beta.path(image).unlink()


def test_a_domain_that_somebody_else_migrates_or_that_was_saved(rig: Rig) -> None:
    spec = GuestSpec(name="mover", disks=(DiskSpec(target="vda", size_mib=16, data_mib=4),))
    rig.lab.define_guest(rig.alpha, spec)
    with somebody_elses_migration(rig, spec):
        finished = rig.migrate(spec.name, rig.alpha)
        assert "Outgoing migration" in rig.alpha.virsh("domjobinfo", spec.name)
    assert finished.returncode == REFUSED, finished.stderr
    assert "job" in checks_named(finished)
    Guest(rig.alpha, spec.name, spec).wait_for_writes()
    rig.alpha.virsh("managedsave", "--domain", spec.name)
    before = [picture(host) for host in rig.lab.hosts]
    finished = rig.migrate(spec.name, rig.alpha)
    assert (finished.returncode, checks_named(finished)) == (REFUSED, {"managed-save"}), finished.stderr
    assert [picture(host) for host in rig.lab.hosts] == before
    rig.alpha.virsh("managedsave-remove", "--domain", spec.name)
    rig.destroy(spec)


def test_a_path_with_a_line_break(rig: Rig) -> None:
    spec = GuestSpec(name="newline", disks=(DiskSpec(target="vda", size_mib=16, path=f"{IMAGES}/a\nb.img"),))
    rig.lab.define_guest(rig.alpha, spec)
    before = [picture(host) for host in rig.lab.hosts]
    finished = rig.migrate(spec.name, rig.alpha)
    assert [picture(host) for host in rig.lab.hosts] == before
    # libvirt writes the line break into its XML as it is, where every reader takes it for a space.
    assert (finished.returncode, checks_named(finished)) == (REFUSED, {"base"}), finished.stderr
    assert f"{IMAGES}/a b.img" in finished.stderr
    rig.destroy(spec)


@contextmanager
def loop_device(rig: Rig) -> Iterator[str]:
    """A block device of 16 MiB at the source; gone at the end, that very one."""
    backing = f"{IMAGES}/device.img"
    rig.alpha.run(["truncate", "--size", "16M", backing])
    device = rig.alpha.run(["losetup", "--find", "--show", backing]).strip()
    try:
        yield device
    finally:
        rig.alpha.run(["losetup", "--detach", device])
        rig.alpha.path(backing).unlink()


@pytest.mark.parametrize("running", [True, False])
def test_a_block_device_is_refused_by_name(rig: Rig, running: bool) -> None:  # noqa: FBT001
    with loop_device(rig) as device:
        xml = (
            "<domain type='qemu'><name>device</name><memory unit='MiB'>64</memory>"
            "<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='block' device='disk'>"
            f"<driver name='qemu' type='raw'/><source dev='{device}'/><target dev='vda' bus='virtio'/></disk>"
            "<memballoon model='none'/></devices></domain>"
        )
        rig.alpha.virsh("define", "/dev/stdin", stdin=xml)
        if running:
            rig.alpha.virsh("start", "--domain", "device", "--paused")
        before = [picture(host) for host in rig.lab.hosts]
        wanted = {"device-path", "transport"}  # /dev itself is not opened, whatever else is given
        for options in ((), ("--accept", "device-path", "--accept", "transport")):
            finished = rig.migrate("device", rig.alpha, *options)
            assert finished.returncode == REFUSED, finished.stderr
            assert checks_named(finished) == wanted, finished.stderr
            assert device in finished.stderr
        assert [picture(host) for host in rig.lab.hosts] == before
        if running:
            rig.alpha.virsh("destroy", "--domain", "device")
        rig.alpha.virsh("undefine", "--domain", "device")
