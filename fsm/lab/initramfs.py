"""The guest's kernel and initramfs: Debian's cloud kernel, six of its modules and one static program."""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from fsm.lab.errors import LabError
from fsm.lab.process import run

MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
)
"""In the order in which they depend on each other."""

_REGULAR, _DIRECTORY, _CHARACTER_DEVICE = 0o100000, 0o040000, 0o020000


def kernel() -> Path:
    """The newest installed cloud kernel whose modules are there too."""
    found = [path for path in Path("/boot").glob("vmlinuz-*-cloud-amd64") if _module_directory(path).is_dir()]
    if not found:
        raise LabError("no Debian cloud kernel in /boot", remedy="apt-get install linux-image-cloud-amd64")
    return max(found, key=lambda path: path.stat().st_mtime)


def _module_directory(kernel_image: Path) -> Path:
    return Path("/lib/modules") / kernel_image.name.removeprefix("vmlinuz-") / "kernel"


def build_initramfs(path: Path) -> None:
    """Compile the guest's program and pack it with the modules into ``path``."""
    with tempfile.TemporaryDirectory(prefix="fsm-init-") as work:
        program = Path(work) / "init"
        source = resources.files("fsm.lab").joinpath("guest_init.c")
        with resources.as_file(source) as file:
            run(["gcc", "-static", "-O2", "-Wall", "-s", "-o", str(program), str(file)])
        entries = [
            ("dev", _DIRECTORY | 0o755, b"", (0, 0)),
            ("dev/console", _CHARACTER_DEVICE | 0o600, b"", (5, 1)),
            ("modules", _DIRECTORY | 0o755, b"", (0, 0)),
            ("init", _REGULAR | 0o755, program.read_bytes(), (0, 0)),
        ]
    directory = _module_directory(kernel())
    for order, name in enumerate(MODULES):
        entries.append((f"modules/{order}-{name}.ko", _REGULAR | 0o644, _module(directory, name), (0, 0)))
    path.write_bytes(cpio(entries))


def _module(directory: Path, name: str) -> bytes:
    found = sorted(directory.rglob(f"{name}.ko*"))
    if not found:
        raise LabError(f"{directory} has no module {name}")
    content = found[0].read_bytes()
    return lzma.decompress(content) if found[0].suffix == ".xz" else content


def cpio(entries: Iterable[tuple[str, int, bytes, tuple[int, int]]]) -> bytes:
    """Pack (name, mode, content, device numbers) in the "newc" format that the kernel unpacks."""
    archive = bytearray()
    for number, (name, mode, content, device) in enumerate(
        [*entries, ("TRAILER!!!", 0, b"", (0, 0))], start=1
    ):
        raw_name = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device of the file, device it is, name size, checksum
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw_name), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + raw_name
        archive += b"\0" * (-len(archive) % 4)
        archive += content
        archive += b"\0" * (-len(archive) % 4)
    return bytes(archive)
