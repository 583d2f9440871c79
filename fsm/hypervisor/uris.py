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
