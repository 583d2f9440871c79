"""What copies have in common: a bandwidth that is kept, and chunks that cover a file once."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm.errors import BadInput
from fsm.images.transfer import CHUNK_BYTES, Chunks, Range, Throttle
from tests.test_images_memory import MIB


def test_a_throttle_lets_pass_no_more_than_its_rate() -> None:
    now = [100.0]

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            now[0] += timeout or 0.0
            return False

    throttle = Throttle(10, clock_s=lambda: now[0])
    for _ in range(160):
        throttle.take(MIB // 4, Clock())
    assert now[0] == pytest.approx(104.0)
    now[0] += 60.0  # what was not used is lost, but for a moment's worth
    throttle.take(MIB, Clock())
    throttle.take(MIB, Clock())
    assert now[0] == pytest.approx(164.1)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_limit_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(BadInput):
        Throttle(rate)


@st.composite
def ranges_of_a_file(draw: st.DrawFn) -> list[Range]:
    """Some ranges that do not touch, the last one perhaps up to an odd end."""
    ends = sorted(draw(st.sets(st.integers(0, 300), max_size=12)))
    pairs = list(zip(ends[::2], ends[1::2], strict=False))
    ranges = [Range(begin * CHUNK_BYTES, (end - begin) * CHUNK_BYTES) for begin, end in pairs]
    odd = draw(st.integers(0, CHUNK_BYTES))
    return [*ranges, Range(400 * CHUNK_BYTES, odd)] if odd else ranges


@given(ranges_of_a_file(), st.integers(1, 16), st.integers(1, 64).map(lambda n: n * CHUNK_BYTES))
def test_chunks_cover_their_ranges_once_in_order(
    ranges: list[Range], sharers: int, largest_bytes: int
) -> None:
    chunks = Chunks(ranges, sharers=sharers, largest_bytes=largest_bytes)
    left = list(ranges)
    while (chunk := chunks.take()) is not None:
        assert chunk.offset == left[0].offset
        assert chunk.offset % CHUNK_BYTES == 0
        assert 0 < chunk.length <= min(largest_bytes, left[0].length)
        assert chunk.end == left[0].end or chunk.length % CHUNK_BYTES == 0
        rest = left.pop(0).length - chunk.length
        if rest:
            left.insert(0, Range(chunk.end, rest))
    assert left == []


@given(ranges_of_a_file(), st.integers(0, 401 * CHUNK_BYTES))
def test_chunks_that_are_cut_off_end_there(ranges: list[Range], end: int) -> None:
    chunks = Chunks(ranges, largest_bytes=100 * CHUNK_BYTES)
    chunks.cut(end)
    taken = []
    while (chunk := chunks.take()) is not None:
        taken.append(chunk)
    assert sum(one.length for one in taken) == sum(max(0, min(one.end, end) - one.offset) for one in ranges)
    assert all(one.end <= end for one in taken)
