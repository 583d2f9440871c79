"""A lab: two hosts on a bridge, found again by name from any process."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import attrs

from fsm.lab import access, network, state
from fsm.lab.errors import LabError
from fsm.lab.guest import DEFAULT_GUEST, Guest
from fsm.lab.guest import define as define_domain
from fsm.lab.host import LabHost, StartingHolder, furnish
from fsm.lab.initramfs import build_initramfs
from fsm.lab.spec import GuestSpec
from fsm.lab.state import NATIVE_ROOT, HostState, LabState

HOST_NAMES = ("alpha", "beta")
PREPARED_TCP_RETRIES2 = 5
"""net.ipv4.tcp_retries2 of a prepared host: a cut link freezes a guest for seconds instead of minutes."""


@attrs.frozen
class DomainStatus:
    """One domain as ``virsh list --all`` shows it."""

    name: str
    state: str


@attrs.frozen
class HostStatus:
    """What a host of a lab does now."""

    name: str
    address: str
    uri: str
    up: bool
    """Its namespaces exist."""
    link_up: bool
    libvirtd_pid: int | None
    domains: tuple[DomainStatus, ...] | None
    """None where libvirtd could not be asked."""


@attrs.frozen
class LabStatus:
    """What a lab does now."""

    name: str
    directory: Path
    subnet: str
    bridge: str
    isolated: bool
    """The hosts are cut off from each other."""
    hosts: tuple[HostStatus, ...]


class Lab(AbstractContextManager["Lab"]):
    """Two libvirt hosts on one machine.

    ``with Lab.up() as lab`` takes it down at the end, whatever happens; ``Lab.load(name)`` gives one that
    another process made.
    """

    def __init__(self, described: LabState) -> None:
        self._state = described

    @classmethod
    def up(
        cls,
        name: str | None = None,
        *,
        guest: bool | GuestSpec = True,
        host_names: tuple[str, str] = HOST_NAMES,
        tcp_retries2: int | None = PREPARED_TCP_RETRIES2,
        access_control: bool = False,
        roots: tuple[str, str] = (NATIVE_ROOT, NATIVE_ROOT),
        progress: Callable[[str], None] = lambda _: None,
    ) -> Lab:
        """Make two hosts, and the default guest (or the given one) on the first of them.

        ``tcp_retries2=None`` leaves the kernel's default, as on a host that nobody prepared.
        ``access_control`` has libvirt ask polkit about every call. ``roots`` are the directories that the
        hosts have as ``/``, for other versions of libvirt and QEMU; see ``fsm.lab.suite``. A failure takes
        down what was made so far and is raised.
        """
        lab = cls(_reserve(name, host_names, roots, access_control=access_control))
        try:
            progress(f"lab {lab.name}: network {lab._state.subnet}, bridge {lab._state.bridge}")
            build_initramfs(lab.directory / "initrd.img")
            lab._start_hosts(tcp_retries2, progress)
            if guest:
                spec = guest if isinstance(guest, GuestSpec) else DEFAULT_GUEST
                progress(f"{lab.hosts[0].name}: guest {spec.name}")
                lab.define_guest(lab.hosts[0], spec)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def load(cls, name: str) -> Lab:
        """A lab that exists."""
        return cls(state.load(name))

    @staticmethod
    def names() -> list[str]:
        """The labs that exist, also those whose ``up`` was interrupted."""
        return state.names()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def name(self) -> str:
        """The lab's name."""
        return self._state.name

    @property
    def directory(self) -> Path:
        """Where everything of the lab is kept."""
        return state.directory(self.name)

    @property
    def hosts(self) -> tuple[LabHost, LabHost]:
        """The two hosts."""
        first, second = (self._host(host) for host in self._state.hosts)
        return first, second

    def _host(self, host: HostState) -> LabHost:
        directory = self.directory / host.name
        return LabHost(host.name, host.address, directory, host.holder, host.access_control)

    def define_guest(self, host: LabHost, spec: GuestSpec) -> Guest:
        """Make a guest on ``host``: images, domain, snapshots; kernel and other unmoved files on both
        hosts."""
        other = next(one for one in self.hosts if one.name != host.name)
        return define_domain(host, other, spec, self.directory / "initrd.img")

    def serial_logs(self, guest: str = DEFAULT_GUEST.name) -> tuple[Path, Path]:
        """What the guest has printed, on the first and on the second host. Either file may be missing."""
        first, second = (Guest(host, guest).serial_log for host in self.hosts)
        return first, second

    def share(self, path: str, *, coherent: bool = True) -> None:
        """Give both hosts one directory, as a file system that both have mounted. It goes with the lab.

        Not ``coherent``: each host has a FUSE file system with a cache of its own over it, which is looked
        after only when a file is opened, as with NFS.
        """
        directory = self.directory / f"shared-{uuid.uuid4().hex[:8]}"
        directory.mkdir()
        mount = ("mount", "--bind") if coherent else ("bindfs",)
        for host in self.hosts:
            host.run(["mkdir", "-p", path])
            host.run([*mount, str(directory), path])

    # Faults

    def cut(self, host: LabHost | None = None) -> None:
        """Cut the hosts off from each other, packets dropped silently; both can still be reached from
        outside.

        With ``host``: take that one's link down, so that nothing reaches it, the root namespace included.
        """
        if host is None:
            network.set_isolated(self._state.hosts, isolated=True)
        else:
            network.set_link(self._host_state(host), up=False)

    def mend(self) -> None:
        """Undo every ``cut``."""
        network.set_isolated(self._state.hosts, isolated=False)
        for host in self._state.hosts:
            network.set_link(host, up=True)

    def _host_state(self, host: LabHost) -> HostState:
        return next(one for one in self._state.hosts if one.name == host.name)

    # Life

    def _start_hosts(self, tcp_retries2: int | None, progress: Callable[[str], None]) -> None:
        for index, described in enumerate(self._state.hosts):
            holder = StartingHolder()
            self._record(index, attrs.evolve(described, holder=holder.identity))
            holder.keep()
        for described, host in zip(self._state.hosts, self.hosts, strict=True):
            network.connect_host(self._state, described, host.holder.pid if host.holder else 0)
            furnish(host, described, self._state.hosts, tcp_retries2)
            if host.access_control:
                access.furnish(host)
                access.start(host)
        for host in self.hosts:
            progress(f"{host.name}: libvirtd at {host.uri}")
            host.start_libvirtd()

    def _record(self, index: int, host: HostState) -> None:
        first, second = self._state.hosts
        hosts = (host, second) if index == 0 else (first, host)
        self._state = attrs.evolve(self._state, hosts=hosts)
        state.save(self._state)

    def down(self) -> None:
        """Remove every trace of the lab.

        Done twice or after an interrupted ``up``, it does what is left to do.
        """
        with state.locked():
            if (self.directory / state.STATE_FILE).exists():
                found = state.load(self.name)
                if found.bridge != self._state.bridge:
                    return  # this lab is gone, and another one has its name
                self._state = found
            for host in self.hosts:
                host.end()
            network.delete_links(self._state)
            if self.directory.exists():
                # The state file last: until then another process can find what an interruption left.
                for entry in self.directory.iterdir():
                    if entry.name != state.STATE_FILE:
                        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                shutil.rmtree(self.directory)
            state.remove_base_if_empty()

    def status(self) -> LabStatus:
        """Look at everything the lab consists of; works on a damaged one too."""
        return LabStatus(
            self.name,
            self.directory,
            self._state.subnet,
            self._state.bridge,
            any(network.isolated(host) for host in self._state.hosts),
            tuple(self._host_status(described) for described in self._state.hosts),
        )

    def _host_status(self, described: HostState) -> HostStatus:
        host = self._host(described)
        pid = host.libvirtd_pid()
        link_up = network.link_up(described)
        up = host.holder is not None and host.holder.alive()
        domains = _domains(host) if up and pid is not None and link_up else None
        return HostStatus(host.name, host.address, host.uri, up, link_up, pid, domains)


