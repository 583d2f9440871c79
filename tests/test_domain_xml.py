"""Domain XML: the cases are cut from what libvirt 9.0 prints, shortened to the elements that matter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from fsm.errors import BadInput
from fsm.hypervisor import domain_xml
from fsm.hypervisor.values import DiskFacts

LIVE = """
<domain type='qemu' id='1' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web &amp; mail</name>
  <uuid>A5BDDA70-39da-4217-b31a-5ae493525167</uuid>
  <os>
    <type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/CODE.fd</loader>
    <nvram template='/usr/share/OVMF/VARS.fd'>/var/lib/libvirt/qemu/nvram/web VARS.fd</nvram>
    <kernel>/boot/vmlinuz</kernel>
    <initrd>/boot/initrd.img</initrd>
    <dtb>/boot/board.dtb</dtb>
  </os>
  <cpu mode='custom' match='exact' check='full'><model fallback='forbid'>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='/srv/b &amp; &lt;x&gt;.ov' index='6'>
        <seclabel model='dac' relabel='no'/>
        <privateData><nodenames><nodename type='storage' name='n'/></nodenames></privateData>
      </source>
      <backingStore type='file' index='3'>
        <format type='qcow2'/>
        <source file='/srv/b &amp; &lt;x&gt;.qcow2'/>
        <backingStore type='file'>
          <format type='raw'/>
          <source file="/srv/it's.img"/>
          <backingStore/>
        </backingStore>
      </backingStore>
      <mirror type='file' job='active-commit' ready='yes'>
        <format type='qcow2'/>
        <source file='/srv/b &amp; &lt;x&gt;.qcow2' index='3'/>
      </mirror>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/srv/plain.img' index='2'/>
      <backingStore/>
      <mirror type='file' job='copy'><format type='raw'/><source file='/srv/copy'/></mirror>
      <target dev='vdb' bus='virtio'/>
      <shareable/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/vg/lv'><encryption format='luks'/></source>
      <target dev='vdc' bus='virtio'/>
      <transient/>
    </disk>
    <disk type='network' device='disk'>
      <source protocol='rbd' name='pool/img'><host name='mon' port='6789'/></source>
      <target dev='vdd' bus='virtio'/>
    </disk>
    <disk type='volume' device='disk'>
      <source pool='p' volume='v'/><target dev='vde' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/><source file='/iso/a b.iso'/><target dev='sda' bus='sata'/><readonly/>
    </disk>
    <disk type='file' device='cdrom'><driver name='qemu'/><target dev='sdb' bus='sata'/><readonly/></disk>
    <disk type='file' device='floppy'><source file='/f.img'/><target dev='fda' bus='fdc'/></disk>
  </devices>
  <qemu:commandline><qemu:arg value='-s'/></qemu:commandline>
