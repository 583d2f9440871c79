"""Every error this package raises on purpose, under one root.

A message says what failed, on which host, what was left behind and what to do next; ``remedy`` holds that
last part alone so that a command line or an orchestrator can show it on its own.
"""

from __future__ import annotations


class FsmError(Exception):
    """Root of all errors raised by this package.

    ``remedy`` is one sentence telling the reader what to do next; it is empty where nothing can be advised.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class SpecError(FsmError):
    """A state machine description is malformed; ``file`` and ``line`` (1-based) say where."""

    def __init__(self, message: str, *, file: str = "<spec>", line: int = 0) -> None:
        super().__init__(f"{file}:{line}: {message}" if line else f"{file}: {message}")
        self.file = file
        self.line = line


class TransitionRefused(FsmError):
    """A trigger was fired that the machine does not accept now. Nothing happened.

    ``failed_guards`` names the conditions that did not hold, of every row that the trigger could have taken;
    it is empty when the state has no row for the trigger at all.
    """

    def __init__(self, state: str, trigger: str, failed_guards: tuple[str, ...] = ()) -> None:
        why = f"these conditions do not hold: {', '.join(failed_guards)}" if failed_guards else "no such row"
        super().__init__(f"trigger {trigger!r} is refused in state {state!r}: {why}")
        self.state = state
        self.trigger = trigger
        self.failed_guards = failed_guards


class OperationBlocked(FsmError):
    """An operation on a domain is blocked by the state of its migration."""

    def __init__(self, state: str, operation: str, *, remedy: str = "") -> None:
        super().__init__(
            f"operation {operation!r} is blocked while the migration is in state {state!r}", remedy=remedy
        )
        self.state = state
        self.operation = operation


class JournalCorrupt(FsmError):
    """The journal holds something that this version cannot have written or cannot read."""


class ReplayDivergence(FsmError):
    """The machine decides otherwise, on what was observed then, than a record says that it did.

    ``recorded`` and ``decided`` are the two decisions; ``guards`` names the conditions that make the
    difference, as far as they can be told from the machine of today.
    """

    def __init__(
        self,
        migration: str,
        sequence: int,
        state: str,
        recorded: str,
        decided: str,
        why: str,
        guards: tuple[str, ...],
    ) -> None:
        super().__init__(
            f"record {sequence} of migration {migration}: in state {state!r} it was decided to {recorded}; "
            f"this machine would {decided}: {why}",
            remedy="compare the two machines: fsm diagram --diff OLD",
        )
        self.migration = migration
        self.sequence = sequence
        self.state = state
        self.recorded = recorded
        self.decided = decided
        self.why = why
        self.guards = guards


class BadInput(FsmError):
    """What the caller asked for is wrong in itself, whatever the hosts look like. Nothing was touched."""


class HostError(FsmError):
    """A call to a host failed, and it is known that the call had no effect beyond what the message says.

    ``message`` says it without the host; ``host`` is the connection URI without secrets; ``call`` the name of
    the port's method.
    """

    def __init__(self, message: str, *, host: str, call: str = "", remedy: str = "") -> None:
        super().__init__(f"{host}: {message}", remedy=remedy)
        self.message = message
        self.host = host
        self.call = call


class HostUnreachable(HostError):
    """The host cannot be asked at present; nothing is known about what it does now."""


class NotFound(HostError):
    """The domain, volume, job or snapshot named does not exist on the host."""


class OutcomeUnknown(HostError):
    """A call was begun and its end was not seen (deadline, lost connection): observe before anything else."""


class ActionFailed(FsmError):
    """An action or activity of the machine failed and said so.

    ``retryable`` tells whether the same action may succeed later without anybody changing the request.
    """

    def __init__(self, action: str, message: str, *, retryable: bool = True, remedy: str = "") -> None:
        super().__init__(f"{action}: {message}", remedy=remedy)
        self.action = action
        self.message = message
        self.retryable = retryable


class ImageCorrupt(FsmError):
    """A disk image contradicts its own format, or uses parts of it that this version does not know."""


class VerificationFailed(FsmError):
    """The copy of an image is not equal to the original. Neither file was changed.

    ``source`` and ``destination`` are the hosts' URIs without secrets; ``offset`` is the first byte known to
    differ, None where the difference is not one of bytes.
    """

    def __init__(
        self, message: str, *, path: str, source: str, destination: str, offset: int | None = None
    ) -> None:
        super().__init__(
            f"the copy of {path!r} from {source} at {destination} is not equal to the original: {message}",
            remedy="do not use the copy; the original is whole: copy again, and check both hosts' storage",
        )
        self.path = path
        self.source = source
        self.destination = destination
        self.offset = offset
