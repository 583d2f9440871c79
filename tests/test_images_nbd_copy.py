"""The copy by NBD, between two real hosts: whole, sparse, over slow links, and without leftovers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from attrs import evolve

from fsm.errors import HostError, HostUnreachable
from fsm.hypervisor.shell import Shell
from fsm.images import nbd_copy, pace
from fsm.images import pieces as pieces_of
from fsm.images.nbd_copy import NbdRoute, Way, copy_by_nbd
from fsm.images.pieces import Piece, data_pieces
from fsm.lab import Lab
from fsm.lab.process import wait_until
from tests.certificates import make_certificates
from tests.lab_rig import lab_in, slow_link

MIB = 1024 * 1024
DIRECTORY = "/var/lib/libvirt/images/ba ses"
PATH = f"{DIRECTORY}/a 'base' & more, $(echo).img"
SIZE_BYTES = 200 * MIB + 12801
RUNS = ((0, MIB), (31 * MIB, 34 * MIB), (100 * MIB + 4096, MIB), (SIZE_BYTES - 4097, 4097))
DATA_BYTES = sum(length for _, length in RUNS)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_in(tmp_path_factory.mktemp("labs")) as made:
        yield made


@pytest.fixture
def files(lab: Lab) -> Iterator[tuple[Path, Path]]:
    """The original, sparse, and a hole where its copy goes."""
    original, copied = (host.path(PATH) for host in lab.hosts)
    for path in (original, copied):
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(SIZE_BYTES)
    with original.open("r+b") as file:
        for offset, length in RUNS:
            file.seek(offset)
            file.write(os.urandom(length))
    yield original, copied
    for path in (original, copied):
        path.unlink(missing_ok=True)


def route(lab: Lab) -> NbdRoute:
    source, destination = lab.hosts
    return NbdRoute(
        Shell(source.uri, source.enter), Shell(destination.uri, destination.enter), source.address
    )


def words(way: NbdRoute, how: Way = Way.DIRECT) -> nbd_copy._Copying:
    """What the scripts of a copy are made from."""
    return nbd_copy._Copying(
        way, PATH, PATH, SIZE_BYTES, "name", over_zeros=True, bandwidth_mib_per_s=0, way=how
    )


@asynccontextmanager
async def begun(shell: Shell, script: str, sign: bytes) -> AsyncIterator[None]:
    """A script that has said so much, of an engine that is killed in the end."""
    engine = await asyncio.create_subprocess_exec(*shell.prefix, "sh", "-s", stdin=PIPE, stdout=PIPE)
    assert engine.stdin is not None
    assert engine.stdout is not None
    engine.stdin.write(f"{{\n{script}\n}}\n".encode())
    try:
        async with asyncio.timeout(20):
            await engine.stdout.readuntil(sign)
        yield
    finally:
        engine.stdin.close()  # what the kernel does for one that is killed
        async with asyncio.timeout(20):
            await engine.wait()


def same(files: tuple[Path, Path]) -> bool:
    return subprocess.run(["cmp", "--", *map(str, files)], check=False).returncode == 0


def commands(lab: Lab) -> list[str]:
    """What QEMU's tools, and ours, do on the hosts at present."""
    found = []
    for host in lab.hosts:
        space = os.readlink(f"/proc/{host.holder.pid}/ns/net")
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                mine = os.readlink(entry / "ns/net") == space
            except OSError:
                continue
            tools = (b"qemu-nbd", b"qemu-img", b"cat")
            if mine and (words[0].rpartition(b"/")[2] in tools or words[1:2] == [b"-IS"]):
                found.append(entry.name)
    return found


