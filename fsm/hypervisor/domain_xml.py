"""Pure functions on domain XML: what the engine reads out of a domain's description and changes in it.

Paths may hold any character that XML can carry; lxml does all quoting. Text that is no domain XML raises
``BadInput``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from attrs import frozen
from lxml import etree

from fsm.errors import BadInput
from fsm.hypervisor.values import DiskFacts
from fsm.machine.observation import BlockJob

# Attributes of <source> that name an image, by the disk's type; all of them go when the source is replaced.
_SOURCE_NAMES = frozenset(
    (
        "file",
        "dev",
        "dir",
        "protocol",
        "name",
        "query",
        "tls",
        "tlsHostname",
        "pool",
        "volume",
        "mode",
        "index",
    )
)
# Children of <source> that describe one certain image and would be wrong for another.
_SOURCE_DETAILS = ("privateData", "slices", "host", "snapshot", "config", "auth", "cookies", "ssl")
_BOOT_FILES = (
    ("kernel", "os/kernel"),
    ("initrd", "os/initrd"),
    ("dtb", "os/dtb"),
    ("loader", "os/loader"),
    ("nvram", "os/nvram"),
    ("acpi-table", "os/acpi/table"),
)


@frozen
class BootFile:
    """A file besides the migrated disks that a host needs to run the domain; ``kind`` says what it is for."""

    kind: str
    path: str


@frozen
class Platform:
    """What a domain wants its host to emulate; ``cpu`` is its ``<cpu>`` element as XML, None without one."""

    emulator: str | None
    arch: str
    machine: str | None
    virt_type: str
    cpu: str | None


def parse(xml: str, root: str = "domain") -> etree._Element:
    """Parse XML from outside with everything off that could read files, use the network or blow up."""
    # huge_tree stays off: it is the switch that lifts libxml2's limits. A parser is not shared by threads.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, encoding="utf-8"
    )
    try:
        element = etree.fromstring(xml.encode("utf-8"), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as error:
        raise BadInput(f"this is no XML: {error}") from error
    if element.getroottree().docinfo.internalDTD is not None:
        raise BadInput(
            "this XML has a document type: libvirt writes none, and entities are not to be trusted"
        )
    if element.tag != root:
        raise BadInput(f"this is no {root} XML: its root element is {element.tag!r}")
    return element


def serialize(element: etree._Element) -> str:
    """The element as text, without what follows it in its document."""
    return etree.tostring(element, encoding="unicode", with_tail=False)


def set_attribute(element: etree._Element, key: str, value: str) -> None:
    """Set an attribute; ``BadInput`` when XML can't carry the value."""
    try:
        element.set(key, value)
    except ValueError as error:
        raise BadInput(f"XML can't carry {value!r}: {error}") from error


def rename(domain: etree._Element, name: str) -> None:
    """Give a domain's element another name; ``BadInput`` when XML can't carry it."""
    found = domain.find("name")
    if found is None:
        raise BadInput("the domain XML has no <name>")
    try:
        found.text = name
    except ValueError as error:
        raise BadInput(f"XML can't carry the name {name!r}: {error}") from error


def name(xml: str) -> str:
    """The domain's name."""
    return _required(parse(xml), "name")


def uuid(xml: str) -> str:
    """The domain's UUID in libvirt's spelling."""
    return _required(parse(xml), "uuid").lower()


def disks(xml: str, *, whole_chain: bool = True) -> tuple[DiskFacts, ...]:
    """Every ``<disk>``, in document order.

    The chain comes from ``<backingStore>``; with ``whole_chain`` false only the active layer is kept, as the
    chain in a definition is what libvirt saw once and not what it will find at the next start. The block job
    comes from ``<mirror>``, without its progress.
    """
    return tuple(_disk(element, whole_chain=whole_chain) for element in parse(xml).iterfind("devices/disk"))


def with_disk_sources(xml: str, sources: Mapping[str, tuple[str, str]], devices: Collection[str] = ()) -> str:
    """The XML with other images: ``sources`` maps a disk target to a path and a format.

    Those whose path is among ``devices`` are block devices, the others files.

    The changed disks lose everything that belongs to their old image (backing chain, block job, indexes), so
    that the host which gets this XML looks at the files itself. All else stays as it is.
    """
    root = parse(xml)
    found = {_target(disk): disk for disk in root.iterfind("devices/disk")}
    for target, (path, image_format) in sources.items():
        if target not in found:
            raise BadInput(f"the domain has no disk {target!r}; it has {', '.join(sorted(found))}")
        _replace_source(found[target], path, image_format, on_device=path in devices)
    return serialize(root)


def boot_files(xml: str) -> tuple[BootFile, ...]:
    """Files that must exist where the domain is to run: kernel, firmware, and what lies in its drives.

    ``nvram`` is the domain's own variable store; ``nvram-template`` what libvirt fills a missing one from.
    """
    root = parse(xml)
    found = [
        BootFile(kind, element.text.strip())
        for kind, where in _BOOT_FILES
        for element in root.iterfind(where)
        if element.text and element.text.strip()
    ]
    found += [
        BootFile("nvram", source.get("file", ""))
        for source in root.iterfind("os/nvram/source")
        if source.get("file")
    ]
    found += [
        BootFile("nvram-template", nvram.get("template", ""))
        for nvram in root.iterfind("os/nvram")
        if nvram.get("template")
    ]
    found += [
        BootFile(disk.device, disk.source)
        for disk in disks(xml)
        if disk.device in ("cdrom", "floppy") and disk.source_type == "file" and disk.source
    ]
    return tuple(found)


def has_emulated_tpm(xml: str) -> bool:
    """Whether libvirt keeps the state of an emulated TPM for the domain."""
    return parse(xml).find("devices/tpm/backend[@type='emulator']") is not None


