"""A guest's UEFI variables and emulated TPM, between two real hosts.

They come with its memory; those of one that is shut off are a file that is copied.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from attrs import evolve
from lxml import etree

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from fsm.lab.guest import Guest, start
from tests.faults.scene import copying
from tests.lab_definitions import definition, part_of, redefine
from tests.lab_rig import LONG_LAB, Rig, by_nbd, check_kept, check_untouched, look, still, watched

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK = 0, 3
CODE, TEMPLATE = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
VARIABLES = "/var/lib/libvirt/qemu/nvram/firm_VARS.fd"
FIRM = GuestSpec(
    name="firm",
    disks=(DiskSpec(target="vda", data_mib=8),),
    snapshots=(SnapshotSpec("s1"), SnapshotSpec("s2", "s1")),
    live_snapshots=False,  # libvirt 9.0 takes none of a domain with UEFI; these are older than that
    state="shut off",
    memory_mib=256,
)


ENROLLED = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
"""Other variables than those of the template."""
OFF = evolve(
    FIRM, name="off", disks=(DiskSpec(target="vda", data_mib=32, path="/var/lib/libvirt/images/off.qcow2"),)
)
MOVED = evolve(OFF, name="moved")
OFF_VARIABLES = VARIABLES.replace("firm_", "off_")


def with_firmware(root: etree._Element, path: str = VARIABLES) -> None:
    """Give the domain a firmware with variables of its own."""
    kind = part_of(root, "os/type")
    kind.addnext(etree.fromstring(f"<nvram template='{TEMPLATE}'>{path}</nvram>"))
    kind.addnext(etree.fromstring(f"<loader readonly='yes' type='pflash'>{CODE}</loader>"))


def with_chosen_firmware(root: etree._Element) -> None:
    """Leave the choice of firmware, and the place of its variables, to libvirt."""
    part_of(root, "os").set("firmware", "efi")


def describe(root: etree._Element) -> None:
    """Give the domain a firmware, and a TPM."""
    with_firmware(root)
    tpm = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"
    part_of(root, "devices").append(etree.fromstring(tpm))


def tpm_states(host: LabHost) -> list[bytes]:
    """What the emulated TPMs of a host keep."""
    return [path.read_bytes() for path in host.path("/var/lib/libvirt/swtpm").rglob("tpm2-00.permall")]


def test_they_arrive_and_the_domain_stays_whole_where_the_migration_fails(rig: Rig) -> None:
    rig.lab.define_guest(rig.alpha, FIRM)
    redefine(rig.alpha, FIRM.name, describe)
    start(Guest(rig.alpha, FIRM.name, FIRM))
    before = look(rig, rig.alpha, FIRM)
    variables, tpms = rig.alpha.path(VARIABLES).read_bytes(), tpm_states(rig.alpha)
    assert variables != Path(TEMPLATE).read_bytes()
    assert len(tpms) == 1
    failed = rig.migrate(FIRM.name, rig.alpha, "--migrate-uri", "tcp://192.0.2.1")
    assert failed.returncode == ROLLED_BACK, failed.stderr
    with watched(rig, FIRM) as watch:
        finished = rig.migrate(FIRM.name, rig.alpha, "--verify", "full")
    assert finished.returncode == COMMITTED, finished.stderr
    assert rig.beta.path(VARIABLES).read_bytes() == variables
    assert tpm_states(rig.beta) == tpms
    check_kept(rig, FIRM, before, rig.beta, watch.acks)


@pytest.mark.parametrize("chosen", [False, True], ids=["named-streams", "chosen-by-libvirt-nbd"])
def test_those_of_one_that_is_shut_off_are_copied(rig: Rig, *, chosen: bool) -> None:
    rig.lab.define_guest(rig.alpha, OFF)
    redefine(
        rig.alpha,
        OFF.name,
        with_chosen_firmware if chosen else lambda root: with_firmware(root, OFF_VARIABLES),
    )
    here, there = (host.path(OFF_VARIABLES) for host in rig.lab.hosts)
    rig.alpha.virsh("start", "--domain", OFF.name, "--paused")
    assert here.read_bytes() == Path(TEMPLATE).read_bytes()
    rig.alpha.virsh("destroy", "--domain", OFF.name)
    variables = Path(ENROLLED).read_bytes()
    here.write_bytes(variables)
    before, described = look(rig, rig.alpha, OFF), definition(rig.alpha, OFF.name)
    options = by_nbd(rig, rig.alpha) if chosen else []
    with rig.migrating(OFF.name, rig.alpha, "--bandwidth", "8", *options) as running:
        assert running.until(copying), running.events[-5:]
        assert there.exists()
        running.send(signal.SIGINT)
        code, result = running.finish()
    assert (code, there.exists()) == (ROLLED_BACK, False), result
    check_untouched(rig, before, rig.beta)
    finished = rig.migrate(OFF.name, rig.alpha, "--dname", MOVED.name, "--delete-source", *options)
    assert finished.returncode == COMMITTED, finished.stderr
    assert there.read_bytes() == variables
    # A file that came through streams may not have reached stable storage.
    assert (here.exists(), f"{OFF_VARIABLES} (" in finished.stderr) == (not chosen, not chosen), finished
    moved = definition(rig.beta, MOVED.name)
    assert OFF_VARIABLES in moved
    assert chosen or moved.replace(">moved<", ">off<") == described
    assert still(rig.beta, MOVED) == before.still
    rig.beta.virsh("start", "--domain", MOVED.name)
    Guest(rig.beta, OFF.name, OFF).wait_for_writes()
    rig.beta.virsh("destroy", "--domain", MOVED.name)
    rig.beta.virsh("undefine", "--domain", MOVED.name, "--snapshots-metadata", "--nvram")
    assert not there.exists()
    rig.remove_images(rig.beta, OFF)
    here.unlink(missing_ok=True)