@pytest.mark.lab
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces")
class TestOnTwoHosts:
    @pytest.mark.parametrize("everywhere", [False, True])
    async def test_every_byte_arrives_and_holes_stay_holes(
        self, lab: Lab, files: tuple[Path, Path], *, everywhere: bool
    ) -> None:
        way = evolve(route(lab), everywhere=everywhere)
        pieces = await data_pieces(way.source, PATH)
        data_bytes = sum(one.data_bytes for one in pieces)
        assert DATA_BYTES <= data_bytes <= DATA_BYTES + 8192  # whole blocks
        told: list[int] = []
        await copy_by_nbd(
            way, PATH, SIZE_BYTES, pieces, over_zeros=True, progress=lambda data, _holes: told.append(data)
        )
        assert same(files)
        assert files[1].stat().st_blocks <= files[0].stat().st_blocks + 16  # whole blocks
        assert told == sorted(told)
        assert told[-1] == data_bytes
        assert commands(lab) == []

    async def test_in_many_pieces(
        self, lab: Lab, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pieces_of, "PIECE_BYTES", 8 * MIB + 512)
        pieces = await data_pieces(route(lab).source, PATH)
        assert len(pieces) == 5
        await copy_by_nbd(route(lab), PATH, SIZE_BYTES, pieces, over_zeros=True)
        assert same(files)

    async def test_what_stands_there_already_is_overwritten_with_zeros_too(
        self, lab: Lab, files: tuple[Path, Path]
    ) -> None:
        with files[1].open("r+b") as file:
            file.write(b"x" * SIZE_BYTES)
        await copy_by_nbd(route(lab), PATH, SIZE_BYTES, [Piece(0, SIZE_BYTES, DATA_BYTES)], over_zeros=False)
        assert same(files)

    async def test_a_limit_holds(self, lab: Lab, files: tuple[Path, Path]) -> None:
        pieces = await data_pieces(route(lab).source, PATH)
        began = asyncio.get_running_loop().time()
        await copy_by_nbd(route(lab), PATH, SIZE_BYTES, pieces, over_zeros=True, bandwidth_mib_per_s=20)
        # 36 MiB take 1.8 s; a burst of a tenth of a second is let pass, and one buffer.
        assert asyncio.get_running_loop().time() - began > 1.2
        assert same(files)

    async def test_cancelled_it_leaves_nothing_that_runs(self, lab: Lab, files: tuple[Path, Path]) -> None:
        moves = asyncio.Event()
        pieces = await data_pieces(route(lab).source, PATH)
        copying = asyncio.create_task(
            copy_by_nbd(
                route(lab),
                PATH,
                SIZE_BYTES,
                pieces,
                over_zeros=True,
                bandwidth_mib_per_s=5,
                progress=lambda _data, _holes: moves.set(),
            )
        )
        async with asyncio.timeout(20):
            await moves.wait()
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        assert commands(lab) == []

    async def test_a_killed_engine_leaves_nothing_that_runs(self, lab: Lab, files: tuple[Path, Path]) -> None:
        way = route(lab)
        async with begun(way.source, nbd_copy._export_script(words(way), nbd_copy.PORTS[0]), b"ready\n"):
            assert commands(lab) != []
        assert commands(lab) == []

    async def test_a_link_that_is_cut(
        self, lab: Lab, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nbd_copy, "SILENCE_S", 2.0)
        pieces = await data_pieces(route(lab).source, PATH)

        def cut(_data: int, _holes: int) -> None:
            lab.cut()

        try:
            with pytest.raises(HostUnreachable, match="nothing was heard"):
                await copy_by_nbd(
                    route(lab), PATH, SIZE_BYTES, pieces, over_zeros=True, bandwidth_mib_per_s=5, progress=cut
                )
        finally:
            lab.mend()
        assert commands(lab) == []

    async def test_no_such_file(self, lab: Lab, files: tuple[Path, Path]) -> None:
        with pytest.raises(HostError, match="No such file"):
            await data_pieces(route(lab).source, f"{PATH}.no")
        files[1].unlink()
        with pytest.raises(HostError, match="No such file"):
            await copy_by_nbd(route(lab), PATH, SIZE_BYTES, [Piece(0, MIB, MIB)], over_zeros=True)
        assert not files[1].exists()
        assert commands(lab) == []

    async def test_taken_ports_are_passed_over(
        self, lab: Lab, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        way = route(lab)
        monkeypatch.setattr(nbd_copy, "PORTS", range(50000, 50000 + nbd_copy._ATTEMPTS))
        hold = nbd_copy._export_script(words(way), 50000)
        pieces = await data_pieces(way.source, PATH)
        async with way.source.running(hold) as held:
            assert await held.line(20) == "ready"
            await copy_by_nbd(way, PATH, SIZE_BYTES, pieces, over_zeros=True)
            monkeypatch.setattr(nbd_copy, "PORTS", [50000] * nbd_copy._ATTEMPTS)
            with pytest.raises(HostError, match="no free port among 50000"):
                await copy_by_nbd(way, PATH, SIZE_BYTES, pieces, over_zeros=True)
        assert same(files)
        assert commands(lab) == []

    async def test_encrypted_and_only_for_those_who_prove_themselves(
        self, lab: Lab, files: tuple[Path, Path], slow: None, tmp_path: Path
    ) -> None:
        source, destination = lab.hosts
        kept = "/var/lib/libvirt/images/pki, own"
        for host in lab.hosts:
            make_certificates(host.path(kept), source.address, tmp_path)
        way = evolve(route(lab), tls_directory=kept)
        pieces = await data_pieces(way.source, PATH)
        # What is encrypted can't be compressed: nobody asks how fast the link is.
        assert await copy_by_nbd(way, PATH, SIZE_BYTES, pieces, over_zeros=True) == ""
        assert same(files)
        (destination.path(kept) / "client-cert.pem").unlink()
        with pytest.raises(HostError, match=r"TLS|certificate"):
            await copy_by_nbd(way, PATH, SIZE_BYTES, pieces, over_zeros=True)
        assert commands(lab) == []


TEXT = b"".join(b"line %d of a text that repeats itself\n" % number for number in range(100_000))[:MIB]


@pytest.fixture
def texts(files: tuple[Path, Path]) -> tuple[Path, Path]:
    """The original holds what can be compressed, and between it what can't."""
    with files[0].open("r+b") as file:
        for offset in range(0, 64 * MIB, MIB):
            file.seek(offset)
            file.write(TEXT if offset % (8 * MIB) else os.urandom(MIB))
    return files


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the link does counts as slow, after a few bytes."""
    monkeypatch.setattr(pace, "LOOK_S", 0.0)
    monkeypatch.setattr(pace, "FAST_MIB_PER_S", 1 << 40)
    monkeypatch.setattr(pace, "NEAR_LIMIT", 1 << 40)


@pytest.fixture
def limited(lab: Lab) -> Iterator[None]:
    with slow_link(lab.hosts[0], "100mbit"):
        yield


def received_bytes(lab: Lab) -> int:
    told = lab.hosts[1].run(["ip", "-json", "-statistics", "link", "show", "dev", "eth0"])
    received: int = json.loads(told)[0]["stats64"]["rx"]["bytes"]
    return received


@pytest.mark.lab
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces")
class TestOverASlowLink:
    async def test_fewer_bytes_cross_it_than_arrive(
        self, lab: Lab, texts: tuple[Path, Path], limited: None
    ) -> None:
        pieces = await data_pieces(route(lab).source, PATH)
        data_bytes = sum(one.data_bytes for one in pieces)
        before_bytes = received_bytes(lab)
        moved: list[int] = []
        told = await copy_by_nbd(
            route(lab),
            PATH,
            SIZE_BYTES,
            pieces,
            over_zeros=True,
            progress=lambda data, _holes: moved.append(data),
        )
        assert told == "the link is slow: what waits is compressed"
        assert same(texts)
        # A quarter of it can't be compressed or went before; most of the rest waited.
        assert received_bytes(lab) - before_bytes < 0.8 * data_bytes
        assert moved == sorted(moved)
        assert moved[-1] == data_bytes
        assert commands(lab) == []

    @pytest.mark.parametrize("everywhere", [False, True])
    async def test_relayed_every_byte_arrives(
        self, lab: Lab, files: tuple[Path, Path], slow: None, *, everywhere: bool
    ) -> None:
        way = evolve(route(lab), everywhere=everywhere)
        pieces = await data_pieces(way.source, PATH)
        assert await copy_by_nbd(way, PATH, SIZE_BYTES, pieces, over_zeros=True) != ""
        assert same(files)
        assert commands(lab) == []

    async def test_an_engine_that_has_lost_its_lease_meanwhile_opens_nothing_more(
        self, lab: Lab, files: tuple[Path, Path], slow: None
    ) -> None:
        pieces = await data_pieces(route(lab).source, PATH)
        told: list[int] = []

        async def lost() -> None:
            raise PermissionError("another engine has it")

        with pytest.raises(PermissionError):
            await copy_by_nbd(
                route(lab),
                PATH,
                SIZE_BYTES,
                pieces,
                over_zeros=True,
                progress=lambda data, _holes: told.append(data),
                before_more=lost,
            )
        assert 0 < told[-1] < DATA_BYTES
        assert commands(lab) == []

    @pytest.mark.parametrize("side", ["source", "destination"])
    async def test_without_python_it_goes_on_as_it_began(
        self, lab: Lab, files: tuple[Path, Path], slow: None, tmp_path: Path, side: str
    ) -> None:
        old = tmp_path / "python3"
        old.write_text("#!/bin/sh\nexit 1\n")
        old.chmod(0o755)
        way = route(lab)
        shell: Shell = getattr(way, side)
        lacking = evolve(shell, prefix=(*shell.prefix, "env", f"PATH={tmp_path}:{os.defpath}:/usr/bin"))
        way = evolve(way, **{side: lacking})
        pieces = await data_pieces(way.source, PATH)
        told = await copy_by_nbd(way, PATH, SIZE_BYTES, pieces, over_zeros=True)
        assert told == f"the link is slow, but {shell.uri} has no Python 3.8, which would compress"
        assert same(files)

    async def test_cancelled_it_leaves_nothing_that_runs(
        self, lab: Lab, files: tuple[Path, Path], slow: None
    ) -> None:
        moves = asyncio.Event()
        pieces = await data_pieces(route(lab).source, PATH)
        copying = asyncio.create_task(
            copy_by_nbd(
                route(lab),
                PATH,
                SIZE_BYTES,
                pieces,
                over_zeros=True,
                bandwidth_mib_per_s=5,
                progress=lambda data, _holes: moves.set() if data > 10 * MIB else None,
            )
        )
        async with asyncio.timeout(20):
            await moves.wait()
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        assert commands(lab) == []
        assert files[1].stat().st_size == SIZE_BYTES

    async def test_a_killed_engine_leaves_nothing_that_runs(self, lab: Lab, files: tuple[Path, Path]) -> None:
        way, port = route(lab), nbd_copy.PORTS[0]
        copying = evolve(words(way, Way.RELAYED), bandwidth_mib_per_s=5)
        pieces = await data_pieces(way.source, PATH)
        async with (
            begun(way.source, nbd_copy._export_script(copying, port), b"ready\n"),
            begun(way.destination, copying.script(pieces, port), b"(0.00/100%)"),
        ):
            assert len(commands(lab)) >= 5
        assert commands(lab) == []
        assert files[1].stat().st_size == SIZE_BYTES

    async def test_a_link_that_is_cut(
        self, lab: Lab, files: tuple[Path, Path], slow: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nbd_copy, "SILENCE_S", 2.0)
        pieces = await data_pieces(route(lab).source, PATH)

        def cut(data: int, _holes: int) -> None:
            if data > 10 * MIB:
                lab.cut()

        try:
            with pytest.raises(HostUnreachable, match="nothing was heard"):
                await copy_by_nbd(
                    route(lab), PATH, SIZE_BYTES, pieces, over_zeros=True, bandwidth_mib_per_s=5, progress=cut
                )
        finally:
            lab.mend()
        assert commands(lab) == []

    @pytest.mark.parametrize(
        ("end", "index", "words"),
        [(b"serve", 0, "the relay at the source ended"), (b"fetch", 1, "python3 was killed")],
    )
    async def test_a_relay_that_dies_ends_the_copy(
        self, lab: Lab, files: tuple[Path, Path], slow: None, end: bytes, index: int, words: str
    ) -> None:
        pieces = await data_pieces(route(lab).source, PATH)
        killed: list[int] = []

        def kill(data: int, _holes: int) -> None:
            if data > 10 * MIB and not killed:
                killed.append(relay_at(lab, end))
                os.kill(killed[0], signal.SIGKILL)

        with pytest.raises(HostError, match=words) as caught:
            await copy_by_nbd(
                route(lab), PATH, SIZE_BYTES, pieces, over_zeros=True, bandwidth_mib_per_s=5, progress=kill
            )
        assert killed
        assert caught.value.host == lab.hosts[index].uri
        # What a killed relay leaves has nobody who waits for it, and ends by itself: when the loop has closed
        # its input, which it has to be let do.
        ended = partial(wait_until, lambda: commands(lab) == [], timeout=20, what="the end of the commands")
        await asyncio.to_thread(ended)


def relay_at(lab: Lab, role: bytes) -> int:
    """The process that is this end of a relay."""
    for pid in commands(lab):
        if role in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"no relay: {role!r}")
