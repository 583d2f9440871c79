"""A running guest's UEFI variables and emulated TPM, between two real hosts: they come with its memory."""

from __future__ import annotations

from pathlib import Path

from lxml import etree

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from fsm.lab.guest import Guest, start
from tests.lab_definitions import part_of, redefine
from tests.lab_rig import NEEDS_LAB, Rig, check_kept, look, watched

pytestmark = NEEDS_LAB
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


def describe(root: etree._Element) -> None:
    """Give the domain a firmware with variables of its own, and a TPM."""
    kind = part_of(root, "os/type")
    kind.addnext(etree.fromstring(f"<nvram template='{TEMPLATE}'>{VARIABLES}</nvram>"))
    kind.addnext(etree.fromstring(f"<loader readonly='yes' type='pflash'>{CODE}</loader>"))
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
