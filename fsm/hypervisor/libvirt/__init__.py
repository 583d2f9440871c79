"""The port on libvirt: the only package that imports libvirt's own."""

from __future__ import annotations

from fsm.hypervisor.libvirt.connector import LibvirtConnector
from fsm.hypervisor.libvirt.guarded import GuardedDomain, GuardedVolume

__all__ = ["GuardedDomain", "GuardedVolume", "LibvirtConnector"]
