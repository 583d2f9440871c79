"""Going on with an interrupted copy: what is right is kept, what is not is copied again, however it came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm.errors import HostError
from fsm.images import resumption
from fsm.images.base_copy import CopyResult, copy_file
from fsm.images.blocks import Block
from fsm.images.resumption import Continued, Copied, Stretch, covered_bytes, go_on, stretches_of
from fsm.images.transfer import CHUNK_BYTES, Progress, Range, Throttle, whole_file
from tests.test_images_memory import DESTINATION, PAGE, PATH, SOURCE, MemoryConnector, MemoryFile, pair

pytestmark = pytest.mark.usefixtures("no_thread_stays")

PAGES = CHUNK_BYTES // PAGE
BLOCKS = 6
SIZE_BYTES = (BLOCKS - 1) * CHUNK_BYTES + 12345


def original(*, seed: int = 1) -> MemoryFile:
    """Some data in every block but the fourth, which is a hole; in the fifth there are zeros as data."""
    made = MemoryFile.random(SIZE_BYTES, 0.02, seed)
    for number in range(3 * PAGES, 5 * PAGES):
        made.pages.pop(number, None)
    made.pages[4 * PAGES + 7] = bytes(PAGE)
    made.pages[5 * PAGES] = b"end" * 4115 + bytes(PAGE - 12345)
    return made


@define
class Copying:
    """A copy that may be interrupted, and what is remembered of it."""

    connector: MemoryConnector = field(factory=lambda: pair(original()))
    known: list[Stretch] = field(factory=list)
    connections: int = 2

    async def remember(self, blocks: Sequence[Block]) -> None:
        self.known += stretches_of(blocks)

    def copy(self, ranges: Sequence[Range], progress: Progress | None = None) -> object:
        return copy_file(
            self.connector,
            SOURCE,
            DESTINATION,
            PATH,
            ranges,
            connections=self.connections,
            progress=progress,
            on_blocks=self.remember,
        )

    @contextmanager
    def dying(self, nth: int | None, call: str = "write") -> Iterator[None]:
        """The host of the copy fails at that call of the kind, if so many are made."""
        lock, made = threading.Lock(), [0]

        def count(name: str, offset: int) -> None:
            with lock:
                made[0] += name == call
                if name == call and made[0] == nth:
                    raise HostError("gone", host=DESTINATION)

        self.connector.two.on_packet = count
        try:
            yield
            assert nth is None or nth > made[0]
        except HostError:
            assert nth is not None
            assert self.connector.two.open_channels == 0
        self.connector.two.on_packet = lambda *_: None

    async def begin(self, *, dies_at: int | None = None, call: str = "write") -> None:
        """Copy from the beginning; the host of the copy fails at that call."""
        with self.dying(dies_at, call):
            await self.copy(whole_file(SIZE_BYTES))

    async def go_on(self) -> Continued:
        self.connector.one.read_bytes = 0
        copied = Copied(self.connector, DESTINATION, PATH, SIZE_BYTES, self.connections)
        continued = await go_on(copied, list(self.known), self.copy, lambda *_: None)
        original, copied_file = self.connector.one.files[PATH], self.connector.two.files[PATH]
        assert all(same(original, copied_file, block) for block in range(BLOCKS))
        assert copied_file.size == SIZE_BYTES
        assert self.connector.one.read_bytes == continued.data_bytes
        assert self.connector.one.open_channels == self.connector.two.open_channels == 0
        return continued

    def remembered(self) -> set[int]:
        return {place.offset // CHUNK_BYTES for stretch in self.known for place, _ in stretch.blocks}

    def data_bytes(self, blocks: Collection[int]) -> int:
        """What the original has in these blocks."""
        held = self.connector.one.files[PATH].pages
        sizes = (min(PAGE, SIZE_BYTES - number * PAGE) for number in held if number // PAGES in blocks)
        return sum(sizes)


async def test_a_whole_copy_is_remembered_by_blocks() -> None:
    copying = Copying()
    await copying.begin()
    assert copying.remembered() == set(range(BLOCKS))
    assert covered_bytes(copying.known) == SIZE_BYTES
    digests = {place.offset // CHUNK_BYTES: digest for s in copying.known for place, digest in s.blocks}
    assert [digests[number] for number in (3, 4)] == ["", ""], "zeros are zeros, told as data or as a hole"
    assert len({digests[number] for number in (0, 1, 2, 5)} - {""}) == 4
    continued = await copying.go_on()
    assert continued == Continued(0, copying.data_bytes(range(BLOCKS)))


@pytest.mark.parametrize("nth", range(1, BLOCKS + 1))
async def test_one_that_dies_at_a_blocks_end_keeps_those_before(nth: int) -> None:
    copying = Copying(connections=1)
    await copying.begin(dies_at=nth, call="close")
    # The fourth block is a hole: nothing is written, so nothing is closed.
    kept = set(range(BLOCKS)[: nth - 1 if nth <= 3 else nth])
    assert copying.remembered() == kept
    continued = await copying.go_on()
    assert continued == Continued(copying.data_bytes(set(range(BLOCKS)) - kept), copying.data_bytes(kept))


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("nth", [1, 3, 12, 25])
async def test_one_that_dies_within_a_block_copies_that_block_again(nth: int, connections: int) -> None:
    copying = Copying(connections=connections)
    await copying.begin(dies_at=nth)
    kept = copying.remembered()
    assert len(kept) < BLOCKS
    continued = await copying.go_on()
    assert continued.kept_bytes == copying.data_bytes(kept)
    written = copying.connector.two.files[PATH].pages
    assert written.keys() <= copying.connector.one.files[PATH].pages.keys(), "it does not stay sparse"


@pytest.mark.parametrize("block", [0, 2, 3])
@pytest.mark.parametrize("harm", ["a byte", "data in a hole", "lost"])
async def test_only_the_block_that_was_altered_is_copied_again(block: int, harm: str) -> None:
    copying = Copying()
    await copying.begin()
    file = copying.connector.two.files[PATH]
    first = block * PAGES
    held = [number for number in file.pages if number // PAGES == block]
    if harm == "a byte" and held:
        file.write(held[0] * PAGE + 5, bytes([file.byte(held[0] * PAGE + 5) ^ 1]))
    elif harm == "lost":
        for number in held:
            del file.pages[number]
    else:
        hole = next(n for n in range(first, first + PAGES) if n not in file.pages)
        file.write(hole * PAGE + 100, b"somebody's")
    continued = await copying.go_on()
    untouched = harm == "lost" and not held
    again = set() if untouched else {block}
    assert continued.data_bytes == copying.data_bytes(again)
    assert continued.kept_bytes == copying.data_bytes(set(range(BLOCKS)) - again)


async def test_a_file_made_anew_is_copied_whole_and_stays_sparse() -> None:
    copying = Copying()
    await copying.begin()
    copying.connector.two.files[PATH] = MemoryFile(SIZE_BYTES)
    assert (await copying.go_on()).kept_bytes == 0
    written = copying.connector.two.files[PATH].pages
    assert written.keys() <= copying.connector.one.files[PATH].pages.keys()


async def test_nothing_of_another_file_shows_through() -> None:
    """Somebody has put another file there: it holds data where the original has holes."""
    copying = Copying()
    await copying.begin(dies_at=12)
    copying.connector.two.files[PATH] = MemoryFile.random(SIZE_BYTES, 0.1, seed=2)
    assert (await copying.go_on()).kept_bytes == 0


async def test_however_scattered_another_files_data_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "MOST_FILLED", 3)
    await test_nothing_of_another_file_shows_through()


async def test_an_original_of_another_content_is_not_asked_about_what_is_kept() -> None:
    """The caller has made sure that it did not change: a read of it would say nothing new."""
    copying = Copying()
    await copying.begin()
    copying.connector.one.files[PATH] = MemoryFile(SIZE_BYTES)
    copied = Copied(copying.connector, DESTINATION, PATH, SIZE_BYTES)
    copying.connector.one.opened = 0
    await go_on(copied, copying.known, copying.copy, lambda *_: None)
    assert copying.connector.one.opened == 0


async def test_progress_ends_at_the_whole() -> None:
    copying = Copying()
    await copying.begin(dies_at=12)
    told: list[tuple[int, int]] = []
    copied = Copied(copying.connector, DESTINATION, PATH, SIZE_BYTES)
    continued = await go_on(copied, copying.known, copying.copy, lambda *done: told.append(done))
    assert told[-1] == (continued.data_bytes + continued.kept_bytes, SIZE_BYTES - sum(told[-1][:1]))


@pytest.mark.parametrize("side", ["one", "two"])
async def test_an_error_of_either_half_ends_both(side: str) -> None:
    copying = Copying(connections=1)
    await copying.begin(dies_at=12)
    assert copying.remembered()
    host = getattr(copying.connector, side)
    error = host.error("broken")

    def fail(call: str, offset: int) -> None:
        if call == "read" and (side == "one" or offset // CHUNK_BYTES in copying.remembered()):
            raise error

    host.on_packet = fail
    with pytest.raises(HostError) as raised:
        await copying.go_on()
    assert raised.value is error
    assert copying.connector.one.open_channels == copying.connector.two.open_channels == 0


async def test_a_cancel_ends_both_halves() -> None:
    copying = Copying()
    await copying.begin(dies_at=12)
    copied = Copied(copying.connector, DESTINATION, PATH, SIZE_BYTES, throttle=Throttle(0.001))
    copy = partial(copying.copy)
    task = asyncio.ensure_future(go_on(copied, copying.known, copy, lambda *_: None))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert copying.connector.one.open_channels == copying.connector.two.open_channels == 0


TORN = [
    Stretch(0, CHUNK_BYTES, "ab" * 15),
    Stretch(0, 2 * CHUNK_BYTES, "ab" * 16),
    Stretch(1, CHUNK_BYTES, "ab" * 16),
    Stretch(0, CHUNK_BYTES - 1, "ab" * 16),
    Stretch(0, CHUNK_BYTES - 1),
    Stretch(1, CHUNK_BYTES),
    Stretch((BLOCKS - 1) * CHUNK_BYTES, CHUNK_BYTES),
    Stretch(BLOCKS * CHUNK_BYTES, CHUNK_BYTES),
]


@pytest.mark.parametrize("torn", TORN, ids=str)
async def test_a_record_that_does_not_fit_the_file_keeps_nothing(torn: Stretch) -> None:
    copying = Copying()
    await copying.begin()
    copying.known = [torn]
    assert (await copying.go_on()).kept_bytes == 0


async def test_the_later_of_two_entries_counts() -> None:
    copying = Copying()
    await copying.begin()
    right = list(copying.known)
    wrong = [evolve(one, digests="0" * len(one.digests)) for one in right]
    copying.known = [*wrong, *right]
    assert (await copying.go_on()).data_bytes == 0
    copying.known = [*right, *wrong]
    assert (await copying.go_on()).kept_bytes == copying.data_bytes({3, 4}), "of zeros there is no digest"


blocks_of_files = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["", "ab" * 16, "cd" * 16])), unique_by=lambda pair: pair[0]
)


@given(blocks_of_files)
def test_stretches_hold_just_their_blocks(pairs: list[tuple[int, str]]) -> None:
    blocks = [Block(number * CHUNK_BYTES, CHUNK_BYTES, digest) for number, digest in pairs]
    stretches = stretches_of(blocks)
    held = [(place.offset, place.length, digest) for s in stretches for place, digest in s.blocks]
    assert sorted(held) == sorted((one.offset, one.length, one.digest) for one in blocks)
    assert covered_bytes(stretches) == covered_bytes([*stretches, *stretches]) == len(blocks) * CHUNK_BYTES
    runs = {number for number, _ in pairs} - {number + 1 for number, _ in pairs}
    assert len(stretches) <= len(runs) + sum(not digest for _, digest in pairs) * 2


harms = st.lists(
    st.tuples(st.integers(0, SIZE_BYTES // PAGE - 1), st.sampled_from(["lose", "flip", "zero"])), max_size=4
)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 3),
    deaths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    forgotten=st.sets(st.integers(0, BLOCKS - 1)),
    harms=harms,
    connections=st.integers(1, 3),
)
def test_whatever_happened_in_between_the_copy_is_whole(
    seed: int, deaths: list[int], forgotten: set[int], harms: list[tuple[int, str]], connections: int
) -> None:
    """It is interrupted again and again; records are lost, and parts of what was written."""

    async def live() -> None:
        copying = Copying(pair(original(seed=seed)), connections=connections)
        await copying.begin(dies_at=deaths[0])
        file, source = copying.connector.two.files[PATH], copying.connector.one.files[PATH]
        copying.known = [
            Stretch(place.offset, place.length, digest)
            for stretch in copying.known
            for place, digest in stretch.blocks
            if place.offset // CHUNK_BYTES not in forgotten
        ]
        for number, harm in harms:
            if harm == "lose":
                file.pages.pop(number, None)
            else:
                file.write(number * PAGE, bytes(100) if harm == "zero" else b"\xff" * 100)
        for nth in deaths[1:]:
            with copying.dying(nth):
                await copying.go_on()
        known = copying.remembered()
        right = {number for number in known if same(file, source, number)}
        continued = await copying.go_on()
        assert continued.kept_bytes >= copying.data_bytes(right)
        assert continued.data_bytes == copying.data_bytes(set(range(BLOCKS)) - right)

    asyncio.run(live())


def same(one: MemoryFile, other: MemoryFile, block: int) -> bool:
    """Whether a block reads the same in both files."""
    empty = bytes(PAGE)
    return all(
        one.pages.get(number, empty) == other.pages.get(number, empty)
        for number in range(block * PAGES, (block + 1) * PAGES)
    )


async def test_a_result_of_no_ranges_is_empty() -> None:
    assert await Copying().copy([]) == CopyResult(0, 0, 0)
