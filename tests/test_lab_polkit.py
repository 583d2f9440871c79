"""The polkit rule on two real hosts whose libvirt asks polkit: an ordinary user of libvirt, and root."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator

import pytest
from lxml import etree

from fsm.hypervisor.polkit import POOL, SIGNS, sign_paths
from fsm.lab import IMAGES, DiskSpec, GuestSpec, LabHost, SnapshotSpec, access, snapshot_table
from fsm.lab.guest import Guest
from fsm.lab.process import clean_environment, wait_until
from fsm.machine.loader import load_default
from fsm.machine.operations import Operation
from fsm.machine.permissions import PERMISSIONS, is_refused
from tests.faults.scene import copying, memory_moves
from tests.lab_rig import NEEDS_LAB, Rig, check_kept, domains, lab_in, look, watched

pytestmark = NEEDS_LAB

WEB = GuestSpec(
    name="web",
    disks=(DiskSpec(target="vda", size_mib=48, data_mib=32),),
    snapshots=(SnapshotSpec("s1"),),
    live_snapshots=False,
)
ODD_IMAGE = f"{IMAGES}/it's (1) * é & 100%.qcow2"
THROWN_AWAY = GuestSpec(
    name="thrown-away",
    disks=(
        DiskSpec(target="vda", size_mib=16, path=ODD_IMAGE),
        DiskSpec(target="hda", device="cdrom", size_mib=1),
    ),
    snapshots=(SnapshotSpec("s1"),),
)
DEVICE = f"{IMAGES}/device.xml"
DOMAIN = f"{IMAGES}/domain.xml"
NOWHERE = "qemu+tcp://127.0.0.1:1/system"
HARMLESS = ("qemu-monitor-command", "--hmp", "--cmd", "info version", "--domain")
"""Takes domain.write, and changes nothing."""

# How virsh is told to do each operation to the guest that is thrown away.
COMMANDS: dict[Operation, tuple[str, ...]] = {
    Operation.SNAPSHOT_CREATE_INTERNAL: ("snapshot-create-as", "thrown-away", "s2"),
    Operation.SNAPSHOT_CREATE_EXTERNAL: ("snapshot-create-as", "thrown-away", "--disk-only", "--no-metadata"),
    Operation.SNAPSHOT_REVERT: ("snapshot-revert", "thrown-away", "s1"),
    Operation.SNAPSHOT_DELETE: ("snapshot-delete", "thrown-away", "s1"),
    Operation.SNAPSHOT_REDEFINE: ("snapshot-create", "thrown-away", DEVICE, "--redefine"),
    Operation.BLOCK_COMMIT: ("blockcommit", "thrown-away", "vda", "--active"),
    Operation.BLOCK_PULL: ("blockpull", "thrown-away", "vda"),
    Operation.BLOCK_COPY: ("blockcopy", "thrown-away", "vda", f"{IMAGES}/copy.qcow2", "--transient-job"),
    Operation.BLOCK_REBASE: ("blockpull", "thrown-away", "vda", "--base", ODD_IMAGE),
    Operation.BLOCK_RESIZE: ("blockresize", "thrown-away", "vda", "32M"),
    Operation.BLOCK_JOB_ABORT: ("blockjob", "thrown-away", "vda", "--abort"),
    Operation.JOB_ABORT: ("domjobabort", "thrown-away"),
    Operation.BACKUP_BEGIN: ("backup-begin", "thrown-away"),
    Operation.CHECKPOINT_CREATE: ("checkpoint-create-as", "thrown-away", "c2"),
    Operation.CHECKPOINT_DELETE: ("checkpoint-delete", "thrown-away", "c1"),
    Operation.SAVE: ("save", "thrown-away", f"{IMAGES}/memory"),
    Operation.MANAGED_SAVE: ("managedsave", "thrown-away"),
    Operation.MIGRATE: ("migrate", "--live", "--p2p", "thrown-away", NOWHERE),
    Operation.ATTACH_DEVICE: ("attach-device", "thrown-away", DEVICE),
    Operation.DETACH_DEVICE: ("detach-device", "thrown-away", DEVICE),
    Operation.UPDATE_DEVICE: ("update-device", "thrown-away", DEVICE),
    Operation.CHANGE_MEDIA: ("change-media", "thrown-away", "hda", "--eject"),
    Operation.DEFINE: ("define", DOMAIN),
    Operation.RENAME: ("domrename", "thrown-away", "renamed"),
    Operation.SET_METADATA: ("metadata", "thrown-away", "urn:theirs", "--key", "t", "--set", "<their/>"),
    Operation.TUNE: ("blkdeviotune", "thrown-away", "vda", "--total-iops-sec", "5000"),
    Operation.UNDEFINE: ("undefine", "thrown-away", "--snapshots-metadata", "--checkpoints-metadata"),
    Operation.VOLUME_DELETE: ("vol-delete", ODD_IMAGE),
    Operation.VOLUME_RESIZE: ("vol-resize", ODD_IMAGE, "32M"),
    Operation.VOLUME_WIPE: ("vol-wipe", ODD_IMAGE),
    Operation.VOLUME_UPLOAD: ("vol-upload", ODD_IMAGE, "/etc/hostname"),
    Operation.QUERY: ("dumpxml", "thrown-away"),
    Operation.GUEST: ("send-key", "thrown-away", "KEY_LEFTSHIFT"),
    Operation.SUSPEND: ("suspend", "thrown-away"),
    Operation.RESUME: ("resume", "thrown-away"),
    Operation.REBOOT: ("reboot", "thrown-away"),
    Operation.SHUTDOWN: ("shutdown", "thrown-away"),
    Operation.CORE_DUMP: ("dump", "thrown-away", f"{IMAGES}/core", "--memory-only"),
    Operation.DESTROY: ("destroy", "thrown-away"),
}
# virsh looks first whether the domain runs, and does not call libvirt if it does.
UNTRIED = {Operation.START}
COMMITTED, ROLLED_BACK, REFUSED_BY_PREFLIGHT = 0, 3, 5
REFUSED = [operation for operation in Operation if is_refused(load_default(), operation)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("labs")
    with lab_in(directory, access_control=True) as lab:
        for host in lab.hosts:
            install(host)
        yield Rig(lab, directory / "journal.db")


def install(host: LabHost, *options: str) -> None:
    """As the operator does it on the host; polkitd reads the rule when it sees the file."""
    before = loaded(host)
    host.run([sys.executable, "-m", "fsm", "guard", "polkit", "--install", *options])
    wait_until(lambda: loaded(host) > before, timeout=30, what="polkitd to read its rules anew")


def log(host: LabHost) -> str:
    return host.path(access.LOG).read_text("utf-8")


def loaded(host: LabHost) -> int:
    return log(host).count("Finished loading")


def as_user(host: LabHost, *words: str) -> subprocess.CompletedProcess[str]:
    """What virsh says to an ordinary user of the host who may use libvirt."""
    virsh = access.as_user("virsh", "-q", "-c", "qemu:///system", *words)
    return subprocess.run(
        [*host.enter, *virsh],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=clean_environment(),
    )


def refused(host: LabHost, *words: str) -> bool:
    """Whether libvirt's access control refused it; any other failure, or success, is none of its doing."""
    done = as_user(host, *words)
    return done.returncode != 0 and "access denied" in done.stderr


