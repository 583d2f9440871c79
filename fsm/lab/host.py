"""One host of a lab: its namespaces, its libvirtd, its QEMU processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import attrs

from fsm.lab import reaper as reaper_module
from fsm.lab.errors import LabError
from fsm.lab.process import (
    COMMAND_TIMEOUT,
    ProcessId,
    all_pids,
    arguments,
    clean_environment,
    kill,
    run,
    send,
)
from fsm.lab.root import take_root
from fsm.lab.state import NATIVE_ROOT, HostState

IMAGES = "/var/lib/libvirt/images"
BOOT = "/var/lib/libvirt/boot"
SERIAL = "/var/lib/libvirt/serial"
SSH = "ssh"
"""Below a host's directory: what libvirt runs in place of ``ssh``, on a host with access control."""
_PID_FILE = "/run/libvirt/libvirtd.pid"
_NAMESPACES = ("--mount", "--net", "--uts")

# Directory in the host -> directory below the host's state directory. Both hosts see the left-hand paths.
_PRIVATE = {
    "/run/libvirt": "run",
    "/var/lib/libvirt": "lib",
    "/etc/libvirt": "etc",
    "/var/log/libvirt": "log",
    "/var/cache/libvirt": "cache",
}

_LIBVIRTD_CONF = """\
# Without authentication because this address exists only inside the lab. Never do this on a real host.
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{host_uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
migration_address = "{address}"
migration_host = "{address}"
"""