def _domains(host: LabHost) -> tuple[DomainStatus, ...] | None:
    try:
        names = host.virsh("list", "--all", "--name", timeout=10).splitlines()
        return tuple(
            DomainStatus(name, host.virsh("domstate", "--domain", name, timeout=10).strip())
            for name in names
            if name
        )
    except LabError:
        return None


def _reserve(
    name: str | None, host_names: tuple[str, str], roots: tuple[str, str], *, access_control: bool
) -> LabState:
    """Claim a name and a network: state file first, then the bridge that makes the address visible to all."""
    if access_control and roots != (NATIVE_ROOT, NATIVE_ROOT):
        raise LabError("a host with a root of its own can't have access control: its users are the machine's")
    with state.locked():
        others = [state.load(other).subnet for other in state.names()]
        described = state.new_state(
            name, network.choose_subnet([*others, *network.used_networks()]), host_names
        )
        first, second = (
            attrs.evolve(host, access_control=access_control, root=root)
            for host, root in zip(described.hosts, roots, strict=True)
        )
        described = attrs.evolve(described, hosts=(first, second))
        directory = state.directory(described.name)
        if (directory / state.STATE_FILE).exists():
            raise LabError(
                f"a lab named {described.name!r} exists already", remedy=f"fsm lab down {described.name}"
            )
        directory.mkdir(exist_ok=True)
        state.save(described)
    try:
        network.create_bridge(described)
    except BaseException:
        Lab(described).down()
        raise
    return described
