"""Random sequences of everything that can happen to a migration: whatever they are, nothing is lost.

When the accidents stop, the migration ends in ``committed``, ``rolled-back`` or ``refused`` and as
``check_end`` demands; the guest never runs twice; an engine that another one has superseded does nothing.
``FSM_EXAMPLES=5000 pytest tests/test_engine_random.py`` looks longer;
a failure prints how to come to it again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any
from unittest.mock import patch

from attrs import define
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fsm.engine import driving, heart
from fsm.engine.plan import Side
from fsm.engine.result import Result
from fsm.errors import HostUnreachable
from fsm.hypervisor.simulated import Denied, Moment
from fsm.journal.port import Leased
from fsm.machine.loader import load_default
from fsm.machine.observation import DomainState, Merge
from tests.accidents import ACCIDENTS
from tests.lives import CALLING, Killed, Life, Point
from tests.mending import mended
from tests.simulation import (
    DESTINATION,
    ON_SHARED,
    PLACED,
    RENAMED,
    SOURCE,
    Simulation,
    check_end,
    simulate,
    without_threads,
)

SPEC = load_default()
EXAMPLES = int(os.environ.get("FSM_EXAMPLES", "25"))
CALLS = (
    *("create_overlays", "create_sparse", "create_overlay", "forget_snapshots", "define_snapshots"),
    *("migrate", "start_commit", "pivot", "remove", "release", "resume", "destroy", "undefine"),
    *("domain", "stat", "snapshots", "make_durable", "writer", "read", "migration_progress", "connect"),
)
HOSTS = {Side.SOURCE: SOURCE, Side.DESTINATION: DESTINATION}
AT_ONCE = 3
# No migration takes so many turns of the event loop to end, or to wait for an operator.
LONG = 20_000
LIVES = 10
# So many turns an engine takes at most from a lease that has become free to driving.
A_WHILE = 30
# Longer than any example takes, so that only what a rule does lets a lease run out.
FOR_EVER_S = 1e6


@define(eq=False)
class Running:
    """An engine's process and the task that drives it."""

    life: Life
    task: asyncio.Task[Result | None]

    @property
    def alive(self) -> bool:
        return not self.task.done()