def signs(host: LabHost) -> list[str]:
    return sorted(path.name for path in host.path(SIGNS).iterdir())


# The rule, with signs made by hand


@pytest.fixture
def thrown_away(rig: Rig) -> Iterator[Guest]:
    """A guest with signs as a migration makes them, a snapshot, a checkpoint and a pool on its images."""
    host = rig.alpha
    guest = rig.lab.define_guest(host, THROWN_AWAY)
    host.virsh("pool-create-as", "images", "dir", "--target", IMAGES)
    host.virsh("checkpoint-create-as", "thrown-away", "c1")
    root = etree.fromstring(host.virsh("dumpxml", "thrown-away"))
    host.path(DOMAIN).write_bytes(etree.tostring(root))
    (cdrom,) = root.xpath("devices/disk[@device='cdrom']")
    host.path(DEVICE).write_bytes(etree.tostring(cdrom))
    made = sign_paths(host.virsh("domuuid", "thrown-away").strip(), [ODD_IMAGE])
    for path in made:
        host.path(path).touch()
    yield guest
    for path in made:
        host.path(path).unlink(missing_ok=True)
    host.virsh("checkpoint-delete", "thrown-away", "c1", "--metadata")
    rig.destroy(THROWN_AWAY)
    host.virsh("pool-destroy", "images")


