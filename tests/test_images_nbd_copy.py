"""The copy by NBD: which pieces there are, and between two real hosts whole, sparse and without leftovers."""

from __future__ import annotations

import asyncio
import os
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from fsm.errors import HostError, HostUnreachable
from fsm.hypervisor.shell import Shell
from fsm.images import nbd_copy
from fsm.images.nbd_copy import PIECE_BYTES, NbdRoute, Piece, copy_by_nbd, data_pieces
from fsm.lab import Lab
from tests.lab_rig import lab_in

MIB = 1024 * 1024
DIRECTORY = "/var/lib/libvirt/images/ba ses"
PATH = f"{DIRECTORY}/a 'base' & more, $(echo).img"
SIZE_BYTES = 200 * MIB + 12801
RUNS = ((0, MIB), (31 * MIB, 34 * MIB), (100 * MIB + 4096, MIB), (SIZE_BYTES - 4097, 4097))
DATA_BYTES = sum(length for _, length in RUNS)


@given(st.lists(st.tuples(st.integers(1, 3 * PIECE_BYTES), st.integers(1, 3 * PIECE_BYTES))))
def test_the_ranges_hold_all_data_once_in_order(gaps_and_lengths: list[tuple[int, int]]) -> None:
    extents, at = [], 0
    for gap, length in gaps_and_lengths:
        extents.append((at + gap, length))
        at += gap + length
    pieces = nbd_copy._pieces(extents)
    for one, other in pairwise(pieces):
        assert one.offset + one.length <= other.offset
    assert all(0 < one.data_bytes <= min(one.length, PIECE_BYTES) for one in pieces)
    assert all(one.data_bytes == PIECE_BYTES for one in pieces[:-1])
    assert sum(one.data_bytes for one in pieces) == sum(length for _, length in extents)
    for start, length in extents:
        inside = (max(0, min(start + length, p.offset + p.length) - max(start, p.offset)) for p in pieces)
        assert sum(inside) == length


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


def same(files: tuple[Path, Path]) -> bool:
    return subprocess.run(["cmp", "--", *map(str, files)], check=False).returncode == 0


def commands(lab: Lab) -> list[str]:
    """What QEMU's tools do on the hosts at present."""
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
            if mine and words[0].rpartition(b"/")[2] in (b"qemu-nbd", b"qemu-img", b"cat"):
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
        monkeypatch.setattr(nbd_copy, "PIECE_BYTES", 8 * MIB + 512)
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
        script = nbd_copy._export_script(way, PATH, "name", nbd_copy.PORTS[0])
        engine = await asyncio.create_subprocess_exec(*way.source.prefix, "sh", "-s", stdin=PIPE, stdout=PIPE)
        assert engine.stdin is not None
        assert engine.stdout is not None
        engine.stdin.write(f"{{\n{script}\n}}\n".encode())
        try:
            assert await engine.stdout.readline() == b"ready\n"
            assert commands(lab) != []
        finally:
            engine.stdin.close()  # what the kernel does for one that is killed
            async with asyncio.timeout(20):
                await engine.wait()
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
        hold = nbd_copy._export_script(way, PATH, "other", 50000)
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
        self, lab: Lab, files: tuple[Path, Path], tmp_path: Path
    ) -> None:
        source, destination = lab.hosts
        kept = "/var/lib/libvirt/images/pki, own"
        for host in lab.hosts:
            make_certificates(host.path(kept), source.address, tmp_path)
        way = evolve(route(lab), tls_directory=kept)
        pieces = await data_pieces(way.source, PATH)
        await copy_by_nbd(way, PATH, SIZE_BYTES, pieces, over_zeros=True)
        assert same(files)
        (destination.path(kept) / "client-cert.pem").unlink()
        with pytest.raises(HostError, match=r"TLS|certificate"):
            await copy_by_nbd(way, PATH, SIZE_BYTES, pieces, over_zeros=True)
        assert commands(lab) == []


def make_certificates(directory: Path, server: str, authority: Path) -> None:
    """What QEMU wants in a directory of X.509 files; one authority for all of them."""
    directory.mkdir()
    if not (authority / "ca-key.pem").exists():
        request(authority, "ca", "lab", "basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign")
        sign(authority, authority, "ca", "ca")
    for role, name in (("server", server), ("client", "lab-client")):
        usage = f"extendedKeyUsage={role}Auth"
        request(directory, role, name, "keyUsage=digitalSignature", usage, f"subjectAltName=IP:{server}")
        sign(directory, authority, role, role)
    (directory / "ca-cert.pem").write_bytes((authority / "ca-cert.pem").read_bytes())


def request(directory: Path, role: str, name: str, *extensions: str) -> None:
    (directory / f"{role}.ext").write_text("\n".join(extensions))
    words = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"]
    openssl(*words, "-keyout", directory / f"{role}-key.pem", "-out", directory / f"{role}.csr")


def sign(directory: Path, authority: Path, role: str, extensions: str) -> None:
    words: list[str | Path] = ["x509", "-req", "-days", "1", "-in", directory / f"{role}.csr"]
    if directory == authority:
        words += ["-signkey", directory / "ca-key.pem"]
    else:
        words += ["-CA", authority / "ca-cert.pem", "-CAkey", authority / "ca-key.pem", "-CAcreateserial"]
    openssl(*words, "-extfile", directory / f"{extensions}.ext", "-out", directory / f"{role}-cert.pem")


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
