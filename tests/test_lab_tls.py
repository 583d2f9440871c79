"""libvirt's migration encrypted with QEMU's certificates, and where it listens, between two real hosts."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from tests.certificates import make_certificates
from tests.lab_rig import NEEDS_LAB, Rig, check_kept, check_untouched, look, watched

pytestmark = NEEDS_LAB
pytest_plugins = ["tests.rig_fixtures"]

COMMITTED, ROLLED_BACK = 0, 3
PKI = "/etc/libvirt/pki"
WEB = GuestSpec(
    name="web",
    disks=(DiskSpec(target="vda", size_mib=32, data_mib=8),),
    snapshots=(SnapshotSpec("s1"),),
    live_snapshots=False,
)


@pytest.fixture(scope="module")
def rig(rig: Rig) -> Rig:
    rig.lab.define_guest(rig.alpha, WEB)
    return rig


def certify(host: LabHost, authority: Path) -> None:
    """Give a host certificates, and let its libvirtd know."""
    make_certificates(host.path(PKI), host.address, authority)
    conf = host.path("/etc/libvirt/qemu.conf")
    conf.write_text(f'{conf.read_text()}default_tls_x509_cert_dir = "{PKI}"\ndefault_tls_x509_verify = 1\n')
    host.kill_libvirtd(signal.SIGTERM)
    host.start_libvirtd()


ELSEWHERE = "192.0.2.1"
"""An address that is nobody's."""


@pytest.mark.parametrize(
    "words", [("--listen-address", ELSEWHERE), ("--disks-uri", f"tcp://{ELSEWHERE}:49170")]
)
def test_where_the_destination_is_to_listen_is_handed_through(rig: Rig, words: tuple[str, str]) -> None:
    before = look(rig, rig.alpha, WEB)
    with watched(rig, WEB) as watch:
        finished = rig.migrate(WEB.name, rig.alpha, *words)
    assert finished.returncode == ROLLED_BACK, finished.stderr
    assert "Cannot assign requested address" in finished.stderr
    check_kept(rig, WEB, before, rig.alpha, watch.acks)


def test_without_certificates_it_goes_back_and_with_them_it_arrives(rig: Rig, tmp_path: Path) -> None:
    before = look(rig, rig.alpha, WEB)
    with watched(rig, WEB) as watch:
        finished = rig.migrate(WEB.name, rig.alpha, "--tls")
    assert finished.returncode == ROLLED_BACK, finished.stderr
    check_kept(rig, WEB, before, rig.alpha, watch.acks)
    check_untouched(rig, before, rig.beta)
    for host in rig.lab.hosts:
        certify(host, tmp_path)
    before = look(rig, rig.alpha, WEB)
    finished = rig.migrate(WEB.name, rig.alpha, "--tls", "--tls-destination", "somebody.else")
    assert finished.returncode == ROLLED_BACK, finished.stderr
    there = rig.beta.address
    words = ("--listen-address", there, "--disks-uri", f"tcp://{there}:49170")
    with watched(rig, WEB) as watch:
        finished = rig.migrate(WEB.name, rig.alpha, "--tls", "--tls-destination", there, *words)
    assert finished.returncode == COMMITTED, finished.stderr
    check_kept(rig, WEB, before, rig.beta, watch.acks)