def test_every_operation_is_refused_or_let_through_as_the_machine_says(rig: Rig, thrown_away: Guest) -> None:
    host = thrown_away.host
    assert set(COMMANDS) == set(Operation) - UNTRIED
    for operation in set(REFUSED) - UNTRIED:
        seen = len(log(host))
        assert refused(host, *COMMANDS[operation]), operation
        asked = re.findall(r"^fsm: (\S+) on .* refused to (\S+):", log(host)[seen:], re.MULTILINE)
        assert [(name, user) for name, user in asked if name not in PERMISSIONS[operation]] == []
        assert {user for _, user in asked} == {access.USER}
    for operation in COMMANDS:
        if operation not in REFUSED:
            done = as_user(host, *COMMANDS[operation])
            assert done.returncode == 0, (operation, done.stderr)


def test_without_signs_the_rule_is_as_if_it_were_not_there(rig: Rig, thrown_away: Guest) -> None:
    host = thrown_away.host
    assert refused(host, *HARMLESS, "thrown-away")
    assert refused(host, "vol-resize", ODD_IMAGE, "32M")
    host.path(SIGNS + "/" + signs(host)[1]).unlink()
    assert refused(host, *HARMLESS, "thrown-away")
    assert not refused(host, "vol-resize", ODD_IMAGE, "32M")
    host.path(SIGNS + "/" + signs(host)[0]).unlink()
    assert as_user(host, *HARMLESS, "thrown-away").returncode == 0


def test_root_and_exempt_users_are_let_through(rig: Rig, thrown_away: Guest) -> None:
    host = thrown_away.host
    host.virsh(*HARMLESS, "thrown-away")
    assert refused(host, *HARMLESS, "thrown-away")
    install(host, "--exempt", "somebody", "--exempt", access.USER)
    assert as_user(host, *HARMLESS, "thrown-away").returncode == 0
    install(host)
    assert refused(host, *HARMLESS, "thrown-away")


def test_where_signs_cannot_be_read_everything_is_refused(rig: Rig, thrown_away: Guest) -> None:
    host = thrown_away.host
    for path in host.path(SIGNS).iterdir():
        path.unlink()
    assert as_user(host, *HARMLESS, "thrown-away").returncode == 0
    host.path(SIGNS).rename(host.path(f"{SIGNS}.away"))
    try:
        assert refused(host, *HARMLESS, "thrown-away")
        assert "no look at the signs of migrations" in log(host)
    finally:
        host.path(f"{SIGNS}.away").rename(host.path(SIGNS))
    assert as_user(host, *HARMLESS, "thrown-away").returncode == 0


