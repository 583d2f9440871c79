"""Both ends of a connection between two hosts whose bytes are compressed while they wait for the link.

The text of this file runs on the hosts, by whatever Python is there: so it takes 3.8, and nothing but the
standard library. ``serve`` stands at the source in front of an export, ``fetch`` at the destination around
the command that reads it. What is asked for goes as it is; the answers go in frames: a kind, a length, and as
many bytes, which the kind tells to be raw or deflated.

Nothing is compressed before it has to wait. So a fast link costs no CPU, a slow one gets as much compressed
as the CPU is able to in that time, and the link never waits for the CPU.
"""

from __future__ import annotations

import collections
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO

RAW, DEFLATED = 0, 1

CHUNK_BYTES = 256 * 1024
"""What a frame holds at most, before and behind the compression."""

QUEUE_CHUNKS = 16
"""What may wait for the link; the rest waits in whoever wrote it."""

BACKLOG_CHUNKS = 4
"""So many have to wait before any is compressed: fewer are gone before that is done."""

SAMPLE_BYTES = 4096
"""So much of a chunk shows whether the rest is worth the CPU; a smaller chunk is not."""

CONNECTIONS = 2
"""Served at once, as ``qemu-nbd`` does: the next client may come before the last has been seen to go."""

CONNECT_S = 30.0

_HEADER = struct.Struct("!BI")


class BadFrame(Exception):
    """What came over the link is no frame, or not all of one."""


def header(kind: int, length: int) -> bytes:
    """What stands before a frame's bytes."""
    return _HEADER.pack(kind, length)


def unpacked(stream: BinaryIO) -> Iterator[bytes]:
    """The content of one frame after another, until the stream ends. Raises ``BadFrame``."""
    while True:  # bounded: by the stream's end
        head = stream.read(_HEADER.size)
        if not head:
            return
        if len(head) < _HEADER.size:
            raise BadFrame("the connection ended within a frame")
        kind, length = _HEADER.unpack(head)
        if kind not in (RAW, DEFLATED) or length > CHUNK_BYTES:
            raise BadFrame(f"what came is no frame: kind {kind}, {length} bytes")
        body = stream.read(length)
        if len(body) < length:
            raise BadFrame("the connection ended within a frame")
        yield body if kind == RAW else _inflated(body)


def _inflated(body: bytes) -> bytes:
    inflating = zlib.decompressobj()
    try:
        data = inflating.decompress(body, CHUNK_BYTES)
    except zlib.error as error:
        raise BadFrame(f"a frame can't be inflated: {error}") from error
    if not inflating.eof or inflating.unused_data:
        raise BadFrame("a frame is not as long as it should be")
    return data


class _Frame:
    __slots__ = ("body", "is_tried", "kind")

    def __init__(self, chunk: bytes) -> None:
        self.kind, self.body = RAW, chunk
        self.is_tried = len(chunk) < SAMPLE_BYTES


class Queue:
    """Chunks on their way to the link, in their order. Used by one thread that puts, one that takes, and one
    that compresses what waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frames: collections.deque[_Frame] = collections.deque()
        self._is_ended = False

    def put(self, chunk: bytes) -> bool:
        """Add one as soon as there is room; False if nobody takes it any more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._frames) < QUEUE_CHUNKS or self._is_ended)
            if not self._is_ended:
                self._frames.append(_Frame(chunk))
                self._changed.notify_all()
            return not self._is_ended

    def end(self) -> None:
        """Nothing more comes, or nobody takes it."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def take(self) -> tuple[int, bytes] | None:
        """The next one's kind and bytes; waits for it. None: there is none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._is_ended)
            if not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame.kind, frame.body

    def compress_what_waits(self) -> None:
        """Compress until the end. The one that will wait longest comes first."""
        while True:  # bounded: by the end
            with self._changed:
                self._changed.wait_for(lambda: self._longest_waiting() or self._is_ended)
                frame = self._longest_waiting()
                if frame is None:
                    return
                frame.is_tried = True
            middle = len(frame.body) // 2
            if not _shrinks(frame.body[middle : middle + SAMPLE_BYTES]):
                continue
            packed = zlib.compress(frame.body, 1)
            with self._changed:  # one that has been taken meanwhile has gone as it was
                frame.kind, frame.body = DEFLATED, packed

    def _longest_waiting(self) -> _Frame | None:
        if len(self._frames) < BACKLOG_CHUNKS:
            return None
        return next((frame for frame in reversed(self._frames) if not frame.is_tried), None)


def _shrinks(sample: bytes) -> bool:
    return len(zlib.compress(sample, 1)) <= len(sample) * 7 // 8


def pack(source: socket.socket, link: socket.socket) -> None:
    """Carry what comes from ``source`` over the link in frames, until it ends. Raises ``OSError``."""
    queue = Queue()
    workers = [
        threading.Thread(target=work, args=args, daemon=True)
        for work, args in ((_fill, (source, queue)), (queue.compress_what_waits, ()))
    ]
    for worker in workers:
        worker.start()
    try:
        while True:  # bounded: by the end of what comes
            frame = queue.take()
            if frame is None:
                break
            link.sendall(header(frame[0], len(frame[1])), socket.MSG_MORE)
            link.sendall(frame[1])
        link.shutdown(socket.SHUT_WR)
    finally:
        queue.end()


