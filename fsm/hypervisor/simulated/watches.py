"""Waiting for something to happen to a domain of a simulated host."""

from __future__ import annotations

from attrs import define, field

from fsm.hypervisor.simulated.commit import STEP_S
from fsm.hypervisor.simulated.core import Pace, WorldCore


@define(eq=False)
class SimulatedWatch:
    """See ``fsm.hypervisor.port.Watch``.

    With the pace ``POLLED``, ``changed`` returns promptly: one step of the domain's jobs, one turn for
    other tasks, then the answer; the simulated clock goes on by a step or by the whole ``timeout_s``. With
    the pace ``MANUAL`` it really waits.
    """

    _uri: str
    _uuid: str
    _core: WorldCore
    _seen: int = field(init=False)
    _closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._seen = self._version()

    def _version(self) -> int:
        host = self._core.state.hosts[self._uri]
        return host.versions.get(self._uuid, 0)

    async def changed(self, timeout_s: float) -> bool:
        """See the port."""
        if self._fresh():
            return True
        began_s = self._core.clock.monotonic_s()
        if not self._closed:
            await self._core.turn(self._uri, self._uuid, timeout_s)
        fresh = self._fresh()
        if self._core.pace is Pace.POLLED:
            self._core.clock.pass_until(began_s + (min(timeout_s, STEP_S) if fresh else timeout_s))
        return fresh

    def _fresh(self) -> bool:
        version = self._version()
        # Events of a host that can't be reached do not arrive; what they told is seen afterwards.
        if self._closed or version == self._seen or not self._core.reaches(self._uri):
            return False
        self._seen = version
        return True

    def close(self) -> None:
        """See the port."""
        self._closed = True


@define(eq=False)
class SimulatedThresholdWatch:
    """See ``fsm.hypervisor.port.Host.watch_thresholds``.

    It really waits, and lets no time pass: ``timeout_s`` is over when others have waited so long.
    """

    _uri: str
    _uuid: str
    _core: WorldCore
    _seen: int = field(init=False)
    _closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._seen = self._crossings()

    def _crossings(self) -> int:
        return self._core.state.hosts[self._uri].crossings.get(self._uuid, 0)

    async def changed(self, timeout_s: float) -> bool:
        """See the port."""
        if not self._fresh() and not self._closed:
            await self._core.until_crossed(self._uri, self._uuid, timeout_s)
        fresh = self._fresh()
        if fresh:
            self._seen = self._crossings()
        return fresh

    def _fresh(self) -> bool:
        return not self._closed and self._crossings() != self._seen and self._core.reaches(self._uri)

    def close(self) -> None:
        """See the port."""
        self._closed = True
