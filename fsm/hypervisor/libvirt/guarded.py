"""libvirt's own objects with the guard in front: the same methods, refused where they would harm.

For orchestrators that already hold a ``virDomain`` or ``virStorageVol``. The domain's own marker is always
asked; ``check`` asks whoever else knows, normally ``engine.guard.check``.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import libvirt

from fsm.errors import BadInput
from fsm.hypervisor import domain_xml, markers
from fsm.machine import methods
from fsm.machine.guard import permits_marked
from fsm.machine.loader import load_default
from fsm.machine.methods import Methods
from fsm.machine.operations import Operation
from fsm.machine.spec import Spec

Check = Callable[[str, Operation], object]
"""``check(domain UUID or path, operation)`` raises ``OperationBlocked``."""

_MEDIA = ("cdrom", "floppy")


class _Guarded(ABC):
    """A libvirt object behind the guard."""

    _methods: Methods

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name.startswith("_") or not callable(attribute):
            return attribute

        def guarded(*arguments: Any, **keywords: Any) -> Any:
            given = tuple(_bare(argument) for argument in arguments)
            named = {key: _bare(value) for key, value in keywords.items()}
            self._demand(self._operation(name, given, named))
            return self._wrapped(attribute(*given, **named))

        return guarded

    def _operation(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Operation:
        if name in methods.BY_ARGUMENTS and self._methods is methods.DOMAIN:
            signature = inspect.signature(getattr(self._target, name))
            return _BY_ARGUMENTS[name](signature.bind(*arguments, **keywords).arguments)
        if name not in self._methods:
            raise BadInput(
                f"nobody has said yet what libvirt's {name!r} would do to a migration",
                remedy="call it on libvirt's own object once you know that no migration is under way",
            )
        return self._methods[name]

    @abstractmethod
    def _demand(self, operation: Operation) -> None:
        """Raise ``OperationBlocked`` where the operation would harm."""

    def _wrapped(self, result: Any) -> Any:
        return result


class GuardedDomain(_Guarded):
    """A ``virDomain``; snapshots and checkpoints that it hands out are guarded as well.

    ``connect()`` gives libvirt's own connection, on which nothing is guarded. Raises ``OperationBlocked``.
    """

    _methods = methods.DOMAIN

    def __init__(self, domain: Any, check: Check | None = None, spec: Spec | None = None) -> None:
        super().__init__(domain)
        self._check = check
        self._spec = spec or load_default()

    def _demand(self, operation: Operation) -> None:
        if not any(operation in state.blocks for state in self._spec.states.values()):
            return
        marker = markers.read(self._target.XMLDesc(0))
        if marker is not None:
            permits_marked(self._spec, marker.migration, operation).demand()
        if self._check is not None:
            self._check(self._target.UUIDString(), operation)

    def _wrapped(self, result: Any) -> Any:
        if isinstance(result, list):
            return [self._wrapped(one) for one in result]
        for kind, table in _PARTS.items():
            if isinstance(result, kind):
                return _GuardedPart(result, self, table)
        return result


class _GuardedPart(_Guarded):
    """A snapshot or checkpoint of a guarded domain."""

    def __init__(self, target: Any, domain: GuardedDomain, table: Methods) -> None:
        super().__init__(target)
        self._domain = domain
        self._methods = table

    def _demand(self, operation: Operation) -> None:
        self._domain._demand(operation)

    def _wrapped(self, result: Any) -> Any:
        return self._domain if isinstance(result, libvirt.virDomain) else self._domain._wrapped(result)


class GuardedVolume(_Guarded):
    """A ``virStorageVol``. ``check`` is given its path: normally ``engine.guard.check_volume``."""

    _methods = methods.VOLUME

    def __init__(self, volume: Any, check: Check) -> None:
        super().__init__(volume)
        self._check = check

    def _demand(self, operation: Operation) -> None:
        if operation is not Operation.QUERY:
            self._check(self._target.path(), operation)


_PARTS = {libvirt.virDomainSnapshot: methods.SNAPSHOT, libvirt.virDomainCheckpoint: methods.CHECKPOINT}


def _bare(argument: Any) -> Any:
    return argument._target if isinstance(argument, _Guarded) else argument


# Flags and arguments decide; they are given by the names that libvirt's binding has for them.

Given = Mapping[str, Any]


def _snapshot_create(given: Given) -> Operation:
    flags = given.get("flags", 0)
    if flags & libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE:
        return Operation.SNAPSHOT_REDEFINE
    root = domain_xml.parse(given["xmlDesc"], "domainsnapshot")
    parts = [*root.iterfind("memory"), *root.iterfind("disks/disk")]
    external = any(part.get("snapshot") == "external" for part in parts)
    if external or flags & libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY:
        return Operation.SNAPSHOT_CREATE_EXTERNAL
    return Operation.SNAPSHOT_CREATE_INTERNAL


def _block_rebase(given: Given) -> Operation:
    copies = given.get("flags", 0) & libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY
    return Operation.BLOCK_COPY if copies else Operation.BLOCK_REBASE


def _update_device(given: Given) -> Operation:
    found = re.search(r"""<disk\b[^>]*\bdevice\s*=\s*['"](\w+)""", given["xml"])
    return Operation.CHANGE_MEDIA if found and found[1] in _MEDIA else Operation.UPDATE_DEVICE


def _set_metadata(given: Given) -> Operation:
    ours = given["type"] == libvirt.VIR_DOMAIN_METADATA_ELEMENT and given["uri"] == markers.NAMESPACE
    return Operation.SET_METADATA if ours else Operation.TUNE


_BY_ARGUMENTS: dict[str, Callable[[Given], Operation]] = {
    "snapshotCreateXML": _snapshot_create,
    "blockRebase": _block_rebase,
    "updateDeviceFlags": _update_device,
    "setMetadata": _set_metadata,
}