def _fill(source: socket.socket, queue: Queue) -> None:
    try:
        while True:  # bounded: by the source's end
            chunk = source.recv(CHUNK_BYTES)
            if not chunk or not queue.put(chunk):
                break
    except OSError:  # a source that breaks off has ended; who reads it can tell by what is missing
        pass
    finally:
        queue.end()


def unpack(link: socket.socket, target: socket.socket) -> bool:
    """Carry what comes in frames to ``target``, until the link ends. Raises ``BadFrame`` and ``OSError``.

    False: nobody took it to the end.
    """
    with link.makefile("rb") as stream:
        for data in unpacked(stream):
            try:
                target.sendall(data)
            except OSError:  # it has ended, and tells why itself
                return False
    return True


def carry(source: socket.socket, target: socket.socket, told: Callable[[], None] = lambda: None) -> None:
    """Carry what comes from the one to the other as it is, until it ends or nobody takes it.

    ``told`` is called when it has ended, before ``target`` can know.
    """
    try:
        while True:  # bounded: by the source's end
            data = source.recv(CHUNK_BYTES)
            if not data:
                told()
                break
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # the other direction's end tells the rest
        pass


def serve(address: str, port: int, export: str) -> int:
    """Listen there for ``fetch`` in front of the unix socket ``export``, until this program's input ends."""
    try:
        listener = _listener(address, port)
    except OSError as error:
        return _failed(f"can't listen at port {port}: {error.strerror or error}")
    failures: list[str] = []
    threading.Thread(target=_accept, args=(listener, export, failures), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while os.read(0, 4096):  # bounded: by the end of the input
        pass
    return _failed(failures[0]) if failures else 0


def _failed(why: str) -> int:
    sys.stderr.write(f"the relay: {why}\n")
    return 1


def _listener(address: str, port: int) -> socket.socket:
    if not address and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    found = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return socket.create_server(found[0][4][:2], family=found[0][0])


def _accept(listener: socket.socket, export: str, failures: list[str]) -> None:
    free = threading.BoundedSemaphore(CONNECTIONS)

    def connected(link: socket.socket) -> None:
        with link, socket.socket(socket.AF_UNIX) as inner:
            try:
                inner.connect(export)
                _join(link, inner)
            except OSError as error:  # told before the link is closed: then the engine may ask for it
                failures.append(f"no connection to the export: {error}")
        free.release()

    while True:  # bounded: by the end of this program, which does not wait for this thread
        free.acquire()
        link, _ = listener.accept()
        threading.Thread(target=connected, args=(link,), daemon=True).start()


def _join(link: socket.socket, inner: socket.socket) -> None:
    """Carry between the two until they end. Raises ``OSError``."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    asking = threading.Thread(target=carry, args=(link, inner), daemon=True)
    asking.start()
    with suppress(OSError):  # the destination has gone, and can tell why
        pack(inner, link)
    for one in (link, inner):
        _shut(one)
    asking.join()


def _shut(one: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        one.shutdown(socket.SHUT_RDWR)


def fetch(address: str, port: int, command: list[str]) -> int:
    """Run a command whose standard input is a socket that leads to ``serve``; its exit status, or 1.

    Told to end, by SIGPWR, it ends the command first: nothing is left that could still write.
    """
    try:
        link = socket.create_connection((address, port), CONNECT_S)
    except OSError as error:
        return _failed(f"can't reach {address} port {port}: {error}")
    link.settimeout(None)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ours, theirs = socket.socketpair()
    failures: list[str] = []

    ended = threading.Event()  # the command, by itself: what that does to the link is no failure
    asking = threading.Thread(target=carry, args=(ours, link, ended.set), daemon=True)

    def answers() -> None:
        try:
            why = "the connection ended early" if unpack(link, ours) else ""
        except (BadFrame, OSError) as error:
            why = str(error)
        if why and not ended.is_set():
            failures.append(f"{address} port {port}: {why}")
        _shut(ours)  # only now: the command may end by it, and then the failure is told

    begun: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def end(number: int, _frame: object) -> None:
        told.append(number)
        for running in begun:
            running.terminate()

    signal.signal(signal.SIGPWR, end)
    begun.append(subprocess.Popen(command, stdin=theirs.fileno(), close_fds=False))  # with the script's file
    if told:  # while it began
        begun[0].terminate()
    theirs.close()
    asking.start()
    threading.Thread(target=answers, daemon=True).start()
    status = begun[0].wait()
    if status and failures:
        _failed(failures[0])
    return 1 if status else 0


def main(words: list[str]) -> int:
    """``serve ADDRESS PORT SOCKET``, with an empty address for all; ``fetch ADDRESS PORT COMMAND...``."""
    role, address, port = words[0], words[1], int(words[2])
    if role == "serve":
        return serve(address, port, words[3])
    return fetch(address, port, words[3:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
