"""The storage pool in which migrations leave their signs, see ``fsm.hypervisor.polkit``."""

from __future__ import annotations

from contextlib import closing

from lxml import etree

from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt import pools
from fsm.hypervisor.libvirt.session import Call, open_connection, perform
from fsm.hypervisor.polkit import POOL, SIGNS
from fsm.hypervisor.values import PoolState


def define(uri: str) -> None:
    """See that the host has the pool, active now and after a restart. Its directory must exist. Blocking.

    ``HostError``, also when another pool has that name.
    """
    with closing(open_connection(uri)) as connection:
        perform(connection, uri, "define the pool of signs", _define, change=True)


def _define(call: Call) -> None:
    if pools.state(call, SIGNS) is PoolState.NONE:
        pool = call.connection.storagePoolDefineXML(_document(), 0)
    else:
        pool = call.connection.storagePoolLookupByName(POOL)
    pool.setAutostart(1)
    if not pool.isActive():
        pool.create(0)


def _document() -> str:
    pool = etree.Element("pool", type="dir")
    etree.SubElement(pool, "name").text = POOL
    etree.SubElement(etree.SubElement(pool, "target"), "path").text = SIGNS
    return domain_xml.serialize(pool)