</domain>
"""


def disk_of(xml: str, target: str) -> DiskFacts:
    return next(disk for disk in domain_xml.disks(xml) if disk.target == target)


def test_name_and_uuid() -> None:
    assert domain_xml.name(LIVE) == "web & mail"
    assert domain_xml.uuid(LIVE) == "a5bdda70-39da-4217-b31a-5ae493525167"


def test_whole_chain_with_formats() -> None:
    vda = disk_of(LIVE, "vda")
    assert vda.chain == ("/srv/b & <x>.ov", "/srv/b & <x>.qcow2", "/srv/it's.img")
    assert vda.formats == ("qcow2", "qcow2", "raw")
    assert vda.source == "/srv/b & <x>.ov"
    assert vda.format == "qcow2"


def test_a_definition_tells_only_its_active_layer() -> None:
    vda = domain_xml.disks(LIVE, whole_chain=False)[0]
    assert vda.chain == ("/srv/b & <x>.ov",)
    assert vda.formats == ("qcow2",)


def test_kinds_of_disks() -> None:
    found = {disk.target: disk for disk in domain_xml.disks(LIVE)}
    assert list(found) == ["vda", "vdb", "vdc", "vdd", "vde", "sda", "sdb", "fda"]
    assert found["vdb"].shareable
    assert found["vdc"].source_type == "block"
    assert found["vdc"].encrypted
    assert found["vdc"].transient
    assert found["vdc"].source == "/dev/vg/lv"
    assert found["vdd"].source == "rbd:pool/img"
    assert found["vde"].source == "p/v"
    assert found["sda"].read_only
    assert found["sdb"].chain == ()
    assert found["sdb"].source == ""
    assert not any(found["vda"].__getattribute__(flag) for flag in ("read_only", "shareable", "encrypted"))


@pytest.mark.parametrize(
    ("target", "ready"), [("vda", True), ("vdb", False), ("vdc", False), ("none", False)]
)
def test_mirror_ready(target: str, ready: bool) -> None:  # noqa: FBT001
    assert domain_xml.mirror_ready(LIVE, target) is ready


@pytest.mark.parametrize("word", ["abort", "pivot"])
def test_a_mirror_that_is_being_ended_is_not_ready(word: str) -> None:
    assert not domain_xml.mirror_ready(LIVE.replace("ready='yes'", f"ready='{word}'"), "vda")


def test_block_job_kind() -> None:
    assert [disk.block_job.kind for disk in domain_xml.disks(LIVE) if disk.block_job] == [
        "active-commit",
        "copy",
    ]


def test_replaced_source_keeps_nothing_of_the_old_image() -> None:
    changed = domain_xml.with_disk_sources(LIVE, {"vda": ("/new/a.ov", "qcow2"), "vdd": ("/d.img", "raw")})
    root = etree.fromstring(changed)
    vda, vdd = root.findall("devices/disk")[0], root.findall("devices/disk")[3]
    assert [child.tag for child in vda] == ["driver", "source", "target", "alias"]
    source = vda.find("source")
    assert source is not None
    assert source.items() == [("file", "/new/a.ov")]
    assert [child.tag for child in source] == ["seclabel"]
    assert vda[0].items() == [("name", "qemu"), ("type", "qcow2"), ("discard", "unmap")]
    assert vdd.get("type") == "file"
    assert [child.tag for child in vdd] == ["driver", "source", "target"]
    assert disk_of(changed, "vdd").format == "raw"


def test_replacing_leaves_the_rest_alone() -> None:
    changed = domain_xml.with_disk_sources(LIVE, {"vda": ("/new", "qcow2")})
    before, after = domain_xml.disks(LIVE)[1:], domain_xml.disks(changed)[1:]
    assert before == after
    assert "qemu:commandline" in changed
    assert domain_xml.with_disk_sources(changed, {"vda": ("/new", "qcow2")}) == changed


def test_unknown_target_is_named() -> None:
    with pytest.raises(BadInput, match=r"'vdz'.*vda"):
        domain_xml.with_disk_sources(LIVE, {"vdz": ("/new", "qcow2")})


xml_text = st.text(
    st.characters(
        exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff", include_characters="\n\t"
    ),
    min_size=1,
)


@given(xml_text)
def test_any_path_comes_back_unchanged(path: str) -> None:
    changed = domain_xml.with_disk_sources(LIVE, {"vda": ("/" + path, "qcow2")})
    assert disk_of(changed, "vda").chain == ("/" + path,)


def test_a_path_that_xml_cannot_carry() -> None:
    with pytest.raises(BadInput, match="XML can't carry"):
        domain_xml.with_disk_sources(LIVE, {"vda": ("/a\x00b", "qcow2")})


def test_boot_files() -> None:
    found = {(boot.kind, boot.path) for boot in domain_xml.boot_files(LIVE)}
    assert found == {
        ("kernel", "/boot/vmlinuz"),
        ("initrd", "/boot/initrd.img"),
        ("dtb", "/boot/board.dtb"),
        ("loader", "/usr/share/OVMF/CODE.fd"),
        ("nvram", "/var/lib/libvirt/qemu/nvram/web VARS.fd"),
        ("nvram-template", "/usr/share/OVMF/VARS.fd"),
        ("cdrom", "/iso/a b.iso"),
        ("floppy", "/f.img"),
    }


def test_nvram_in_a_source_element() -> None:
    xml = "<domain><os><nvram type='file'><source file='/n.fd'/></nvram></os></domain>"
    assert domain_xml.boot_files(xml) == (domain_xml.BootFile("nvram", "/n.fd"),)


def test_platform() -> None:
    found = domain_xml.platform(LIVE)
    assert found.emulator == "/usr/bin/qemu-system-x86_64"
    assert (found.arch, found.machine, found.virt_type) == ("x86_64", "pc-i440fx-7.2", "qemu")
    assert found.cpu is not None
    assert found.cpu.startswith("<cpu ")
    assert found.cpu.endswith("</cpu>")


def test_platform_of_a_bare_domain() -> None:
    found = domain_xml.platform("<domain type='kvm'><os><type arch='aarch64'>hvm</type></os></domain>")
    assert found == domain_xml.Platform(None, "aarch64", None, "kvm", None)


@pytest.mark.parametrize("text", ["", "no xml", "<domain>", "<network/>", "<domain>\x00</domain>"])
def test_what_is_no_domain_xml(text: str) -> None:
    with pytest.raises(BadInput):
        domain_xml.disks(text)


def test_missing_name() -> None:
    with pytest.raises(BadInput, match="<name>"):
        domain_xml.name("<domain/>")


@pytest.mark.parametrize(
    "entities",
    [
        "<!ENTITY e1 SYSTEM 'file:///etc/hostname'>",
        "<!ENTITY e0 'x'>" + "".join(f"<!ENTITY e{i} '{f'&e{i - 1};' * 50}'>" for i in range(1, 12)),
    ],
)
def test_entities_are_refused(entities: str) -> None:
    with pytest.raises(BadInput):
        domain_xml.name(f"<!DOCTYPE domain [{entities}]><domain><name>n&e1;</name></domain>")
