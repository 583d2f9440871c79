"""Starting, resuming, stopping and removing a domain. Each does nothing when it is so already."""

from __future__ import annotations

from typing import Any

import libvirt

from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt import words
from fsm.hypervisor.libvirt.session import Call
from fsm.machine.observation import DomainState


def start_paused(call: Call, uuid: str) -> None:
    """Start the defined domain with its CPUs paused."""
    domain = call.domain(uuid)
    if not domain.isActive():
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)


def resume(call: Call, uuid: str) -> None:
    """Resume a paused domain."""
    domain = call.domain(uuid)
    state, _ = words.state(*domain.state())
    if state is not DomainState.RUNNING:
        domain.resume()


def destroy(call: Call, uuid: str) -> None:
    """Stop the domain's process."""
    domain = find(call, uuid)
    if domain is None or not domain.isActive():
        return
    try:
        domain.destroy()
    except libvirt.libvirtError:
        # It may have ended by itself; a transient domain is gone then.
        domain = find(call, uuid)
        if domain is not None and domain.isActive():
            raise


def define(call: Call, xml: str) -> None:
    """Define a domain. libvirt refuses a name that another UUID has, and would replace the same UUID."""
    if find(call, uuid := domain_xml.uuid(xml)) is not None:
        raise call.error(f"domain {uuid} is defined there already; it is left alone")
    call.connection.defineXMLFlags(xml, 0)


def undefine(call: Call, uuid: str) -> None:
    """Remove the definition of a shut-off domain; NVRAM and TPM state stay."""
    domain = find(call, uuid)
    if domain is None:
        return
    if domain.isActive():
        raise call.error(f"domain {uuid} is active, so its definition is not removed", remedy="stop it first")
    keep_nvram = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
    try:
        domain.undefineFlags(keep_nvram | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_TPM)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG:
            raise
        domain.undefineFlags(keep_nvram)  # a libvirt before 8.9 does not know the other flag


def find(call: Call, uuid: str) -> Any:
    """The domain, None when there is none."""
    try:
        return call.domain(uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
