"""How long a bench will still take, as far as can be said."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from time import monotonic

from attrs import define, field

Clock = Callable[[], float]


@define
class Remaining:
    """Pieces of work that come once a round each, and how long each took when it last came.

    ``weights`` are guesses for those that have not come yet, in any unit: what has been done tells the unit.
    """

    weights: Mapping[Hashable, float]
    rounds: int
    now_s: Clock = monotonic
    _left: dict[Hashable, int] = field(init=False)
    _took_s: dict[Hashable, float] = field(factory=dict, init=False)
    _at_s: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._left = dict.fromkeys(self.weights, self.rounds)
        self.skip()

    def skip(self) -> None:
        """What was done since the last call is no piece."""
        self._at_s = self.now_s()

    def done(self, piece: Hashable) -> None:
        """A piece has been done since the last call."""
        now_s = self.now_s()
        self._took_s[piece], self._at_s = now_s - self._at_s, now_s
        self._left[piece] -= 1

    @property
    def seconds(self) -> float | None:
        """What the rest will take; None before anything was done."""
        if not self._took_s:
            return None
        unit_s = sum(self._took_s.values()) / sum(self.weights[piece] for piece in self._took_s)
        return sum(
            left * self._took_s.get(piece, self.weights[piece] * unit_s) for piece, left in self._left.items()
        )

    def told(self) -> str:
        """The same in words."""
        seconds = self.seconds
        if seconds is None:
            return ""
        if seconds < 60:
            return f"about {seconds:.0f} s left"
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"about {hours} h {minutes:02} min left" if hours else f"about {minutes} min left"
