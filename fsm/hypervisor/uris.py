"""Connection URIs as they may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def safe_uri(uri: str) -> str:
    """The URI without a password, fit for messages and records."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.partition("@")[2] or uri
    user, at, address = parts.netloc.rpartition("@")
    if not at:
        return uri
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}@{address}"))


def is_local(uri: str) -> bool:
    """Whether the URI names the libvirtd of the machine that it is used on."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return parts.scheme in ("qemu", "qemu+unix") and not parts.netloc


def is_plain(uri: str) -> bool:
    """Whether the URI can do nothing but connect, whoever wrote it.

    libvirt's parameters may name commands to run, and its transport ``ext`` consists of one.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    harmless = not (parts.query or parts.fragment) and not parts.scheme.endswith("+ext")
    host = parts.hostname or "-"
    return harmless and not host.startswith("-") and not parts.netloc.startswith("-")
