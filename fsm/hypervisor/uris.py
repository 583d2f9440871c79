"""Connection URIs, and texts that may quote one, as they may be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"
# Greedy up to the last "@" of the address: a password may hold one.
_USER = re.compile(r"(?<=://)([^\s/:@\"'<>]*):[^\s/\"'<>]*@")
# Passwords in domain XML (displays, iSCSI, Ceph), should a message ever quote some.
_XML_PASSWORD = re.compile(r"\b((?:passwd|password)\s*=\s*)(\"[^\"]*\"|'[^']*'|[^\s&;]+)", re.IGNORECASE)


def safe_text(text: str) -> str:
    """A message of whatever origin without the passwords of URIs and of XML that it may quote."""
    return _XML_PASSWORD.sub(rf"\1{HIDDEN}", _USER.sub(r"\1@", text))


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
