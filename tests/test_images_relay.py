"""The relay: frames whole, torn and wrong; only what waits is compressed; both ends as programs."""

from __future__ import annotations

import ast
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from subprocess import PIPE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm.images import relay
from fsm.images.relay import BACKLOG_CHUNKS, CHUNK_BYTES, DEFLATED, QUEUE_CHUNKS, RAW, BadFrame, Queue

PROGRAM = [sys.executable, "-IS", "-c", inspect.getsource(relay)]
TEXT = b"".join(b"line %d of a text that repeats itself\n" % number for number in range(5000))


def told_to_the_end(link: socket.socket, target: socket.socket) -> None:
    """To the end, of which whoever reads is told."""
    relay.unpack(link, target)
    target.shutdown(socket.SHUT_WR)


def framed(kind: int, data: bytes) -> bytes:
    body = zlib.compress(data, 1) if kind == DEFLATED else data
    return relay.header(kind, len(body)) + body


def unpacked(stream: bytes) -> list[bytes]:
    return list(relay.unpacked(BytesIO(stream)))


def test_its_text_is_for_older_pythons_too() -> None:
    ast.parse(inspect.getsource(relay), feature_version=(3, 8))


frames = st.lists(st.tuples(st.sampled_from([RAW, DEFLATED]), st.binary(min_size=1, max_size=300)))


@given(frames)
def test_what_was_framed_comes_out_again(chunks: list[tuple[int, bytes]]) -> None:
    assert unpacked(b"".join(framed(*one) for one in chunks)) == [data for _, data in chunks]


@given(frames, st.data())
def test_a_torn_frame_is_not_taken_for_an_end(chunks: list[tuple[int, bytes]], data: st.DataObject) -> None:
    whole = [framed(*one) for one in chunks]
    stream = b"".join(whole)
    cut = data.draw(st.integers(0, len(stream)))
    ends = [sum(map(len, whole[:count])) for count in range(len(whole) + 1)]
    if cut in ends:
        assert unpacked(stream[:cut]) == [chunk for _, chunk in chunks[: ends.index(cut)]]
    else:
        with pytest.raises(BadFrame, match="ended within a frame"):
            unpacked(stream[:cut])


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (relay.header(7, 1) + b"x", "no frame: kind 7"),
        (relay.header(RAW, CHUNK_BYTES + 1), f"no frame: kind 0, {CHUNK_BYTES + 1} bytes"),
        (b"HTTP/1.1 400 Bad Request\r\n", "no frame: kind 72"),
        (relay.header(DEFLATED, 4) + b"abcd", "can't be inflated"),
        (relay.header(DEFLATED, 3) + zlib.compress(b"x" * 100)[:3], "not as long"),
        (framed(DEFLATED, bytes(CHUNK_BYTES + 1)), "not as long"),
        (relay.header(DEFLATED, 20) + zlib.compress(b"").ljust(20), "not as long"),
    ],
    ids=["kind", "length", "another protocol", "garbage", "torn within", "too much", "something behind"],
)
def test_what_is_no_frame_is_refused(stream: bytes, message: str) -> None:
    with pytest.raises(BadFrame, match=message):
        unpacked(stream)


def queued(chunks: list[bytes]) -> list[tuple[int, bytes]]:
    """What comes out when all of them had to wait long enough."""
    queue = Queue()
    assert all(queue.put(chunk) for chunk in chunks)
    queue.end()
    queue.compress_what_waits()
    return list(iter(queue.take, None))


def test_what_waits_is_compressed_and_keeps_its_order() -> None:
    chunks = [TEXT + bytes([number]) * 10 for number in range(QUEUE_CHUNKS)]
    out = queued(chunks)
    assert [kind for kind, _ in out] == [DEFLATED] * len(chunks)
    assert [zlib.decompress(body) for _, body in out] == chunks
    assert unpacked(b"".join(relay.header(kind, len(body)) + body for kind, body in out)) == chunks


def test_what_does_not_wait_goes_as_it_is() -> None:
    assert queued([TEXT] * (BACKLOG_CHUNKS - 1)) == [(RAW, TEXT)] * (BACKLOG_CHUNKS - 1)


def test_what_does_not_shrink_goes_as_it_is_after_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    compress = zlib.compress

    def counting(data: bytes, level: int) -> bytes:
        lengths.append(len(data))
        return compress(data, level)

    monkeypatch.setattr(relay.zlib, "compress", counting)
    noise, short = os.urandom(100_000), b"short"
    chunks = [TEXT, noise, short, TEXT, noise]
    assert [kind for kind, _ in queued(chunks)] == [DEFLATED, RAW, RAW, DEFLATED, RAW]
    assert sorted(lengths) == [relay.SAMPLE_BYTES] * 4 + [len(TEXT)] * 2


def test_no_more_than_the_queue_waits_and_a_reader_that_has_gone_is_noticed() -> None:
    queue = Queue()
    for _ in range(QUEUE_CHUNKS):
        assert queue.put(TEXT)
    more: list[bool] = []
    filling = threading.Thread(target=lambda: more.append(queue.put(TEXT)))
    filling.start()
    assert queue.take() is not None
    filling.join(20)
    assert more == [True]
    filling = threading.Thread(target=lambda: more.append(queue.put(TEXT)))
    filling.start()
    queue.end()
    filling.join(20)
    assert more == [True, False]
    assert len(list(iter(queue.take, None))) == QUEUE_CHUNKS


def drained(one: socket.socket) -> bytes:
    return b"".join(iter(lambda: one.recv(65536), b""))