class Accidents(RuleBasedStateMachine):
    """One migration, up to three engines at once, and whatever happens to them."""

    @initialize(merge=st.sampled_from(Merge), shared=st.booleans(), placed=st.booleans())
    def begin(
        self, merge: Merge, *, shared: bool, placed: bool
    ) -> None:  # Merge.NONE: the domain is shut off
        """The first engine is asked to migrate."""
        self.stack = ExitStack()
        self.expired: set[str] = set()
        for target, name, value in (
            (driving, "is_dead", self.expired.__contains__),
            (driving, "BEAT_S", 0.0),
            (heart, "BEAT_S", FOR_EVER_S),
            (heart, "LEASE_S", FOR_EVER_S),
        ):
            self.stack.enter_context(patch.object(target, name, value))
        self.stack.enter_context(without_threads())
        self.runner = self.stack.enter_context(asyncio.Runner())
        disks = ON_SHARED if shared else ("vda", "vdb")
        state = DomainState.SHUT_OFF if merge is Merge.NONE else DomainState.RUNNING
        self.simulation: Simulation = self.runner.run(simulate(disks, state=state))
        self.engines: list[Running] = []
        self.started = self.idle = 0
        self._start(
            None,
            merge=Merge.COMMIT if shared or merge is Merge.NONE else merge,
            disk_map=PLACED if placed and not shared else (),
            destination_name=RENAMED if placed else "",
        )
        self._turns(LONG, until=lambda: bool(self.simulation.journal.headers()))
        self.migration = self.simulation.journal.headers()[0].migration

    # -- engines

    def _start(self, migration: str | None, **request: object) -> Life:
        life = Life(self.simulation, self._reached)
        self.started += 1
        life.engine._heart.holder = f"engine {self.started}"
        life.engine._heart.now_s = lambda: 2 * FOR_EVER_S if self._has_expired(life) else 0.0

        async def begin() -> Running:
            return Running(life, asyncio.create_task(_outcome(life, migration, **request)))

        self.engines.append(self.runner.run(begin()))
        return life

    def _has_expired(self, life: Life) -> bool:
        return life.engine._heart.holder in self.expired

    def _reached(self, life: Life, point: Point) -> None:
        """Whoever changes something on a host is the one who drives."""
        if point.moment == CALLING:
            with self.simulation.journal._file.transaction() as connection:
                (holder,) = connection.execute("SELECT holder FROM leases").fetchone()
            assert holder == life.engine._heart.holder, f"{point}: without a lease, {holder} has it"

    @property
    def living(self) -> list[Running]:
        return [engine for engine in self.engines if engine.alive]

    def _pick(self, which: int) -> Life:
        return self.living[which % len(self.living)].life

    def _turns(self, number: int, until: Callable[[], bool] = lambda: False) -> None:
        async def turn() -> None:
            for _ in range(number):
                if until():
                    return
                await asyncio.sleep(0)

        self.runner.run(turn())

    def _nothing_moves(self) -> bool:
        """Whether every living engine is stopped, or waits for the lease of one that is."""
        driving = any(one.life.engine._driving.driven and not one.life.stopped for one in self.living)
        self.idle = 0 if driving else self.idle + 1
        return self.idle > A_WHILE

    @rule(number=st.integers(1, 60))
    def go_on(self, number: int) -> None:
        """Time passes."""
        self._turns(number)

    @rule()
    def go_on_long(self) -> None:
        """A long time passes."""
        self._turns(LONG, until=self._nothing_moves)

    @rule()
    @precondition(lambda self: len(self.living) < AT_ONCE)
    def another_engine(self) -> None:
        """It takes over, or waits for the lease of the one that drives."""
        self._start(self.migration)

    @rule(which=st.integers(0, AT_ONCE), points=st.integers(0, 12))
    @precondition(lambda self: self.living)
    def kill(self, which: int, points: int) -> None:
        """kill -9 after so many more points; others may then know that it is dead."""
        life, left = self._pick(which), points

        def hook(dying: Life, point: Point) -> None:
            nonlocal left
            self._reached(dying, point)
            left -= 1
            if left < 0:
                self.expired.add(life.engine._heart.holder)
                dying.kill()

        life.hook = hook

    @rule(which=st.integers(0, AT_ONCE))
    @precondition(lambda self: self.living)
    def stop(self, which: int) -> None:
        """SIGSTOP, for so long that its lease runs out."""
        life = self._pick(which)
        life.stop()
        self._turns(LONG, until=lambda: life.parked or life not in [one.life for one in self.living])
        self.expired.add(life.engine._heart.holder)

    @rule(which=st.integers(0, AT_ONCE))
    @precondition(lambda self: self.living)
    def wake(self, which: int) -> None:
        """SIGCONT."""
        self._pick(which).go_on()

    @rule(which=st.integers(0, AT_ONCE))
    @precondition(lambda self: self.living)
    def beat(self, which: int) -> None:
        """A heartbeat of a living engine: who waits for its lease gives up, and requests are handed out."""
        self._beat(self._pick(which))

    def _beat(self, life: Life) -> None:
        if life.dead or life.stopped or self._has_expired(life) or life.engine._heart._task is None:
            return
        with suppress(Killed):
            self.runner.run(life.engine._heart._beat())
            self.runner.run(life.engine._hand_out_requests())

    # -- operators

    @rule(name=st.sampled_from(("abort", "retry")), fenced=st.sampled_from((None, *Side)))
    def ask(self, name: str, fenced: Side | None) -> None:
        """``fsm abort``, ``fsm retry``; ``--fenced`` only of a host that is off."""
        off = fenced is not None and not self.simulation.world.state.hosts[HOSTS[fenced]].powered
        data = {"fenced": [fenced.value]} if fenced is not None and off else {}
        self.simulation.journal.ask(self.migration, name, data)
        for one in self.living:
            self._beat(one.life)

    @rule()
    def mend(self) -> None:
        """Every accident ends."""
        mended(self.simulation)

    @rule(host=st.sampled_from((SOURCE, DESTINATION)), what=st.sampled_from(("resume", "start")))
    def guest_lives_on(self, host: str, what: str) -> None:
        """An operator resumes a paused domain, or starts one that is shut off, where it lives alone."""
        world, uuid = self.simulation.world, self.simulation.uuid
        records = {uri: world.state.hosts[uri].domains.get(uuid) for uri in (SOURCE, DESTINATION)}
        record = records.pop(host)
        if record is None or any(records.values()) or not world.state.hosts[host].answers:
            return
        if record.instance is None or record.instance.reason in ("user", "io-error"):
            with suppress(Denied):
                getattr(world, what)(host, uuid)

    # -- accidents

    @rule(name=st.sampled_from(sorted(ACCIDENTS)))
    def strike(self, name: str) -> None:
        """Something happens now."""
        ACCIDENTS[name](self.simulation.world, self.simulation.uuid)

    @rule(name=st.sampled_from(sorted(ACCIDENTS)), moment=st.sampled_from(Moment))
    def strike_later(self, name: str, moment: Moment) -> None:
        """Something happens at a moment of the migration or of the commit."""
        world, uuid = self.simulation.world, self.simulation.uuid
        world.at_moment(uuid, moment, lambda: ACCIDENTS[name](world, uuid))

    @rule(
        call=st.sampled_from(CALLS),
        host=st.sampled_from((SOURCE, DESTINATION)),
        nth=st.integers(1, 6),
        times=st.integers(1, 4),
        when=st.sampled_from(("before", "after")),
        gone=st.booleans(),
    )
    def fail(self, call: str, host: str, nth: int, times: int, when: str, gone: bool) -> None:  # noqa: FBT001
        """Some calls of the port fail, or their answers get lost."""
        named: dict[str, Any] = {"host": host, "nth": nth, "times": times, "when": when}
        if gone:
            named["error"] = lambda: HostUnreachable("gone", host=host, call=call)
        self.simulation.world.fail(call, **named)

    # -- what must hold

    @invariant()
    def nobody_acts_without_a_lease(self) -> None:
        """Engines end by themselves with a result, or because they were killed or superseded."""
        for one in getattr(self, "engines", ()):
            if not one.alive and one.task.exception() is not None:
                raise one.task.exception()  # type: ignore[misc]  # not None, as was just asked

    def teardown(self) -> None:
        """No more accidents: it ends as it must."""
        if not hasattr(self, "migration"):
            return
        with self.stack:
            try:
                self._end()
            finally:
                self.simulation.put_away()

    def _end(self) -> None:
        mended(self.simulation)
        for one in self.living:
            one.life.go_on()
            one.life.hook = self._reached
        self._turns(LONG, until=lambda: not self.living)
        assert not self.living, "an engine does not come to its end"
        self.nobody_acts_without_a_lease()
        result = None
        for _ in range(LIVES):
            if result is not None and SPEC.is_final(result.state):
                break
            mended(self.simulation)
            self.expired.update(one.life.engine._heart.holder for one in self.engines)
            self.simulation.journal.ask(self.migration, "retry", {})
            self._start(self.migration)
            self._turns(LONG, until=lambda: not self.living)
            result = self.engines[-1].task.result()
        path = [
            (r.sequence, r.state, r.name, r.error) for r in self.simulation.journal.records(self.migration)
        ]
        note(f"{result}; path: {path}")
        assert result is not None
        assert SPEC.is_final(result.state)
        self.runner.run(check_end(self.simulation, result))


async def _outcome(life: Life, migration: str | None, **request: object) -> Result | None:
    try:
        return await life.run(migration, **request)
    except Leased:
        return None


Accidents.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    # The same ones each time, unless somebody looks for more.
    derandomize="FSM_EXAMPLES" not in os.environ,
)
test_any_accidents_lose_nothing = Accidents.TestCase
