"""docs/hosts-ssh.md and docs/hosts-tls.md, as they stand there, on two hosts of a lab; and of
docs/polkit.md what is done by hand.

The machine stands for ``admin``: its shell has ``/etc/hosts``, ``/root/.ssh`` and ``/etc/pki`` of its own.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm.lab import DiskSpec, GuestSpec, Lab, LabHost, SnapshotSpec
from fsm.lab.process import clean_environment
from fsm.lab.spec import DomainState
from tests.documented import DOCS, blocks
from tests.lab_rig import LONG_LAB, lab_in, pools
from tests.pages import Names, run_page, shell

pytestmark = LONG_LAB

BY_HAND = [line for line in blocks(DOCS / "polkit.md") if "fsm-guard" in line]
"""What an operator does on a host without ``fsm``."""
NAMES = ("host-a", "host-b")
SSHD = shutil.which("sshd", path=clean_environment()["PATH"])
PRIVATE = ("/root/.ssh", "/etc/ssh", "/etc/pki", "/etc/sysctl.d", "/run/sshd")
SSHD_CONF = """\
ListenAddress {address}
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
UsePAM no
PermitRootLogin prohibit-password
"""
# Hosts of a lab have no systemd.
SYSTEMCTL = """\
#!/bin/sh
case "$*" in
"stop libvirtd.service")
    pid=$(cat /run/libvirt/libvirtd.pid) && kill "$pid" && tail --pid="$pid" -s 0.1 -f /dev/null ;;
"enable --now libvirtd-tls.socket")
    sed -i "s/^listen_tls.*/listen_tls = 1/" /etc/libvirt/libvirtd.conf ;;
"start libvirtd.service")
    exec {start} "$(hostname)" ;;
*)
    exit 1 ;;
esac
"""
SSH = """\
#!/bin/sh
host=$1
shift
case "$host" in
{cases}*)
    exit 255 ;;
esac
"""
START = """\
import sys
from fsm.lab import Lab
next(host for host in Lab.load("{lab}").hosts if host.name == sys.argv[1]).start_libvirtd()
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts that know each other by name, and small guests on the first."""
    with lab_in(tmp_path_factory.mktemp("labs"), host_names=NAMES) as lab:
        for host in lab.hosts:
            keep_apart(host)
            conf = host.path("/etc/libvirt/qemu.conf")
            lines = conf.read_text("utf-8").splitlines()
            conf.write_text("\n".join(line for line in lines if not line.startswith("migration_host")) + "\n")
            host.kill_libvirtd(signal.SIGTERM)
            host.start_libvirtd()
        lab.define_guest(lab.hosts[0], guest("web"))
        lab.define_guest(lab.hosts[0], guest("db", "shut off"))
        for name in ("mail", "shop", "wiki"):
            lab.define_guest(lab.hosts[0], guest(name))
        yield lab


def guest(name: str, state: DomainState = "running") -> GuestSpec:
    disks = (DiskSpec(target="vda", size_mib=16),)
    snapshots = (SnapshotSpec("s1"),)
    return GuestSpec(name=name, disks=disks, snapshots=snapshots, live_snapshots=False, state=state)


def keep_apart(host: LabHost) -> None:
    """Give a host directories of its own for all that a page writes there."""
    for inside in PRIVATE:
        private = host.directory / inside.strip("/").replace("/", "-")
        private.mkdir(mode=0o755)
        Path(inside).mkdir(parents=True, exist_ok=True)
        host.run(["mount", "--bind", str(private), inside])


def admin(lab: Lab, work: Path) -> list[str]:
    """What leads to a shell on the machine, with files of its own where the pages write some."""
    mounts = [f"mount --bind {shlex.quote(str(lab.hosts[0].directory / 'hosts'))} /etc/hosts"]
    for inside in ("/root/.ssh", "/etc/pki"):
        private = work / inside.strip("/").replace("/", "-")
        private.mkdir(mode=0o700)
        mounts.append(f"mount --bind {shlex.quote(str(private))} {inside}")
    script = " && ".join([*mounts, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


def in_directory(work: Path) -> list[str]:
    """For a shell of another mount namespace, which would begin at its root."""
    return ["sh", "-c", 'cd "$0" && exec "$@"', str(work)]


def environment_in(lab: Lab, work: Path) -> dict[str, str]:
    """Where the commands are, with stand-ins in ``work``, and what belongs to this lab."""
    return {
        **clean_environment(),
        "PATH": f"{work}:{Path(sys.executable).parent}:{clean_environment()['PATH']}",
        "FSM_LAB_DIR": str(lab.directory.parent),
        "FSM_JOURNAL": str(work / "journal.db"),
    }


def run(page: str, lab: Lab, work: Path) -> None:
    """Run a page of the documentation on these hosts."""
    prompts = {f"{host.name}#": (*host.enter, *in_directory(work)) for host in lab.hosts}
    environment = environment_in(lab, work)
    run_page(DOCS / page, {"admin#": admin(lab, work), **prompts}, work, environment, Names())


@pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed")
def test_hosts_with_ssh(lab: Lab, tmp_path: Path) -> None:
    for host in lab.hosts:
        comment, key = f"root@{host.name}", "/etc/ssh/ssh_host_ed25519_key"
        host.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", key])
        host.path("/etc/ssh/sshd_config").write_text(SSHD_CONF.format(address=host.address))
        host.run([str(SSHD)])  # it ends with the host, as all that runs there
    run("hosts-ssh.md", lab, tmp_path)


def test_hosts_with_tls(lab: Lab, tmp_path: Path) -> None:
    start = [sys.executable, "-c", START.format(lab=lab.name)]
    cases = "".join(f'root@{host.name}) exec {shlex.join(host.enter)} "$@" ;;\n' for host in lab.hosts)
    stand_ins = {"systemctl": SYSTEMCTL.format(start=shlex.join(start)), "ssh": SSH.format(cases=cases)}
    for name, script in stand_ins.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    run("hosts-tls.md", lab, tmp_path)


def test_a_guard_that_is_installed_by_hand(lab: Lab, tmp_path: Path) -> None:
    host, _ = lab.hosts
    environment = environment_in(lab, tmp_path)
    with shell((*host.enter, *in_directory(tmp_path)), tmp_path, environment) as bash:
        for line in BY_HAND:
            printed = bash.run(line)
            assert bash.code == 0, printed
    assert pools(host)["fsm-guard"]
    assert "polkit.addRule(" in (tmp_path / "00-fsm-guard.rules").read_text("utf-8")
