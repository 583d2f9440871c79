"""Why a host could not run a domain, as libvirt's own compatibility calls see it.

A call that is not supported, or that fails for a reason which says nothing about the domain, is no objection:
the migration itself would say no in time, while a false objection would keep a good one from being tried.
"""

from __future__ import annotations

import libvirt

from fsm.hypervisor import domain_xml
from fsm.hypervisor.libvirt.errors import message_of
from fsm.hypervisor.libvirt.session import Call, is_alive


def objections(call: Call, xml: str) -> tuple[str, ...]:
    """One sentence for each thing this host can't give the domain."""
    wanted = domain_xml.platform(xml)
    return _virt_type(call, wanted) or _machine(call, wanted) or _cpu(call, wanted)


def _virt_type(call: Call, wanted: domain_xml.Platform) -> tuple[str, ...]:
    """The capabilities list only what works: KVM is missing where it can't be used."""
    capabilities = domain_xml.parse(call.connection.getCapabilities(), "capabilities")
    for arch in capabilities.iterfind("guest/arch"):
        if arch.get("name") == wanted.arch:
            offered = sorted({domain.get("type", "") for domain in arch.iterfind("domain")})
            if wanted.virt_type in offered:
                return ()
            return (f"it runs {wanted.arch} domains of type {', '.join(offered)}, not {wanted.virt_type}",)
    return (f"it has no emulator for {wanted.arch} domains",)


def _machine(call: Call, wanted: domain_xml.Platform) -> tuple[str, ...]:
    try:
        call.connection.getDomainCapabilities(wanted.emulator, wanted.arch, wanted.machine, wanted.virt_type)
    except libvirt.libvirtError as error:
        if not is_alive(call.connection):
            raise
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return ()
        return (message_of(error),)
    return ()


def _cpu(call: Call, wanted: domain_xml.Platform) -> tuple[str, ...]:
    if wanted.cpu is None:
        return ()
    cpu = domain_xml.parse(wanted.cpu, "cpu")
    if cpu.get("mode", "custom") != "custom" or cpu.get("check") == "none" or cpu.find("model") is None:
        return ()  # taken from the host as it is, or not to be checked
    try:
        call.connection.compareHypervisorCPU(
            wanted.emulator,
            wanted.arch,
            wanted.machine,
            wanted.virt_type,
            wanted.cpu,
            libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE,
        )
    except libvirt.libvirtError as error:
        if not is_alive(call.connection):
            raise
        # An unknown model or feature is an internal error of libvirt's CPU driver.
        about_the_cpu = error.get_error_domain() == libvirt.VIR_FROM_CPU
        if about_the_cpu and error.get_error_code() in (
            libvirt.VIR_ERR_CPU_INCOMPATIBLE,
            libvirt.VIR_ERR_INTERNAL_ERROR,
        ):
            return (message_of(error),)
    return ()
