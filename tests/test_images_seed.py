"""What differs from a seed, and how a file gets its content."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm.errors import HostError
from fsm.hypervisor.shell import Shell
from fsm.images import scripts
from fsm.images import seed as module
from fsm.images.nbd_copy import NbdRoute
from fsm.images.pieces import PIECE_BYTES, Piece
from fsm.images.scripts import HELD, LOCK_S, holding
from fsm.images.seed import CHUNK_BYTES, differing_pieces, plant
from fsm.lab.process import wait_until

HERE = Shell("qemu:///system")
ROUTE = NbdRoute(HERE, HERE, "127.0.0.1")


@given(st.lists(st.booleans(), min_size=1), st.integers(1, CHUNK_BYTES))
def test_the_ranges_cover_what_differs_and_nothing_else(equal: list[bool], last_bytes: int) -> None:
    size_bytes = (len(equal) - 1) * CHUNK_BYTES + last_bytes
    pieces = module._differing(["x"] * len(equal), ["x" if one else "y" for one in equal], size_bytes)
    covered = {
        chunk
        for one in pieces
        for chunk in range(one.offset // CHUNK_BYTES, -(-(one.offset + one.length) // CHUNK_BYTES))
    }
    assert covered == {index for index, one in enumerate(equal) if not one}
    assert all(one.offset % CHUNK_BYTES == 0 and one.data_bytes == one.length for one in pieces)
    assert all(one.offset + one.length <= size_bytes for one in pieces)


async def test_chunks_are_compared_by_their_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(module, "_DIGEST", "split --bytes=4096 --filter=sha256sum --")
    one, told = tmp_path / "o ne", []
    one.write_bytes(os.urandom(4 * 4096 + 100))
    # Both hosts have one path for it: the other one's shell finds another file behind that.
    other = tmp_path / "other"
    other.mkdir()
    (other / "o ne").write_bytes(one.read_bytes()[:8192] + b"changed" + one.read_bytes()[8199:])
    route = NbdRoute(
        Shell("qemu:///system", ("env", "-C", str(tmp_path))), Shell("x", ("env", "-C", str(other))), ""
    )
    pieces = await differing_pieces(route, "o ne", 4 * 4096 + 100, told.append)
    assert [(piece.offset, piece.length) for piece in pieces] == [(8192, 4096)]
    assert told == [4096 * count for count in range(1, 6)]


async def test_behind_a_command_that_still_holds_the_file_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "LOCK_S", 1)
    seed, path = tmp_path / "seed", tmp_path / "file"
    seed.write_bytes(b"seed")
    path.write_bytes(b"copy")
    async with HERE.running(f"{holding(str(path))}\necho ready; cat >/dev/null") as late:
        assert await late.line(10) == "ready"
        with pytest.raises(HostError, match="another command still holds"):
            await plant(HERE, str(seed), str(path), 4)
        with pytest.raises(HostError, match="another command still holds"):
            await differing_pieces(ROUTE, str(path), 4)
    assert path.read_bytes() == b"copy"


def waited_for(path: Path) -> bool:
    """Whether the kernel knows of somebody who waits for a lock on the file (proc_locks(5))."""
    waiting = [line for line in Path("/proc/locks").read_text().splitlines() if ": -> FLOCK" in line]
    return any(line.split()[6].endswith(f":{path.stat().st_ino}") for line in waiting)


async def test_a_command_that_ends_late_is_waited_for(tmp_path: Path) -> None:
    seed, path = tmp_path / "seed", tmp_path / "file"
    seed.write_bytes(b"seed")
    path.write_bytes(b"copy")
    async with HERE.running(f"{holding(str(path))}\necho ready; cat >/dev/null") as late:
        assert await late.line(10) == "ready"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(plant(HERE, str(seed), str(path), 4))
            await asyncio.to_thread(
                wait_until, lambda: waited_for(path), timeout=LOCK_S, what="a command that waits"
            )
            await late.dismiss()
    assert path.read_bytes() == b"seed"


async def test_what_comes_late_does_not_touch_what_has_the_name_now(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"copy")
    late = f"{holding(str(path))}\nmv '{path}' '{path}.old'; echo guest > '{path}'; truncate --size=1 {HELD}"
    await HERE.ask(late)
    assert path.read_bytes() == b"guest\n"
    assert (tmp_path / "file.old").read_bytes() == b"c"


async def test_a_file_of_another_length_is_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with pytest.raises(HostError, match="has 1 chunks where 2 were expected"):
        await differing_pieces(ROUTE, str(path), CHUNK_BYTES + 1)


@pytest.mark.parametrize("seed_bytes", [10, 5000, 9000])
async def test_the_seed_gets_the_length_of_the_file(tmp_path: Path, seed_bytes: int) -> None:
    seed, path = tmp_path / "se 'ed", tmp_path / "pa th"
    seed.write_bytes(os.urandom(seed_bytes))
    path.touch(mode=0o600)
    inode = path.stat().st_ino
    await plant(HERE, str(seed), str(path), 5000)
    assert path.read_bytes() == (seed.read_bytes() + bytes(5000))[:5000]
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o600)


async def test_no_seed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with pytest.raises(HostError, match="No such file"):
        await plant(HERE, str(tmp_path / "no"), str(path), 1)
    assert path.read_bytes() == b"x"


def test_no_piece_is_larger_than_shows_that_the_copy_moves() -> None:
    chunk, most = CHUNK_BYTES, PIECE_BYTES
    count = most // chunk + 3
    pieces = module._differing(["a"] * count, ["b"] * count, count * chunk - 1)
    assert pieces == [Piece(0, most, most), Piece(most, 3 * chunk - 1, 3 * chunk - 1)]


async def test_told_to_stop_within_the_seed_the_file_has_its_length(tmp_path: Path) -> None:
    """Else nobody could go on with it: what is compared then has to be as long as the original."""
    file, seed = tmp_path / "file", tmp_path / "seed"
    file.touch()
    os.truncate(file, 3 * CHUNK_BYTES)
    os.mkfifo(seed)
    planting = asyncio.create_task(plant(HERE, str(seed), str(file), 3 * CHUNK_BYTES))
    writer = await asyncio.to_thread(os.open, seed, os.O_WRONLY)  # waits for the command that reads it
    try:
        os.write(writer, b"x" * 4096)
        begun = partial(
            wait_until, lambda: file.stat().st_size == 4096, timeout=20, what="a part of the seed"
        )
        await asyncio.to_thread(begun)
        planting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await planting
    finally:
        os.close(writer)
    assert file.stat().st_size == 3 * CHUNK_BYTES
