"""What a host needs before migrations, as far as it can be seen from here."""

from __future__ import annotations

from pathlib import Path

from fsm.engine.checks import Finding
from fsm.hypervisor.uris import is_local, safe_uri

TCP_RETRIES2 = 5
"""So often TCP sends again into silence; with the kernel's 15 a cut link freezes a guest for many minutes."""

SYSCTL = Path("/proc/sys/net/ipv4/tcp_retries2")
_SET = f"on that host: sysctl net.ipv4.tcp_retries2={TCP_RETRIES2}, and in /etc/sysctl.d to keep it"


def kernel(uri: str) -> list[Finding]:
    """What is wrong with the kernel's settings; nothing where they can't be read."""
    value = _tcp_retries2(uri)
    if value is None or value <= TCP_RETRIES2:
        return []
    message = (
        f"net.ipv4.tcp_retries2 is {value}: a link that is cut would freeze a migrating guest for minutes"
    )
    return [Finding("tcp-retries2", safe_uri(uri), message, _SET)]


def kernel_unread(uri: str) -> list[Finding]:
    """What the kernel should have, where that can't be read. Nothing is known to be wrong: no remedy."""
    if _tcp_retries2(uri) is not None:
        return []
    message = f"net.ipv4.tcp_retries2 can't be read from here; it should be {TCP_RETRIES2}"
    return [Finding("tcp-retries2", safe_uri(uri), message)]


def _tcp_retries2(uri: str) -> int | None:
    if not is_local(uri):
        return None
    try:
        return int(SYSCTL.read_text())
    except (OSError, ValueError):
        return None
