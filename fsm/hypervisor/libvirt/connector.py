"""Opens libvirt hosts by URI."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

from fsm.errors import BadInput
from fsm.hypervisor.libvirt.channel import LibvirtChannel
from fsm.hypervisor.libvirt.host import LibvirtHost
from fsm.hypervisor.port import DataChannel, Host
from fsm.hypervisor.uris import safe_uri

TRANSPORTS = frozenset(("", "unix", "ssh", "libssh", "libssh2", "tcp", "tls", "ext"))

DEADLINE_S = 35.0
"""Seconds for one call. libvirt itself waits 30 s for a domain that another job holds, and then says so."""


class LibvirtConnector:
    """See ``fsm.hypervisor.port.Connector``. ``deadline_s`` bounds each call not known to be slow."""

    def __init__(self, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._uuids: dict[str, str] = {}  # by URI, of the hosts that have told it

    def check(self, uri: str) -> None:
        """Raise ``BadInput`` for a URI that libvirt's QEMU driver can't be reached by. Asks no host."""
        check_uri(uri)
        parts = urlsplit(uri)
        if parts.path in ("", "/"):
            raise _no_host(uri)

    async def connect(self, uri: str) -> Host:
        """Connect, or raise ``HostUnreachable`` with what to do, ``BadInput`` for a malformed URI."""
        check_uri(uri)
        host = LibvirtHost(uri, self._deadline_s, partial(self._uuids.__setitem__, uri))
        await host.open()
        return host

    def open_channel(self, uri: str) -> DataChannel:
        """Open a bulk data connection of its own. Blocking."""
        check_uri(uri)
        return LibvirtChannel(uri, self._uuids.get(uri, ""))


def check_uri(uri: str) -> None:
    """Refuse what libvirt would take for something else: an empty URI is its own default host.

    A word without a scheme is left to libvirt, which may have an alias of that name.
    """
    scheme, separator, _ = uri.partition("://")
    driver, _, transport = scheme.partition("+")
    known = driver == "qemu" and transport in TRANSPORTS
    if not uri.strip() or not _is_url(uri) or (separator and not known):
        raise _no_host(uri)


def _is_url(uri: str) -> bool:
    try:
        urlsplit(uri)
        uri.encode()
    except ValueError:
        return False
    return True


def _no_host(uri: str) -> BadInput:
    return BadInput(
        f"{safe_uri(uri)!r} is no URI of a QEMU host",
        remedy="give one like qemu+tls://host.example/system or qemu+ssh://root@host.example/system",
    )