def test_nobody_else_touches_the_signs(rig: Rig, thrown_away: Guest) -> None:
    host, (sign, _) = thrown_away.host, signs(thrown_away.host)
    assert as_user(host, "pool-refresh", POOL).returncode == 0
    assert sign in as_user(host, "vol-list", POOL).stdout
    for words in (
        ("vol-delete", "--pool", POOL, sign),
        ("vol-delete", f"{SIGNS}/{sign}"),
        ("vol-wipe", "--pool", POOL, sign),
        ("vol-create-as", POOL, "another", "1M"),
        ("pool-destroy", POOL),
        ("pool-delete", POOL),
        ("pool-autostart", POOL, "--disable"),
    ):
        assert refused(host, *words), words
    other = as_user(host, "pool-create-as", "another", "dir", "--target", SIGNS)
    assert other.returncode != 0
    assert sign in signs(host)


# The rule and the engine


def test_a_group_member_is_refused_during_the_migration_and_allowed_after_it(rig: Rig) -> None:
    alpha, beta = rig.alpha, rig.beta
    rig.lab.define_guest(alpha, WEB)
    before = look(rig, alpha, WEB)
    snapshot = ("snapshot-create-as", "web", "of-another")
    assert as_user(alpha, *HARMLESS, "web").returncode == 0
    with watched(rig, WEB) as watch:
        with rig.migrating("web", alpha, "--bandwidth", "8", "--merge", "commit") as running:
            assert running.until(copying), running.errors.read_text()
            assert refused(alpha, *snapshot)
            assert refused(alpha, *HARMLESS, "web")
            alpha.virsh(*HARMLESS, "web")  # root
            assert refused(beta, "vol-delete", WEB.disks[0].image("web")), "the copy"
            assert running.until(memory_moves), running.errors.read_text()
            assert refused(alpha, "domjobabort", "web")
        # The engine is dead now. libvirt goes on, and the domain waits at the destination, on its overlay.
        wait_until(lambda: "web" not in domains(alpha), timeout=120, what="the migration to come to its end")
        assert refused(beta, *snapshot)
        beta.virsh(*HARMLESS, "web")  # root
        assert len(signs(alpha)) == len(signs(beta)) == 3
        (migration,) = rig.unfinished()
        resumed = rig.fsm("resume", migration)
        assert resumed.returncode == 0, resumed.stderr
    check_kept(rig, WEB, before, beta, watch.acks)
    assert signs(alpha) == signs(beta) == []
    assert as_user(beta, *snapshot).returncode == 0
    assert as_user(beta, "snapshot-delete", "web", "of-another").returncode == 0
    rig.destroy(WEB)


def test_no_snapshot_vanishes_that_another_takes_at_any_moment(rig: Rig) -> None:
    guest = rig.lab.define_guest(rig.alpha, WEB)
    taken: list[str] = []
    over = threading.Event()

    def take_snapshots(host: LabHost) -> None:
        while not over.is_set():
            name = f"{host.name}-{uuid.uuid4()}"
            done = as_user(host, "snapshot-create-as", "web", name).returncode == 0
            taken.extend([name] if done else [])
            over.wait(1 if done else 0.1)  # a snapshot takes tens of megabytes

    others = [threading.Thread(target=take_snapshots, args=(host,)) for host in rig.lab.hosts]
    for other in others:
        other.start()
    try:
        wait_until(lambda: len(taken) > 0, timeout=60, what="a snapshot before the migration")
        finished = rig.migrate("web", rig.alpha)
        for _ in range(20):
            if finished.returncode != REFUSED_BY_PREFLIGHT:  # preflight came upon one being taken
                break
            finished = rig.migrate("web", rig.alpha)
        at_end = len(taken)
        wait_until(lambda: len(taken) > at_end, timeout=60, what="a snapshot after the migration")
    finally:
        over.set()
        for other in others:
            other.join()
    assert finished.returncode in (COMMITTED, ROLLED_BACK), finished.stderr
    home = rig.beta if finished.returncode == COMMITTED else guest.host
    known = home.virsh("snapshot-list", "web", "--name").split()
    stored = [one.name for one in snapshot_table(WEB.disks[0].image("web"), enter=home.enter)]
    assert [name for name in taken if name not in known or name not in stored] == []
    rig.destroy(WEB)
