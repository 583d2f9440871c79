"""libvirt's objects for as long as somebody waits for the call that uses them.

A call that hangs can't be taken back: it goes on when the host answers at last, maybe long after its caller
has gone on by what was seen since. What then bears a file's or a domain's name may be another one, so the
rest of such a call is not done.
"""

from __future__ import annotations

import threading
from typing import Any

import libvirt

from fsm.errors import HostUnreachable

_KINDS = (libvirt.virDomain, libvirt.virDomainSnapshot, libvirt.virStoragePool, libvirt.virStorageVol)


def expect_wanted(given_up: threading.Event, *, host: str, call: str) -> None:
    """Raise where nobody waits for the call any more."""
    if given_up.is_set():
        raise HostUnreachable(
            f"nobody waits for {call} any more: what was left of it is not done", host=host, call=call
        )


class Wanted:
    """A connection, or what it hands out; its methods raise ``HostUnreachable`` once ``given_up`` is set."""

    def __init__(self, target: Any, given_up: threading.Event, *, host: str, call: str) -> None:
        self._target = target
        self._given_up = given_up
        self._names = {"host": host, "call": call}

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name.startswith("_") or not callable(attribute):
            return attribute

        def wanted(*arguments: Any, **keywords: Any) -> Any:
            expect_wanted(self._given_up, **self._names)
            return self._wrapped(attribute(*arguments, **keywords))

        return wanted

    def _wrapped(self, result: Any) -> Any:
        if isinstance(result, list):
            return [self._wrapped(one) for one in result]
        return Wanted(result, self._given_up, **self._names) if isinstance(result, _KINDS) else result
