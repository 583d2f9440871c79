"""QEMU processes: what one opens when it starts, and what keeps it from starting."""

from __future__ import annotations

from collections.abc import Iterable

from fsm.hypervisor import domain_xml, firmware_xml
from fsm.hypervisor.simulated import documents, files, images
from fsm.hypervisor.simulated.state import Denied, HostState, Instance, LiveDisk, WorldState


def open_disks(state: WorldState, host: HostState, text: str) -> dict[str, LiveDisk]:
    """Open the images of a domain that is about to start; ``Missing`` names a file that is not there."""
    for boot in domain_xml.boot_files(text):
        if boot.kind != "nvram":
            files.existing(state, host, boot.path)
    disks = {
        disk.target: LiveDisk(disk.target, images.chain(state, host, disk.source, disk.format or "raw"))
        for disk in documents.disks(text)
        if disk.source_type in ("file", "block") and disk.source
    }
    _make_variables(state, host, text)
    return disks


def _make_variables(state: WorldState, host: HostState, text: str) -> None:
    """A missing file of UEFI variables is made from its template; the end of a domain does not remove it."""
    path = firmware_xml.variables_file(text)
    templates = [boot.path for boot in domain_xml.boot_files(text) if boot.kind == "nvram-template"]
    if not path or not templates or files.find(state, host, path) is not None:
        return
    template = files.existing(state, host, templates[0])
    files.create(state, host, path, template.size)
    files.write(state, host, path, 0, files.read(template, 0, template.size))


def writable(instance: Instance) -> list[LiveDisk]:
    """The disks that the guest can write to and that nobody else may."""
    kept = {
        disk.target
        for disk in documents.disks(instance.xml)
        if not disk.read_only and not disk.shareable and disk.device == "disk"
    }
    return [disk for target, disk in instance.disks.items() if target in kept]


def take_locks(state: WorldState, host: HostState, uuid: str, disks: Iterable[LiveDisk]) -> None:
    """QEMU's image locks: ``Denied`` where the same domain has an image open at a host that shares it.

    Either may read what the other reads; what one writes to, the other may not even have open.
    """
    for disk in disks:
        for other in state.hosts.values():
            record = other.domains.get(uuid)
            if other is host or record is None or record.instance is None:
                continue
            for path in _contested(disk, writable(record.instance)):
                if files.shared(state, host, other, path):
                    raise Denied(f'Failed to get "write" lock: Is another process using the image [{path}]?')


def _contested(disk: LiveDisk, others: list[LiveDisk]) -> set[str]:
    ours = {path for path, _ in disk.layers}
    theirs = {path for other in others for path, _ in other.layers}
    written = {disk.layers[0][0]} | {other.layers[0][0] for other in others}
    return ours & theirs & written
