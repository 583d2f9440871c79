"""How fast a link is, as the copy that goes over it shows."""

from __future__ import annotations

from attrs import define, field

from fsm.images.transfer import MIB

FAST_MIB_PER_S = 200
"""A link that carries so much is left alone: one CPU compresses about 100 MiB/s."""

NEAR_LIMIT = 0.8
"""A copy that reaches so much of the user's limit is bound by that, and not by the link."""

LOOK_S = 0.5
"""How long a copy is watched. If the link is slow, so much of it was in vain."""


@define
class Pace:
    """Tells once, by a piece that takes long enough, whether the link is slow.

    ``missing``: it is, but that is why nothing can be compressed.
    """

    _limit_mib_per_s: int
    is_slow: bool = field(default=False, init=False)
    missing: str = field(default="", init=False)
    _known: bool = field(default=False, init=False)
    _first: tuple[float, int] | None = field(default=None, init=False)

    def begins(self) -> None:
        """Another piece begins."""
        self._first = None

    def shows_slow(self, done_bytes: int, now_s: float) -> bool:
        """Whether it shows just now, with so much of the piece done."""
        if self._known or not done_bytes:
            return False
        if self._first is None:  # what went before was the time to connect
            self._first = now_s, done_bytes
            return False
        seconds, moved_bytes = now_s - self._first[0], done_bytes - self._first[1]
        if seconds < LOOK_S:
            return False
        self._known = True
        self.is_slow = moved_bytes < self._fast_mib_per_s * MIB * seconds
        return self.is_slow

    @property
    def _fast_mib_per_s(self) -> float:
        limit = self._limit_mib_per_s
        return min(FAST_MIB_PER_S, limit * NEAR_LIMIT) if limit else FAST_MIB_PER_S