def graphics_password(xml: str) -> str | None:
    """The password of the domain's display, None where it has none or does not show it."""
    found = [graphics.get("passwd") for graphics in parse(xml).iterfind("devices/graphics")]
    return next((password for password in found if password), None)


def with_graphics_passwords(xml: str, password: str) -> str:
    """Snapshot XML in which every display has a password: its own, or this one where it shows none."""
    root = parse(xml, "domainsnapshot")
    for graphics in root.iter("graphics"):
        shown = graphics.get("passwd", "").strip("*")  # libvirt may print asterisks for what it hides
        if not shown and graphics.get("type") in ("vnc", "spice"):
            set_attribute(graphics, "passwd", password)
    return serialize(root)


def with_name(xml: str, name: str) -> str:
    """The domain's XML under another name."""
    root = parse(xml)
    rename(root, name)
    return serialize(root)


def mirror_ready(xml: str, target: str) -> bool:
    """Whether the disk's mirroring block job may be pivoted.

    Progress can't tell: ``cur == end`` also holds for a job that has just begun.
    """
    return any(
        disk.block_job is not None and disk.block_job.ready for disk in disks(xml) if disk.target == target
    )


def platform(xml: str) -> Platform:
    """What the compatibility calls of a host want to know of a domain."""
    root = parse(xml)
    kind = root.find("os/type")
    cpu = root.find("cpu")
    return Platform(
        emulator=_text(root, "devices/emulator"),
        arch=(kind.get("arch") if kind is not None else None) or "x86_64",
        machine=kind.get("machine") if kind is not None else None,
        virt_type=root.get("type", "kvm"),
        cpu=None if cpu is None else serialize(cpu),
    )


def _disk(element: etree._Element, *, whole_chain: bool) -> DiskFacts:
    layers = list(_layers(element))
    if not whole_chain:
        del layers[1:]
    mirror = element.find("mirror")
    encryption = any(element.find(where) is not None for where in ("encryption", "source/encryption"))
    return DiskFacts(
        target=_target(element),
        device=element.get("device", "disk"),
        source_type=element.get("type", "file"),
        chain=tuple(path for path, _ in layers),
        formats=tuple(image_format for _, image_format in layers),
        read_only=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        transient=element.find("transient") is not None,
        cache="" if (driver := element.find("driver")) is None else driver.get("cache", ""),
        encrypted=encryption or element.find(".//backingStore/source/encryption") is not None,
        block_job=None if mirror is None else _mirror_job(mirror),
    )


def _mirror_job(mirror: etree._Element) -> BlockJob:
    # 'abort' and 'pivot' stand here while libvirt carries one of them out: then nobody may begin another.
    return BlockJob(kind=mirror.get("job", "copy"), ready=mirror.get("ready") == "yes")


def _layers(disk: etree._Element) -> Iterator[tuple[str, str]]:
    """Path and format of each layer, active one first."""
    driver = disk.find("driver")
    path = _source_name(disk)
    if path:
        yield path, (driver.get("type", "") if driver is not None else "")
    layer = disk.find("backingStore")
    while layer is not None:
        path = _source_name(layer)
        if not path:  # an empty <backingStore/> ends the chain
            return
        kind = layer.find("format")
        yield path, (kind.get("type", "") if kind is not None else "")
        layer = layer.find("backingStore")


def _source_name(layer: etree._Element) -> str:
    """One string that names the image of a disk or backing store of any type, empty for an empty drive."""
    source = layer.find("source")
    if source is None:
        return ""
    kind = layer.get("type", "file")
    match kind:
        case "file":
            return source.get("file", "")
        case "block":
            return source.get("dev", "")
        case "dir":
            return source.get("dir", "")
        case "volume":
            return f"{source.get('pool', '')}/{source.get('volume', '')}"
        case "network":
            return f"{source.get('protocol', 'network')}:{source.get('name', '')}"
        case _:
            return f"{kind}:{source.get('path') or source.get('dev') or ''}"


def set_source(disk: etree._Element, source: etree._Element, path: str, *, on_device: bool) -> None:
    """Have a disk (or a layer of one) lie in that file, or on that block device."""
    kind = "block" if on_device else "file"
    if disk.get("type", "file") != kind:
        disk.set("type", kind)
    for key in {"file", "dev"}.intersection(source.keys()):
        del source.attrib[key]
    set_attribute(source, "dev" if on_device else "file", path)


def _replace_source(disk: etree._Element, path: str, image_format: str, *, on_device: bool) -> None:
    source = disk.find("source")
    if source is None:
        source = etree.Element("source")
        disk.insert(0, source)
    for key in _SOURCE_NAMES.intersection(source.keys()):
        del source.attrib[key]
    for tag in _SOURCE_DETAILS:
        _drop(source, tag)
    set_source(disk, source, path, on_device=on_device)
    driver = disk.find("driver")
    if driver is None:
        driver = etree.Element("driver", name="qemu")
        disk.insert(0, driver)
    set_attribute(driver, "type", image_format)
    for tag in ("backingStore", "mirror"):
        _drop(disk, tag)


def _drop(parent: etree._Element, tag: str) -> None:
    for child in parent.findall(tag):
        parent.remove(child)


def _target(disk: etree._Element) -> str:
    target = disk.find("target")
    return target.get("dev", "") if target is not None else ""


def _text(root: etree._Element, where: str) -> str | None:
    text = root.findtext(where)
    return text.strip() if text and text.strip() else None


def _required(root: etree._Element, tag: str) -> str:
    # Not stripped: libvirt keeps a name's spaces.
    text = root.findtext(tag)
    if not text:
        raise BadInput(f"the domain XML has no <{tag}>")
    return text
