"""Drives one migration: observe, decide, write the intent, act, write the outcome; again until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from attrs import define, evolve, field

from fsm.engine import causes
from fsm.engine.actions import ACTIONS
from fsm.engine.activities import ACTIVITIES
from fsm.engine.checks import Finding
from fsm.engine.clock import Clock
from fsm.engine.context import Context, Hosts, Progress
from fsm.engine.events import EventMaker, told
from fsm.engine.history import History
from fsm.engine.log import EventLog, event_log
from fsm.engine.observe import observe_hosts
from fsm.engine.plan import Request, Side
from fsm.engine.result import Result
from fsm.engine.scribe import Scribe
from fsm.engine.space_watch import SpaceWatch
from fsm.errors import FsmError
from fsm.hypervisor.uris import safe_text
from fsm.journal.port import Entry, Journal, JournalUnavailable, LeaseLost
from fsm.journal.records import Asked, Data, Lease, Phase, Record, Step, converter
from fsm.machine.decision import Decision, Verb, decide
from fsm.machine.interpreter import Interpreter
from fsm.machine.observation import Host, Observation
from fsm.machine.spec import Kind, Spec, State

# The net below the hosts' events while waiting for one of them to come back.
LOOK_AGAIN_S = 2.0


@define
class Driver:
    """One migration in motion. ``run`` may be cancelled at any point; another driver can go on from there."""

    migration: str
    request: Request
    interpreter: Interpreter
    journal: Journal
    scribe: Scribe
    hosts: Hosts
    copying: asyncio.Semaphore
    clock: Clock
    history: History
    lease: Lease
    log: EventLog = field(factory=event_log)
    on_progress: Callable[[Progress], None] = lambda _progress: None
    on_record: Callable[[Record], None] = lambda _record: None
    abort_requested: asyncio.Event = field(factory=asyncio.Event)
    wake: asyncio.Event = field(factory=asyncio.Event)
    findings: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    _asked: list[Asked] = field(factory=list)
    _heard: set[int] = field(factory=set)
    _context: Context = field(init=False)
    _events: EventMaker = field(init=False)
    _began_at_s: float = field(init=False)
    _space: SpaceWatch | None = field(default=None, init=False)
    _spread: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._spread = self.clock.spread()
        self._events = EventMaker(self.migration, self.request, self.lease)
        self._began_at_s = self.clock.monotonic_s()
        self.hosts.expected = self.history.plan
        self._context = Context(
            migration=self.migration,
            journal=self.journal.location,
            request=self.request,
            hosts=self.hosts,
            copying=self.copying,
            clock=self.clock,
            history=self.history,
            step_timeout_s=self._timeout_s(),
            note=self._note,
            claim=self._claim,
            abort=self.abort_requested,
            on_progress=self.on_progress,
            log=self.log,
            progress_at_s=self._began_at_s,
        )

    @property
    def spec(self) -> Spec:
        """The machine's description."""
        return self.interpreter.spec

    @property
    def _state(self) -> State:
        return self.spec.states[self.history.state]

    def _timeout_s(self) -> float:
        timeout_s = self._state.timeout_s
        return float("inf") if timeout_s is None else timeout_s

    async def run(self) -> Result:
        """Drive until a final state, or until ``stuck`` has used up its retries; then say where it stands.

        Raises ``JournalUnavailable`` when the journal fails, since nothing can be done without it, and
        ``LeaseLost`` when another engine has taken over.
        """
        self._context.progress_at_s = self.clock.monotonic_s()  # it may have waited for its turn
        try:
            while self._state.kind is not Kind.FINAL:  # ends: every state is left by its timeout, see wait
                await self._take_requests()
                if self._state.kind is Kind.STABLE and self._lets_go():
                    break
                seen = await self._observe()
                decision = decide(self.spec, self.history.state, seen)
                match decision.verb:
                    case Verb.FIRE:
                        await self._back_off()
                        await self._fire(decision, seen)
                    case Verb.CONTINUE:
                        self._watch_space()
                        await self._back_off()
                        await self._continue(seen)
                    case Verb.WAIT:
                        await self._wait()
        finally:
            if self._space is not None:
                self._space.cancel()
            self._context.close()
        return self.result()

    def ask(self, asked: Asked) -> None:
        """Take a request from the journal, once, and as soon as the present step allows."""
        if asked.number in self._heard:
            return
        self._heard.add(asked.number)
        self._asked.append(asked)
        if asked.name == "abort":
            self.abort_requested.set()
        self.wake.set()

    def abort(self) -> None:
        """Take an abort from within this process."""
        self.abort_requested.set()
        self.wake.set()

    def result(self) -> Result:
        """Where the migration stands."""
        history = self.history
        done = self._state.kind is Kind.FINAL and not self.findings and history.state == "committed"
        return Result(
            migration=self.migration,
            domain=history.plan.domain_name if history.plan else self.request.domain,
            state=history.state,
            cause="" if done else history.cause,
            remedy="" if done else history.remedy,
            findings=self.findings,
            notes=self.notes,
            left_behind=history.left_behind,
            pulling=history.pulling,
            not_flattened=history.not_flattened,
            duration_s=self.clock.monotonic_s() - self._began_at_s,
        )

    # -- observe --------------------------------------------------------------------------------------

    async def _observe(self) -> Observation:
        source, destination = await observe_hosts(self.hosts, self.history)
        await self._take_back_words(source, destination)
        retry_at_s = self._retry_at_s()
        engine = self.history.facts(
            self._state.retry,
            overdue=self._context.stalled(),
            retry_due=retry_at_s is not None and self.clock.monotonic_s() >= retry_at_s,
            space_short=self._space is not None and self._space.shortage is not None,
        )
        return Observation(source, destination, engine)

    async def _take_back_words(self, source: Host, destination: Host) -> None:
        """The word that a host is off holds until it is seen again, whoever drives the migration then."""
        if self.history.plan is None:
            return  # nothing was looked at
        sides = {Side.SOURCE: source, Side.DESTINATION: destination}
        if back := sorted(side for side in self.history.fenced if sides[side].reachable):
            await self._note("seen-again", {"unfenced": back})

    def _watch_space(self) -> None:
        """Watch the hosts' file systems in the states that ask whether one gets full."""
        wanted = any("space-short" in row.when for row in self._state.recover)
        if wanted and (self._space is None or self._space.ended):
            self._space = SpaceWatch(self._context, self.wake)
            self._space.start()

    def _retry_at_s(self) -> float | None:
        """When a stable state tries again by its policy; None when it does not."""
        policy = self._state.retry
        if self._state.kind is not Kind.STABLE:
            return None
        if policy.attempts is not None and self.history.retries >= policy.attempts:
            return None
        # Drawn once a stay: drawn at each look, the moment would move.
        delay_s = policy.delay_after_s(self.history.retries + 1, self._spread)
        return self._context.progress_at_s + delay_s

    def _lets_go(self) -> bool:
        """Whether a stable state's policy is used up or its time is over: then somebody has to look."""
        asked = self.history.retry_requested or self.history.rescue_requested
        used_up = self._retry_at_s() is None and not asked
        return used_up or self._context.stalled()

    # -- decide and act -------------------------------------------------------------------------------

    async def _fire(self, decision: Decision, seen: Observation) -> None:
        if self._space is not None:
            # Its actions change what is watched, and may put the storage pools back.
            await self._space.stop()
        await self._take(decision, seen)
        self._space = None
        self._context.short.clear()

    async def _take(self, decision: Decision, seen: Observation) -> None:
        row = self.interpreter.fire(self.history.state, decision.trigger, seen)
        intent = Record(Step.TRANSITION, Phase.INTENT, row.trigger, row.source, row.dest, observation=seen)
        await self._write(intent)
        outcome = evolve(intent, phase=Phase.OUTCOME, observation=None)
        for name in row.actions:
            self._context.outcome = {}
            try:
                await ACTIONS[name](self._context)
            except (JournalUnavailable, LeaseLost):
                raise
            except FsmError as error:
                await self._write_outcome(Step.ACTION, name, error)
                await self._write(
                    evolve(outcome, error=safe_text(str(error)), data=told({"remedy": error.remedy}))
                )
                return
            await self._write_outcome(Step.ACTION, name)
        await self._write(evolve(outcome, data=self._cause(row.trigger, seen) if row.failure else {}))
        self._context.progress_at_s = self.clock.monotonic_s()
        self._context.step_timeout_s = self._timeout_s()
        self._spread = self.clock.spread()

    def _cause(self, trigger: str, seen: Observation) -> Data:
        """Why a failure row was taken: preflight's findings, the error before it, or what is observed."""
        if self.findings:
            return {"cause": "; ".join(f"{finding.host}: {finding.message}" for finding in self.findings)}
        if trigger == "run-short" and self._space is not None and self._space.shortage is not None:
            return {"cause": self._space.shortage.what, "remedy": self._space.shortage.remedy}
        cause = causes.of_trigger(trigger, seen, self.request, self.migration)
        if self.history.failures > 0 and not causes.tells_more(trigger, seen):
            return {"cause": self.history.cause, "remedy": self.history.remedy or cause.remedy}
        return {"cause": cause.what, "remedy": cause.remedy}

    async def _continue(self, seen: Observation) -> None:
        name = self._state.activity or ""
        await self._write(Record(Step.ACTIVITY, Phase.INTENT, name, self.history.state, observation=seen))
        self._context.outcome = {}
        self._context.progress_at_s = self.clock.monotonic_s()
        try:
            await ACTIVITIES[name](self._context)
        except (JournalUnavailable, LeaseLost):
            raise
        except FsmError as error:
            await self._write_outcome(Step.ACTIVITY, name, error)
            return
        await self._write_outcome(Step.ACTIVITY, name)
        self._context.progress_at_s = self.clock.monotonic_s()

    async def _back_off(self) -> None:
        """After a failed step: wait as the state's policy says. An abort ends the wait."""
        policy, failures = self._state.retry, self.history.failures
        if failures == 0:
            return
        if policy.attempts is None or failures < policy.attempts:
            delay_s = policy.delay_after_s(failures, self.clock.spread())
            await self.clock.wait(self.wake, delay_s)
        elif failures > policy.attempts + 1:
            # Even the way out fails: nothing to hurry for.
            await self.clock.wait(asyncio.Event(), LOOK_AGAIN_S)

    async def _wait(self) -> None:
        """Until somebody asks for something, or it is time to look again."""
        retry_at_s = self._retry_at_s()
        delay_s = LOOK_AGAIN_S
        if retry_at_s is not None and retry_at_s > self.clock.monotonic_s():
            delay_s = min(delay_s, retry_at_s - self.clock.monotonic_s())
        await self.clock.wait(self.wake, delay_s)

    async def _take_requests(self) -> None:
        """Write down what was asked for; from then on it counts, for this engine and for any other."""
        self.wake.clear()
        for asked in list(self._asked):
            request = Record(Step.REQUEST, Phase.OUTCOME, asked.name, self.history.state, data=asked.data)
            await self._write(request, answers=asked.number)
            self._asked.remove(asked)
        if self.abort_requested.is_set() and not self.history.abort_requested:
            await self._write(Record(Step.REQUEST, Phase.OUTCOME, "abort", self.history.state))

    # -- journal --------------------------------------------------------------------------------------

    async def _write_outcome(self, step: Step, name: str, error: FsmError | None = None) -> None:
        data = dict(self._context.outcome)
        if error is not None and error.remedy:
            data["remedy"] = error.remedy
        data = told(data)
        if "findings" in data:
            self.findings = tuple(converter.structure(data["findings"], list[Finding]))
            self.notes = tuple(converter.structure(data["notes"], list[Finding]))
        failure = safe_text(str(error)) if error is not None else ""
        await self._write(Record(step, Phase.OUTCOME, name, self.history.state, error=failure, data=data))

    async def _note(self, name: str, data: Data) -> None:
        await self._write(Record(Step.ACTION, Phase.OUTCOME, name, self.history.state, data=told(data)))

    async def _claim(self, domain_uuid: str) -> None:
        await asyncio.to_thread(self.journal.claim, self.migration, domain_uuid)

    async def _write(self, record: Record, *, answers: int | None = None) -> None:
        """Write a record durably, then count it. A cancelled engine still finishes the writing."""
        final = (
            record.step is Step.TRANSITION
            and record.phase is Phase.OUTCOME
            and not record.error
            and self.spec.is_final(record.dest)
        )
        dated = evolve(record, at=self.clock.now(), spec_digest=self.spec.digest)
        writing = self.scribe.write(Entry(self.migration, dated, final, self.lease, answers))
        try:
            written = await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The lease is given up behind this: whoever gets it must find the record written, or never.
            await asyncio.wait((writing,))
            if writing.exception() is None:
                self._log(writing.result())
                self.on_record(writing.result())
            raise
        self.history = self.history.after(written)
        self._context.history = self.history
        self._log(written)
        self.on_record(written)

    def _log(self, written: Record) -> None:
        fields = self._events.of(written)
        level = "warning" if written.error or "warning" in written.data else "info"
        getattr(self.log, level)(fields.pop("event"), **fields)
