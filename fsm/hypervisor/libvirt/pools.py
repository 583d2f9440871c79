"""Which storage pool covers a directory, and how a directory that none covers gets one for a while.

libvirt refuses a second ``dir`` pool for a directory, also beside one that is defined but not started. So the
active pool is used whoever made it, else the inactive one is started, else a transient one is made. Its name
follows from the directory, so that it is found again after a crash of ours.
"""

from __future__ import annotations

import errno
import hashlib
import os.path
import time
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt
from lxml import etree

from fsm.errors import NotFound
from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt.session import Call
from fsm.hypervisor.values import PoolState

T = TypeVar("T")

# Pools whose volumes are plain files in the directory. Of the inactive ones only ``dir`` counts: starting one
# of the others would mount something.
_FILE_POOLS = (
    libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_DIR
    | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_FS
    | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_NETFS
)
_INACTIVE_POOLS = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_DIR | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE
_ACTIVE_POOLS = _FILE_POOLS | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE

# A pool in which a volume is being made can be neither refreshed nor stopped, and libvirt has no event for
# the end of that; making one of our volumes takes a fraction of a second.
_BUSY_ATTEMPTS = 40
_BUSY_WAIT_S = 0.15
_POOL_PASSING = frozenset(
    (
        libvirt.VIR_ERR_INTERNAL_ERROR,  # "pool has asynchronous jobs running"
        libvirt.VIR_ERR_OPERATION_INVALID,  # "storage pool is not active"
        libvirt.VIR_ERR_OPERATION_FAILED,  # "pool already exists": somebody else just made it
        libvirt.VIR_ERR_NO_STORAGE_POOL,  # somebody else just released it
    )
)
VOLUME_PASSING = frozenset((libvirt.VIR_ERR_OPERATION_INVALID,))  # "volume is still in use"


def our_name(directory: str) -> str:
    """The name of the transient pool that we make for ``directory``."""
    return "fsm-" + hashlib.sha256(os.fsencode(normalised(directory))).hexdigest()[:20]


def normalised(directory: str) -> str:
    """One spelling for a directory: pools are written with and without a slash at their end."""
    path = os.path.normpath(directory)
    return path[1:] if path.startswith("//") else path


def state(call: Call, directory: str) -> PoolState:
    """How pools that are not ours cover ``directory``."""
    ours = our_name(directory)
    for flags, found in ((_ACTIVE_POOLS, PoolState.ACTIVE), (_INACTIVE_POOLS, PoolState.INACTIVE)):
        if any(pool.name() != ours for pool in _covering(call, directory, flags)):
            return found
    return PoolState.NONE


def directory_of(call: Call, name: str) -> str:
    """The directory of the pool with this name. An inactive one counts only if it would mount nothing."""
    for pool in call.connection.listAllStoragePools(0):
        if pool.name() != name:
            continue
        root = domain_xml.parse(pool.XMLDesc(0), "pool")
        kind, path = root.get("type", ""), root.findtext("target/path")
        if kind not in ("dir", "fs", "netfs") or not path:
            raise call.error(f"the volumes of pool {name!r}, of type {kind}, are no files of a directory")
        if kind != "dir" and not pool.isActive():
            raise call.error(f"pool {name!r} is not active", remedy="start it: virsh pool-start")
        return normalised(path)
    raise call.not_found(f"there is no storage pool {name!r}", remedy="`virsh pool-list --all` names them")


def expect_shown(call: Call, path: str, remedy: str = "") -> None:
    """An error for a path that libvirt's XML has no way to write."""
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in path):
        raise call.error(
            f"libvirt's storage pools can't show {path!r}: it holds control characters or no valid UTF-8",
            remedy=remedy,
        )


def refreshed(call: Call, directory: str) -> Any:
    """An active pool that covers ``directory`` and has looked at it just now; ``NotFound`` without it."""
    expect_shown(call, directory)

    def attempt() -> Any:
        pool = _active(call, directory)
        pool.refresh(0)
        return pool

    try:
        return retried(attempt)
    except libvirt.libvirtError as error:
        if error.get_int1() in (errno.ENOENT, errno.ENOTDIR):
            raise missing(call, directory) from error
        raise


def using(call: Call, directory: str, work: Callable[[Any], T]) -> T:
    """Do ``work`` with the refreshed pool, again with another one when somebody released it in between."""
    gone = frozenset((libvirt.VIR_ERR_NO_STORAGE_POOL,))
    return retried(lambda: work(refreshed(call, directory)), gone)


def release(call: Call, directory: str, was: PoolState) -> None:
    """Destroy our pool; stop the user's if it was inactive before. No pool is ever undefined."""
    for pool in _covering(call, directory, _ACTIVE_POOLS):
        ours = pool.name() == our_name(directory) and not pool.isPersistent()
        if ours or (was is PoolState.INACTIVE and pool.isPersistent()):
            _stop(pool)


def retried(attempt: Callable[[], T], passing: frozenset[int] = _POOL_PASSING) -> T:
    """Do something again while it is refused for a reason that passes, up to a limit."""
    for _ in range(_BUSY_ATTEMPTS - 1):
        try:
            return attempt()
        except libvirt.libvirtError as error:
            if error.get_error_code() not in passing:
                raise
        time.sleep(_BUSY_WAIT_S)
    return attempt()


def missing(call: Call, directory: str) -> NotFound:
    """The error for a directory that does not exist."""
    return call.not_found(
        f"there is no directory {directory!r}", remedy="create it, or mount what belongs there"
    )


def _active(call: Call, directory: str) -> Any:
    """The active pool of the directory, started or made if need be."""
    for pool in _covering(call, directory, _ACTIVE_POOLS):
        return pool
    for pool in _covering(call, directory, _INACTIVE_POOLS):
        pool.create(0)
        return pool
    return call.connection.storagePoolCreateXML(_document(directory), 0)


def _covering(call: Call, directory: str, flags: int) -> list[Any]:
    wanted = normalised(directory)
    found = []
    for pool in call.connection.listAllStoragePools(flags):
        try:
            xml = pool.XMLDesc(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
                continue  # it went between the two calls
            raise
        path = domain_xml.parse(xml, "pool").findtext("target/path")
        if path and normalised(path) == wanted:
            found.append(pool)
    return found


def _document(directory: str) -> str:
    pool = etree.Element("pool", type="dir")
    etree.SubElement(pool, "name").text = our_name(directory)
    target = etree.SubElement(pool, "target")
    etree.SubElement(target, "path").text = normalised(directory)
    return domain_xml.serialize(pool)


def _stop(pool: Any) -> None:
    def attempt() -> None:
        try:
            pool.destroy()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL and pool.isActive():
                raise

    retried(attempt)
