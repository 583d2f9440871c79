"""A file's data in pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fsm.images import pieces as module
from fsm.images.pieces import PIECE_BYTES


@given(st.lists(st.tuples(st.integers(1, 3 * PIECE_BYTES), st.integers(1, 3 * PIECE_BYTES))))
def test_the_ranges_hold_all_data_once_in_order(gaps_and_lengths: list[tuple[int, int]]) -> None:
    extents, at = [], 0
    for gap, length in gaps_and_lengths:
        extents.append((at + gap, length))
        at += gap + length
    pieces = module._pieces(extents)
    for one, other in pairwise(pieces):
        assert one.offset + one.length <= other.offset
    assert all(0 < one.data_bytes <= min(one.length, PIECE_BYTES) for one in pieces)
    assert all(one.data_bytes == PIECE_BYTES for one in pieces[:-1])
    assert sum(one.data_bytes for one in pieces) == sum(length for _, length in extents)
    for start, length in extents:
        inside = (max(0, min(start + length, p.offset + p.length) - max(start, p.offset)) for p in pieces)
        assert sum(inside) == length
