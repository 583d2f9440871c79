"""Where a domain's description has its UEFI variables."""

from __future__ import annotations

import pytest

from fsm.hypervisor import firmware_xml
from fsm.hypervisor.firmware_xml import Variables

CHOSEN = Variables("/var/lib/libvirt/qemu/nvram/a & b_VARS.fd")


def described(inside: str, firmware: str = "") -> str:
    return f"<domain><name>a &amp; b</name><os{firmware}><type>hvm</type>{inside}</os></domain>"


@pytest.mark.parametrize(
    ("inside", "firmware", "wanted"),
    [
        ("", "", None),
        ("<loader type='rom'>/code.rom</loader>", "", None),
        ("<nvram>/v.fd</nvram>", "", Variables("/v.fd")),
        ("<nvram template='/t.fd' format='qcow2'>/v.fd</nvram>", "", Variables("/v.fd", "qcow2")),
        ("<nvram type='file'><source file='/v.fd'/></nvram>", "", Variables("/v.fd")),
        ("<nvram type='block'><source dev='/dev/v'/></nvram>", "", Variables("", source_type="block")),
        ("<nvram type='network'><source name='v'/></nvram>", "", Variables("", source_type="network")),
        ("", " firmware='efi'", CHOSEN),
        ("<nvram template='/t.fd'/>", " firmware='efi'", CHOSEN),
        ("<nvram>/v.fd</nvram>", " firmware='efi'", Variables("/v.fd")),
        ("<loader stateless='yes'/>", " firmware='efi'", None),
        ("", " firmware='bios'", None),
    ],
)
def test_where_they_are(inside: str, firmware: str, wanted: Variables | None) -> None:
    xml = described(inside, firmware)
    assert firmware_xml.variables(xml) == wanted
    assert firmware_xml.variables_file(xml) == (wanted.path if wanted else "")


@pytest.mark.parametrize("inside", ["", "<nvram template='/t.fd'/>"])
def test_a_file_that_is_libvirts_choice_is_named(inside: str) -> None:
    named = firmware_xml.with_variables_named(described(inside, " firmware='efi'"))
    assert firmware_xml.variables(named.replace("a &amp; b</name>", "other</name>")) == CHOSEN
    assert ("template" in named) == bool(inside)


@pytest.mark.parametrize(
    "xml",
    [
        described(""),
        described("<nvram>/v.fd</nvram>", " firmware='efi'"),
        described("<nvram type='block'><source dev='/dev/v'/></nvram>"),
    ],
)
def test_all_else_stays_as_it_is(xml: str) -> None:
    assert firmware_xml.with_variables_named(xml) == xml