def test_a_link_that_does_not_move_has_what_waits_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (TEXT + os.urandom(1000)) * 30
    compressed = threading.Semaphore(0)
    compress = zlib.compress

    def telling(data: bytes, level: int) -> bytes:
        packed = compress(data, level)
        if len(data) > relay.SAMPLE_BYTES:
            compressed.release()
        return packed

    monkeypatch.setattr(relay.zlib, "compress", telling)
    (writer, source), (link, far), (target, reader) = (socket.socketpair() for _ in range(3))
    out: list[bytes] = []
    workers = [
        threading.Thread(target=work, args=args, daemon=True)
        for work, args in (
            (writer.sendall, (data,)),
            (relay.pack, (source, link)),
            (lambda: out.append(drained(reader)), ()),
        )
    ]
    for worker in workers:
        worker.start()
    for _ in range(5):  # nobody reads the link yet
        assert compressed.acquire(timeout=20)
    passed = threading.Thread(target=told_to_the_end, args=(far, target), daemon=True)
    passed.start()
    workers[0].join(20)
    writer.close()
    for worker in (*workers, passed):
        worker.join(20)
    assert out == [data]


# Both ends as the programs that they are on hosts


class Export:
    """Stands for ``qemu-nbd``: answers whatever it is asked with one answer, and goes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.asked = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            one, _ = self._listener.accept()
            with one:
                self.asked = one.recv(100)
                one.sendall(self._answer)


@contextmanager
def serving(export: Path, expected: int = 0, words: str = "") -> Iterator[int]:
    """The source's end at a free port; how it ends, and what it says then."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [*PROGRAM, "serve", "127.0.0.1", str(port), str(export)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as serving:
        assert serving.stdout is not None
        try:
            assert serving.stdout.readline() == "ready\n"
            yield port
            _, said = serving.communicate(timeout=20)
            assert (serving.returncode, said) == (expected, words)
        finally:
            serving.kill()


def fetching(port: int, script: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "fetch", "127.0.0.1", str(port), "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_command_asks_and_has_the_whole_answer(tmp_path: Path) -> None:
    answer = os.urandom(1_000_000) + TEXT * 20
    export = Export(tmp_path / "nbd", answer)
    with serving(tmp_path / "nbd") as port:
        for _ in range(3):
            done = fetching(port, f"echo please >&0; cat <&0 >{tmp_path}/copy")
            assert (done.returncode, done.stderr) == (0, "")
            assert (tmp_path / "copy").read_bytes() == answer
            assert export.asked == b"please\n"


def test_a_command_that_fails_tells_why_itself(tmp_path: Path) -> None:
    Export(tmp_path / "nbd", TEXT)
    with serving(tmp_path / "nbd") as port:
        done = fetching(port, "echo please >&0; cat <&0 >/dev/null; echo no room >&2; exec 0<&-; exit 7")
    assert done.returncode == 1
    assert done.stderr.startswith("no room\n")


def test_an_export_that_has_gone_is_told_by_the_source(tmp_path: Path) -> None:
    why = "the relay: no connection to the export: [Errno 2] No such file or directory\n"
    with serving(tmp_path / "nbd", 1, why) as port:
        done = fetching(port, "cat <&0; exit 1")
    assert done.returncode == 1
    assert f"the relay: 127.0.0.1 port {port}: " in done.stderr


def test_a_port_that_is_taken_is_told_as_qemu_nbd_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [*PROGRAM, "serve", "127.0.0.1", str(taken.getsockname()[1]), "/nowhere"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr


def test_nobody_at_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    done = fetching(port, "echo never begun")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"the relay: can't reach 127.0.0.1 port {port}: " in done.stderr


def test_somebody_else_at_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            one, _ = other.accept()
            with one:
                one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        done = fetching(other.getsockname()[1], '[ -n "$(cat <&0)" ]')
    assert done.returncode == 1
    assert "what came is no frame" in done.stderr


def test_told_to_end_it_ends_its_command_first(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        script = "echo $$; exec cat <&0"
        command = [*PROGRAM, "fetch", "127.0.0.1", str(silent.getsockname()[1]), "sh", "-c", script]
        with subprocess.Popen(command, stdout=PIPE, text=True) as fetching:
            assert fetching.stdout is not None
            pid = int(fetching.stdout.readline())
            fetching.send_signal(signal.SIGPWR)
            assert fetching.wait(20) == 1
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def test_a_command_that_ended_by_itself_is_not_told_to_have_lost_its_connection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However late the thread is that would notice that nothing more is asked for."""
    ended = threading.Event()
    carry = relay.carry

    def late(source: socket.socket, target: socket.socket, *rest: Callable[[], None]) -> None:
        assert ended.wait(20)
        carry(source, target, *rest)

    monkeypatch.setattr(relay, "carry", late)
    with socket.create_server(("127.0.0.1", 0)) as export:

        def answer() -> None:
            one, _ = export.accept()
            with one, suppress(OSError):
                for _ in range(1000):
                    one.sendall(framed(RAW, TEXT[:100_000]))

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        wait = subprocess.Popen.wait

        def waited(command: subprocess.Popen[bytes], timeout: float | None = None) -> int:
            status = wait(command, timeout)
            # Everything there is to notice has been noticed, but for what the late one would.
            quiet.wait(20)
            return status

        quiet = threading.Event()
        shut = relay._shut

        def shutting(one: socket.socket) -> None:
            shut(one)
            quiet.set()

        monkeypatch.setattr(relay, "_shut", shutting)
        monkeypatch.setattr(subprocess.Popen, "wait", waited)
        before = signal.getsignal(signal.SIGPWR)
        try:
            status = relay.fetch("127.0.0.1", export.getsockname()[1], ["sh", "-c", "head -c 1 <&0; exit 7"])
        finally:
            signal.signal(signal.SIGPWR, before)
            ended.set()
    assert status == 1
    assert capsys.readouterr().err == ""
