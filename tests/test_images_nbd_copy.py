"""The copy by NBD, between two real hosts: whole, sparse, and without leftovers."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from attrs import evolve

from fsm.errors import HostError, HostUnreachable
from fsm.hypervisor import shell
from fsm.images import nbd_copy
from fsm.images import pieces as pieces_of
from fsm.images.nbd_copy import copy_by_nbd
from fsm.images.pieces import Piece, data_pieces
from fsm.lab import Lab
from tests.certificates import make_certificates
from tests.nbd_copies import DATA_BYTES, MIB, PATH, SIZE_BYTES, begun, commands, route, same, words

pytest_plugins = ["tests.libvirt_fixtures", "tests.nbd_fixtures"]


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

    async def test_cancelled_it_leaves_nothing_that_runs(
        self, lab: Lab, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shell, "GRACE_S", 60.0)  # nothing is ended by force
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
            async with asyncio.timeout(20):
                await copying
        assert commands(lab) == []

    async def test_a_killed_engine_leaves_nothing_that_runs(self, lab: Lab, files: tuple[Path, Path]) -> None:
        way = route(lab)
        async with begun(way.source, nbd_copy._export_script(words(way), nbd_copy.PORTS[0]), b"ready\n"):
            assert commands(lab) != []
        assert commands(lab) == []

    async def test_an_export_that_does_not_end_is_killed_before_the_script_ends(
        self, lab: Lab, files: tuple[Path, Path]
    ) -> None:
        way = route(lab)
        async with begun(way.source, nbd_copy._export_script(words(way), nbd_copy.PORTS[0]), b"ready\n"):
            for pid in commands(lab, "qemu-nbd"):
                os.kill(int(pid), signal.SIGSTOP)
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
