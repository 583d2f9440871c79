"""The copy by NBD over a slow link: relayed, compressed, and without leftovers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from attrs import evolve

from fsm.errors import HostError, HostUnreachable
from fsm.hypervisor import shell
from fsm.hypervisor.shell import Shell
from fsm.images import nbd_copy
from fsm.images.nbd_copy import Way, copy_by_nbd
from fsm.images.pieces import data_pieces
from fsm.lab import Lab
from fsm.lab.process import wait_until
from tests.lab_rig import slow_link
from tests.nbd_copies import DATA_BYTES, MIB, PATH, SIZE_BYTES, begun, commands, route, same, words

pytest_plugins = ["tests.libvirt_fixtures", "tests.nbd_fixtures"]

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
        # A third of it can't be compressed or went before. The less CPU there is, the less of the rest is.
        assert received_bytes(lab) - before_bytes < 0.95 * data_bytes
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
            if told:
                raise PermissionError("another engine has it")

        with pytest.raises(PermissionError):
            await copy_by_nbd(
                route(lab),
                PATH,
                SIZE_BYTES,
                pieces,
                over_zeros=True,
                progress=lambda data, _holes: told.append(data),
                before_writing=lost,
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
        self, lab: Lab, files: tuple[Path, Path], slow: None, monkeypatch: pytest.MonkeyPatch
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
                progress=lambda data, _holes: moves.set() if data > 10 * MIB else None,
            )
        )
        async with asyncio.timeout(20):
            await moves.wait()
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(20):
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
            assert len(commands(lab)) == 4
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
