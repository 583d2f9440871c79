"""A copy's beginning shows how fast the link is."""

from __future__ import annotations

import pytest

from fsm.images.pace import FAST_MIB_PER_S, LOOK_S, NEAR_LIMIT, Pace

MIB = 1024 * 1024


def verdicts(
    mib_per_s: float, limit: int = 0, seconds: float = 3.0, connecting_s: float = 0.0
) -> list[float]:
    """When it shows that the link is slow: a line each 10 MiB, as of a piece of a GiB."""
    pace, shown, step_s = Pace(limit), list[float](), 10 / mib_per_s
    for line in range(1, 1 + int(seconds / step_s)):
        now_s = 7.0 + connecting_s + line * step_s
        if pace.shows_slow(line * 10 * MIB, now_s):
            shown.append(now_s - 7.0)
    assert pace.is_slow == bool(shown)
    return shown


@pytest.mark.parametrize(
    ("mib_per_s", "limit", "slow"),
    [
        (FAST_MIB_PER_S * 0.95, 0, 1),
        (FAST_MIB_PER_S * 1.05, 0, 0),
        (100 * NEAR_LIMIT * 0.95, 100, 1),
        (100 * NEAR_LIMIT * 1.05, 100, 0),
        (FAST_MIB_PER_S * 1.05, 1000, 0),
    ],
    ids=["slow", "fast", "far below its limit", "as fast as its limit", "a limit above what counts as fast"],
)
@pytest.mark.parametrize("connecting_s", [0.0, 2.0])
def test_what_counts_as_slow(mib_per_s: float, limit: int, slow: int, connecting_s: float) -> None:
    assert len(verdicts(mib_per_s, limit, connecting_s=connecting_s)) == slow


def test_it_is_told_once_and_soon() -> None:
    (when_s,) = verdicts(100)
    assert LOOK_S <= when_s <= LOOK_S + 3 * 10 / 100


def test_pieces_that_are_over_at_once_tell_nothing() -> None:
    """Each connects anew, which takes longer than its bytes."""
    pace = Pace(0)
    for number in range(100):
        pace.begins()
        assert not pace.shows_slow(MIB, number + 0.1)
        assert not pace.shows_slow(16 * MIB, number + 0.1 + LOOK_S / 2)


def test_nothing_done_is_no_beginning() -> None:
    pace = Pace(0)
    assert not pace.shows_slow(0, 0.0)
    assert not pace.shows_slow(MIB, 60.0)
    assert not pace.is_slow
