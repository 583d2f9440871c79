"""Hosts in memory with data channels that fail, block and lie on request, for the tests of ``fsm.images``."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from attrs import define, field

from fsm.errors import HostError
from fsm.hypervisor.port import DataSink
from fsm.hypervisor.values import FileFacts

PAGE = 64 * 1024
MIB = 1024 * 1024
PATH = "/images/a disk.qcow2"
SOURCE, DESTINATION = "memory://one/", "memory://two/"


@define
class MemoryFile:
    """A sparse file; a page that is not there is a hole."""

    size: int
    pages: dict[int, bytes] = field(factory=dict)

    def write(self, offset: int, content: bytes) -> None:
        done = 0
        while done < len(content):
            number, within = divmod(offset + done, PAGE)
            piece = content[done : done + PAGE - within]
            old = self.pages.get(number, bytes(PAGE))
            self.pages[number] = old[:within] + piece + old[within + len(piece) :]
            done += len(piece)

    def byte(self, offset: int) -> int:
        return self.pages.get(offset // PAGE, bytes(PAGE))[offset % PAGE]

    def content(self) -> bytes:
        whole = b"".join(self.pages.get(number, bytes(PAGE)) for number in range(-(-self.size // PAGE)))
        return whole[: self.size]

    @classmethod
    def of(cls, content: bytes) -> MemoryFile:
        made = cls(len(content))
        for at in range(0, len(content), PAGE):
            if any(content[at : at + PAGE]):
                made.pages[at // PAGE] = content[at : at + PAGE].ljust(PAGE, b"\0")
        return made

    @classmethod
    def random(cls, size: int, share: float = 0.1, seed: int = 1) -> MemoryFile:
        rng = random.Random(seed)  # noqa: S311 - the same content every time
        made = cls(size)
        for number in range(-(-size // PAGE)):
            if rng.random() < share:
                made.pages[number] = rng.randbytes(PAGE)
        return made


@define
class MemoryHost:
    """``on_packet`` is called in the worker's thread before each packet: (call, offset)."""

    uri: str
    files: dict[str, MemoryFile] = field(factory=dict)
    on_packet: Callable[[str, int], None] = lambda *_: None
    on_open: Callable[[], None] = lambda: None
    open_channels: int = 0
    opened: int = 0
    abandoned: int = 0
    read_bytes: int = 0
    closed: threading.Event = field(factory=threading.Event)
    _lock: threading.Lock = field(factory=threading.Lock)

    @property
    def storage(self) -> MemoryHost:
        return self

    async def stat(self, path: str) -> FileFacts | None:
        found = self.files.get(path)
        return found and FileFacts(path, found.size, len(found.pages) * PAGE, found.size, "raw")

    async def peek(self, path: str, offset: int, length: int) -> bytes:
        self.on_packet("peek", offset)
        found = self.files[path].content()[offset : offset + length]
        self.read_bytes += len(found)
        return found

    async def close(self) -> None:
        self.count(-1)

    def count(self, by: int) -> None:
        with self._lock:
            self.open_channels += by
            self.opened += max(by, 0)

    def error(self, message: str) -> HostError:
        return HostError(message, host=self.uri, call="read")


@define
class MemoryConnector:
    one: MemoryHost = field(factory=lambda: MemoryHost(SOURCE))
    two: MemoryHost = field(factory=lambda: MemoryHost(DESTINATION))

    def host(self, uri: str) -> MemoryHost:
        return self.one if uri.endswith("one/") else self.two

    async def connect(self, uri: str) -> MemoryHost:
        self.host(uri).count(1)
        return self.host(uri)

    def open_channel(self, uri: str) -> MemoryChannel:
        self.host(uri).on_open()
        self.host(uri).count(1)
        return MemoryChannel(self.host(uri))


@define
class MemoryChannel:
    host: MemoryHost
    closed: bool = False

    def read(self, path: str, offset: int, length: int, sink: DataSink) -> None:
        file = self.host.files[path]
        end = min(offset + length, file.size)
        while offset < end:
            self.host.on_packet("read", offset)
            number, within = divmod(offset, PAGE)
            page = file.pages.get(number)
            if page is not None:
                piece = page[within : within + end - offset]
                self.host.read_bytes += len(piece)
                sink.data(offset, piece)
                offset += len(piece)
            else:
                stop = next((n for n in range(number, -(-end // PAGE)) if n in file.pages), end) * PAGE
                sink.hole(offset, min(stop, end) - offset)
                offset = min(stop, end)

    def writer(self, path: str) -> MemoryWriter:
        return MemoryWriter(self.host, self.host.files[path])

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        self.host.count(-1)
        self.host.closed.set()


@define
class MemoryWriter:
    host: MemoryHost
    file: MemoryFile

    def data(self, offset: int, chunk: bytes) -> None:
        self.host.on_packet("write", offset)
        self.file.write(offset, chunk)

    def hole(self, offset: int, length: int) -> None:
        self.host.on_packet("hole", offset)

    def close(self) -> None:
        self.host.on_packet("close", 0)

    def abandon(self) -> None:
        self.host.abandoned += 1


def pair(original: MemoryFile, copy: MemoryFile | None = None, path: str = PATH) -> MemoryConnector:
    """Two hosts: the first has ``original``, the second an empty file as long, or ``copy``."""
    connector = MemoryConnector()
    connector.one.files[path] = original
    connector.two.files[path] = copy or MemoryFile(original.size)
    return connector


class Seen:
    """A sink that keeps what it sees."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def data(self, offset: int, chunk: bytes) -> None:
        self.calls.append(("data", offset, len(chunk)))

    def hole(self, offset: int, length: int) -> None:
        self.calls.append(("hole", offset, length))


def test_a_channel_in_memory_tells_data_and_holes_in_order() -> None:
    connector = pair(MemoryFile(4 * PAGE + 5, {1: b"x" * PAGE, 4: b"y" * PAGE}))
    seen = Seen()
    connector.open_channel(SOURCE).read(PATH, 10, 100 * PAGE, seen)
    assert seen.calls == [
        ("hole", 10, PAGE - 10),
        ("data", PAGE, PAGE),
        ("hole", 2 * PAGE, 2 * PAGE),
        ("data", 4 * PAGE, 5),
    ]
