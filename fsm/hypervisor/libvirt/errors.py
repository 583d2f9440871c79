"""From libvirt's errors to ours."""

from __future__ import annotations

import libvirt

from fsm.errors import BadInput, FsmError, HostError, HostUnreachable, NotFound, OutcomeUnknown
from fsm.hypervisor.uris import safe_text, safe_uri

NOT_FOUND = frozenset(
    (
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
        libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT,
    )
)
AUTHENTICATION = frozenset(
    (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_CANCELLED, libvirt.VIR_ERR_AUTH_UNAVAILABLE)
)
PERMISSION = frozenset((libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_ERR_OPERATION_DENIED))
UNSUPPORTED = frozenset(
    (
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    )
)
_BAD_URI = frozenset((libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_ARG))
_BAD_URI_DOMAINS = frozenset((libvirt.VIR_FROM_URI, libvirt.VIR_FROM_QEMU, libvirt.VIR_FROM_NONE))

_AUTH_REMEDY = (
    "give this user access to the host's libvirtd (polkit rule, SASL credentials, SSH key or TLS certificate)"
)
_REACH_REMEDY = "check that the host is up, that libvirtd runs there, and that the URI is right"
_UNSAFE_REMEDY = (
    "where both hosts see the same file of each disk that is left alone, none of them cached (cache='none'), "
    "say so with --accept unsafe"
)
_BUSY_REMEDY = (
    "see with 'virsh domjobinfo' and 'virsh domcontrol' what holds the domain, and try again when that has "
    "ended; where it never ends and the domain has no QEMU process, stop libvirtd there, remove the domain's "
    "file from /run/libvirt/qemu and start libvirtd again"
)
_OBSERVE_REMEDY = "look at the domain on both hosts before anything else is done to it"


def message_of(error: libvirt.libvirtError) -> str:
    """libvirt's own words, which may quote a URI."""
    return safe_text(error.get_error_message() or str(error))


def from_open(error: libvirt.libvirtError, uri: str) -> FsmError:
    """Why a connection could not be opened."""
    host, code, message = safe_uri(uri), error.get_error_code(), message_of(error)
    if code in AUTHENTICATION or code in PERMISSION:
        return HostUnreachable(f"access denied: {message}", host=host, call="connect", remedy=_AUTH_REMEDY)
    # Text that can't be parsed, and a path that QEMU's driver does not know, are internal errors;
    # those of the transport are as well, but come from another part of libvirt.
    internal = code == libvirt.VIR_ERR_INTERNAL_ERROR and error.get_error_domain() in _BAD_URI_DOMAINS
    if code in _BAD_URI or internal:
        return BadInput(
            f"{host!r} is no usable libvirt URI: {message}", remedy="see https://libvirt.org/uri.html"
        )
    return HostUnreachable(message, host=host, call="connect", remedy=_REACH_REMEDY)


def from_call(
    error: libvirt.libvirtError, *, host: str, call: str, change: bool, connected: bool
) -> HostError:
    """What a failed call means, ``connected`` telling whether our own connection still stands.

    The error's code does not tell whose connection broke: a source host passes on "client socket is closed"
    when *its* connection to the destination went.
    """
    code, message = error.get_error_code(), message_of(error)
    if not connected:
        return lost(host=host, call=call, change=change, why=message)
    if code in NOT_FOUND:
        return NotFound(message, host=host, call=call)
    if code in AUTHENTICATION or code in PERMISSION:
        return HostError(message, host=host, call=call, remedy=_AUTH_REMEDY)
    if code == libvirt.VIR_ERR_MIGRATE_UNSAFE:
        return HostError(message, host=host, call=call, remedy=_UNSAFE_REMEDY)
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        # Another job holds the domain, and for a question that means: it was not answered.
        kind = HostError if change else HostUnreachable
        return kind(message, host=host, call=call, remedy=_BUSY_REMEDY)
    return HostError(message, host=host, call=call)


def lost(*, host: str, call: str, change: bool, why: str) -> HostError:
    """The error for a call whose end was not seen."""
    if change:
        return OutcomeUnknown(
            f"{call} was begun and its end not seen: {why}", host=host, call=call, remedy=_OBSERVE_REMEDY
        )
    return HostUnreachable(why, host=host, call=call, remedy=_REACH_REMEDY)