@attrs.frozen
class LabHost:
    """A libvirtd with a network, a host name and libvirt directories of its own."""

    name: str
    address: str
    directory: Path
    """Where the host's private directories really are."""
    holder: ProcessId | None
    access_control: bool = False
    """libvirt asks polkit about every call; see ``fsm.lab.access``."""

    @property
    def uri(self) -> str:
        """The libvirt URI, valid in the root namespace and on the other host."""
        if self.access_control:
            return f"qemu+ssh://root@{self.address}/system?command={quote(str(self.directory / SSH))}"
        return f"qemu+tcp://{self.address}/system"

    @property
    def enter(self) -> tuple[str, ...]:
        """The words to put in front of a command to run it on this host."""
        if self.holder is None or not self.holder.alive():
            raise LabError(f"{self.name}: the host is not up", remedy="fsm lab down, then fsm lab up")
        return ("nsenter", "--target", str(self.holder.pid), *_NAMESPACES, "--")

    def run(self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a command on this host and return what it printed; LabError if it fails."""
        return run([*self.enter, *argv], stdin=stdin, timeout=timeout)

    def virsh(self, *args: str, stdin: str | None = None, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run virsh against this host from the root namespace; LabError with its message if it fails."""
        try:
            return run(["virsh", "-q", "-c", self.uri, *args], stdin=stdin, timeout=timeout)
        except LabError as error:
            raise LabError(f"{self.name}: {error}", remedy=error.remedy) from error

    def path(self, path: str | Path) -> Path:
        """The path by which the root namespace reaches a file of this host while the host is up.

        It leads through the holder's root, so it sees file systems mounted in the host too. Don't resolve()
        it: the kernel's link would read as ``/``.
        """
        if self.holder is None:
            raise LabError(f"{self.name}: the host is not up")
        return Path(f"/proc/{self.holder.pid}/root") / str(path).lstrip("/")

    # libvirtd

    def libvirtd_pid(self) -> int | None:
        """The process number of the host's libvirtd, None if it does not run."""
        try:
            pid = int(
                (self.directory / _PRIVATE["/run/libvirt"] / "libvirtd.pid").read_text(encoding="ascii")
            )
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._is_libvirtd(pid) else None

    def start_libvirtd(self, *, timeout: float = 60.0) -> None:
        """Start libvirtd and wait until it answers."""
        if self.libvirtd_pid() is not None:
            return
        libvirtd = [*self.enter, "libvirtd", "--daemon", "--listen", "--pid-file", _PID_FILE]
        # Outside the host, whose root may have no Python.
        reaper = [sys.executable, "-I", reaper_module.__file__]
        printed = run(["setsid", "--fork", *reaper, *libvirtd], timeout=timeout)
        if not printed.endswith(f"{reaper_module.END_OF_OUTPUT}0\n"):
            raise LabError(f"{self.name}: libvirtd does not start: {printed.strip()}")
        # The daemon detaches once its sockets listen; an answer shows that its drivers are there as well.
        self.virsh("list", timeout=timeout)

    def kill_libvirtd(self, sig: int = signal.SIGKILL) -> None:
        """Signal libvirtd and wait for its end. Its domains go on."""
        pid = self.libvirtd_pid()
        if pid is None or not kill(pid, self._is_libvirtd, sig=sig):
            raise LabError(f"{self.name}: no libvirtd runs there")

    def _is_libvirtd(self, pid: int) -> bool:
        argv = arguments(pid)
        return bool(argv) and Path(argv[0]).name == "libvirtd" and self.contains(pid)

    # QEMU

    def qemu_pids(self, domain: str) -> list[int]:
        """The QEMU processes of a domain on this host: one while it is active, none otherwise."""
        return [pid for pid in all_pids() if self._is_qemu(pid, domain)]

    def kill_qemu(self, domain: str, sig: int = signal.SIGKILL) -> None:
        """Signal the QEMU of a domain and wait for its end; libvirtd learns of it a moment later."""
        ended = [kill(pid, lambda one: self._is_qemu(one, domain), sig=sig) for pid in self.qemu_pids(domain)]
        if not any(ended):
            raise LabError(f"{self.name}: no QEMU of domain {domain!r} runs there")

    def stop_qemu(self, domain: str) -> None:
        """Freeze the QEMU of a domain (SIGSTOP), as a host that hangs would."""
        for pid in self.qemu_pids(domain):
            send(pid, lambda one: self._is_qemu(one, domain), signal.SIGSTOP)

    def continue_qemu(self, domain: str) -> None:
        """Undo ``stop_qemu``."""
        for pid in self.qemu_pids(domain):
            send(pid, lambda one: self._is_qemu(one, domain), signal.SIGCONT)

    def _is_qemu(self, pid: int, domain: str) -> bool:
        argv = arguments(pid)
        if "-name" not in argv[:-1]:
            return False
        # QEMU's options are separated by commas; libvirt doubles those of the name.
        name = argv[argv.index("-name") + 1]
        return name.startswith(f"guest={domain.replace(',', ',,')},debug-threads=") and self.contains(pid)

    # Storage

    def mount_small(self, path: str, size_mib: int) -> None:
        """Mount a new ext4 of a given size at ``path``, for a disk that really gets full.

        It is unmounted with the host.
        """
        image = self.directory / f"small-{uuid.uuid4().hex[:8]}.ext4"
        with image.open("wb") as file:
            file.truncate(size_mib * 1024 * 1024)
        run(["mkfs.ext4", "-q", "-m", "0", str(image)])
        self.run(["mkdir", "-p", path])
        self.run(["mount", "-o", "loop", str(image), path])

    # Life of the host itself

    def contains(self, pid: int) -> bool:
        """Whether a process lives in this host: its ``/run/libvirt`` is ours, and nobody else's can be."""
        try:
            return os.path.samefile(
                f"/proc/{pid}/root/run/libvirt", self.directory / _PRIVATE["/run/libvirt"]
            )
        except OSError:
            return False

    def pids(self) -> list[int]:
        """Every process that lives in this host, the holder included."""
        return [pid for pid in all_pids() if self.contains(pid)]

    def end(self) -> None:
        """Kill every process of this host and no other.

        Its namespaces and mounts vanish with the last of them.
        """
        libvirtd = self.libvirtd_pid()
        if libvirtd is not None:  # first, so that nothing new is started
            kill(libvirtd, self._is_libvirtd)
        # Again until none is found: one of them may have been starting another.
        while found := self.pids():
            for pid in found:
                kill(pid, self.contains)
        holder = self.holder
        if holder is not None:  # of an interrupted start, not yet among the processes found above
            kill(holder.pid, lambda _: holder.alive())


class StartingHolder:
    """A holder process that waits for leave to live.

    It ends by itself when this process dies before ``keep`` was called, so a crash between its start and the
    writing of the state file leaves nothing behind.
    """

    def __init__(self) -> None:
        script = "echo $$ && read -r go && exec sleep infinity"
        unshare = ["unshare", *_NAMESPACES, "--propagation", "private", "--", "sh", "-c", script]
        self._process = subprocess.Popen(
            ["setsid", "--fork", *unshare],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=clean_environment(),
            text=True,
        )
        self._process.wait()  # setsid has forked; what follows comes from the holder
        line = self._process.stdout.readline().strip() if self._process.stdout else ""
        if not line.isdigit():
            self._close()
            raise LabError(f"cannot make namespaces: {line}", remedy="the lab must be run by root")
        self.identity = ProcessId.of(int(line))

    def keep(self) -> None:
        """Let the holder live on after this process."""
        if self._process.stdin is not None:
            self._process.stdin.write("go\n")
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def furnish(
    host: LabHost, state: HostState, neighbours: Sequence[HostState], tcp_retries2: int | None
) -> None:
    """Give a host whose holder runs its directories, name and configuration."""
    host.directory.mkdir()
    if state.root != NATIVE_ROOT:
        take_root(host.enter, state.root, host.directory)
    for inside, below in _PRIVATE.items():
        private = host.directory / below
        private.mkdir()
        private.chmod(0o755)
        host.path(inside).mkdir(parents=True, exist_ok=True)  # a package's directory: only /run may lack it
        host.run(["mount", "--bind", str(private), inside])
    _write(host, "etc/libvirtd.conf", _LIBVIRTD_CONF.format(address=state.address, host_uuid=uuid.uuid4()))
    _write(host, "etc/qemu.conf", _QEMU_CONF.format(address=state.address))
    for path in (IMAGES, BOOT, SERIAL):
        host.path(path).mkdir(parents=True, exist_ok=True)
    lines = ["127.0.0.1 localhost", *(f"{one.address} {one.name}" for one in neighbours)]
    _write(host, "hosts", "\n".join(lines) + "\n")
    host.path("/etc/hosts").touch()
    host.run(["mount", "--bind", str(host.directory / "hosts"), "/etc/hosts"])
    if host.path("/run/dbus").is_dir():
        # Out of sight: libvirtd would register its guests with the machine's own systemd and polkit.
        (host.directory / "dbus").mkdir()
        host.run(["mount", "--bind", str(host.directory / "dbus"), "/run/dbus"])
    host.run(["hostname", state.name])
    if tcp_retries2 is not None:
        host.run(["tee", "/proc/sys/net/ipv4/tcp_retries2"], stdin=f"{tcp_retries2}\n")


def _write(host: LabHost, below: str, text: str) -> None:
    (host.directory / below).write_text(text, encoding="utf-8")
