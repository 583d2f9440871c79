"""Sparse files on file systems that can get full."""

from __future__ import annotations

from collections.abc import Iterator

from fsm.hypervisor.port import DataSink
from fsm.hypervisor.simulated.state import (
    PAGE,
    Denied,
    FileSystem,
    HostState,
    Missing,
    NoSpace,
    SparseFile,
    WorldState,
)
from fsm.hypervisor.values import is_among_devices

_CHUNK_PAGES = 256


def _above(path: str) -> str:
    # What os.path.dirname gives for absolute paths, in a third of its time: every access asks for it.
    return path.rpartition("/")[0] or "/"


def _followed(host: HostState, path: str) -> str:
    """The path without linked directories."""
    for link, target in host.links.items():
        if path == link or path.startswith(f"{link}/"):
            return target + path.removeprefix(link)
    return path


def filesystem(state: WorldState, host: HostState, directory: str) -> FileSystem:
    """The file system that holds ``directory``; ``Missing`` when the directory does not exist."""
    mount = directory = _followed(host, directory)
    while mount not in host.mounts:
        parent = _above(mount)
        if parent == mount:
            raise Missing(f"cannot open directory '{directory}': No such file or directory")
        mount = parent
    found = state.filesystems[host.mounts[mount]]
    if directory not in found.directories:
        raise Missing(f"cannot open directory '{directory}': No such file or directory")
    return found


def find(state: WorldState, host: HostState, path: str) -> SparseFile | None:
    """The file at ``path``, None when there is none, whether or not its directory exists."""
    try:
        return filesystem(state, host, _above(path)).files.get(_followed(host, path))
    except Missing:
        return None


def existing(state: WorldState, host: HostState, path: str) -> SparseFile:
    """The file at ``path``; ``Missing`` when there is none."""
    found = find(state, host, path)
    if found is None:
        raise Missing(f"Cannot access storage file '{path}': No such file or directory")
    return found


def create(state: WorldState, host: HostState, path: str, size_bytes: int = 0) -> SparseFile:
    """Create a file that is one hole; ``Denied`` when ``path`` exists, or is where devices are."""
    expect_no_device(path)
    return _make(state, host, path, size_bytes)


def create_device(state: WorldState, host: HostState, path: str, size_bytes: int) -> None:
    """Create a block device, which simulated hosts have below ``/dev``, all zeros."""
    _make(state, host, path, size_bytes)


def expect_no_device(path: str) -> None:
    """``Denied`` for a path below ``/dev``: nothing is made or removed there."""
    if is_among_devices(path):
        raise Denied(f"'{path}' is where the host keeps its devices")


def _make(state: WorldState, host: HostState, path: str, size_bytes: int) -> SparseFile:
    where = filesystem(state, host, _above(path))
    path = _followed(host, path)
    if path in where.files:
        raise Denied(f"storage volume '{path}' exists already")
    where.files[path] = SparseFile(size_bytes)
    _touch(state, where.files[path])
    return where.files[path]


def remove(state: WorldState, host: HostState, path: str) -> None:
    """Remove a file and free what it took; nothing happens when there is none."""
    if find(state, host, path) is None:
        return
    where = filesystem(state, host, _above(path))
    where.used_bytes -= allocated_bytes(where.files.pop(_followed(host, path)))


def allocated_bytes(file: SparseFile) -> int:
    """What a file takes on its file system."""
    return len(file.pages) * PAGE


def write(state: WorldState, host: HostState, path: str, offset: int, data: bytes) -> None:
    """Write into an existing file. ``NoSpace`` when the file system is full; pages before that are kept."""
    where = filesystem(state, host, _above(path))
    file = existing(state, host, path)
    _touch(state, file)
    done = 0
    while done < len(data):
        number, within = divmod(offset + done, PAGE)
        piece = data[done : done + PAGE - within]
        if len(piece) < PAGE:
            whole = file.pages.get(number, b"").ljust(PAGE, b"\0")
            piece = whole[:within] + piece + whole[within + len(piece) :]
        _put(where, file, path, number, piece)
        done += PAGE - within
        file.size = max(file.size, min(offset + done, offset + len(data)))


def write_page(state: WorldState, host: HostState, path: str, number: int, content: bytes) -> None:
    """Write a whole page of an existing file: ``content``, and zeros behind it. ``NoSpace`` as above."""
    where = filesystem(state, host, _above(path))
    file = existing(state, host, path)
    _touch(state, file)
    _put(where, file, path, number, content)
    file.size = max(file.size, (number + 1) * PAGE)


def _touch(state: WorldState, file: SparseFile) -> None:
    state.writes += 1
    file.written = state.writes


def _put(where: FileSystem, file: SparseFile, path: str, number: int, content: bytes) -> None:
    if is_among_devices(path):
        if number * PAGE >= file.size:
            raise NoSpace(path)
    elif number not in file.pages:
        if where.used_bytes + PAGE > where.size_bytes:
            raise NoSpace(path)
        where.used_bytes += PAGE
    file.pages[number] = content.rstrip(b"\0")


def read(file: SparseFile, offset: int, length: int) -> bytes:
    """The bytes of a range, cut off at the file's end."""
    end = min(offset + length, file.size)
    if end <= offset:
        return b""
    first, last = offset // PAGE, (end - 1) // PAGE
    whole = b"".join(file.pages.get(number, b"").ljust(PAGE, b"\0") for number in range(first, last + 1))
    return whole[offset - first * PAGE : end - first * PAGE]


def numbers_between(file: SparseFile, first: int, end: int) -> list[int]:
    """The allocated pages from ``first`` to before ``end``, ascending; takes the shorter way to find them."""
    if end - first < len(file.pages):
        return [number for number in range(first, end) if number in file.pages]
    return sorted(number for number in file.pages if first <= number < end)


def extents(file: SparseFile, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
    """The data and holes of a range in ascending order: (offset, length, whether it is data)."""
    end = min(offset + length, file.size)
    at = offset
    for first, last in _runs(numbers_between(file, offset // PAGE, -(-end // PAGE))):
        begin, stop = max(first * PAGE, offset), min((last + 1) * PAGE, end)
        if begin > at:
            yield at, begin - at, False
        yield begin, stop - begin, True
        at = stop
    if at < end:
        yield at, end - at, False


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as runs (first, last), none longer than a chunk."""
    start = previous = None
    for number in numbers:
        if start is None or previous is None:
            start = number
        elif number != previous + 1 or number - start >= _CHUNK_PAGES:
            yield start, previous
            start = number
        previous = number
    if start is not None and previous is not None:
        yield start, previous


def feed(file: SparseFile, offset: int, length: int, sink: DataSink) -> None:
    """Give the content of a range to ``sink``."""
    for at, size, is_data in extents(file, offset, length):
        if is_data:
            sink.data(at, read(file, at, size))
        else:
            sink.hole(at, size)


def shared(state: WorldState, one: HostState, other: HostState, path: str) -> bool:
    """Whether a path is the same file on two hosts."""
    found = find(state, one, path)
    return found is not None and found is find(state, other, path)
