"""Snapshots' descriptions as another host is to have them."""

from __future__ import annotations

import pytest
from lxml import etree

from fsm.errors import BadInput
from fsm.hypervisor import domain_xml, snapshot_xml

DISKS = "<devices><disk><source file={} index='1'/></disk><disk><source file={}/></disk></devices>"


def described(first: str, second: str, name: str = "/a") -> str:
    """A snapshot whose own name is like the domain's and like a path."""
    inside = f"<name>{name}</name>{DISKS.format(first, second)}"
    both = f"<domain>{inside}</domain><inactiveDomain>{inside}</inactiveDomain>"
    return f"<domainsnapshot><name>/a</name><description>/a</description>{both}</domainsnapshot>"


def canonical(xml: str) -> bytes:
    return etree.tostring(etree.fromstring(xml), method="c14n")


def test_files_are_named_by_other_paths() -> None:
    """All at once, one of them to where another was."""
    moved = snapshot_xml.elsewhere(described("'/a'", "'/b'"), {"/a": "/b", "/b": "/c & 'd' \"e\""})
    assert canonical(moved) == canonical(described("'/b'", "\"/c &amp; 'd' &quot;e&quot;\""))


def test_what_does_not_change_stays() -> None:
    left = described("'/elsewhere'", "'/aa'")
    assert canonical(snapshot_xml.elsewhere(left, {"/a": "/b"})) == canonical(left)


def test_the_domain_has_another_name_and_the_snapshot_its_own() -> None:
    renamed = snapshot_xml.elsewhere(described("'/a'", "'/b'"), {}, "b & <c>")
    assert canonical(renamed) == canonical(described("'/a'", "'/b'", "b &amp; &lt;c&gt;"))


@pytest.mark.parametrize("name", ["\0", "\x01"])
def test_a_name_that_xml_can_not_carry_is_bad_input(name: str) -> None:
    with pytest.raises(BadInput, match="carry"):
        snapshot_xml.elsewhere(described("'/a'", "'/b'"), {}, name)
    with pytest.raises(BadInput, match="carry"):
        domain_xml.with_name("<domain><name>a</name></domain>", name)
    with pytest.raises(BadInput, match="<name>"):
        domain_xml.with_name("<domain/>", "b")


def test_a_domain_has_another_name() -> None:
    assert domain_xml.with_name("<domain><name>a</name><x/></domain>", "é") == (
        "<domain><name>é</name><x/></domain>"
    )
