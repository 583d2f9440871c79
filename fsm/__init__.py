"""Live migration of libvirt/QEMU domains that keeps the internal snapshots of their qcow2 images.

These are the public names; everything else may change without notice. ``docs/embedding.md`` shows how they
are used together.

**Migrate**: ``migrate``; ``SyncEngine`` with its ``SyncHandle``, and ``Engine`` with its ``Handle``, which
have the same methods for programs without and with an event loop; ``Request`` with ``Direct``, ``Tuning``,
``Verify`` and ``MergeChoice``; ``Limits``; ``Result`` with ``Finding``.

**Follow**: ``Record`` with ``Step`` and ``Phase``, ``Progress``, ``Header``; ``DomainFacts`` with
``DomainState``, from ``Engine.domains``.

**Ask beforehand**: ``Guard``, ``Operation``, ``Verdict``, ``check``, ``permits``.

**Find what was left**: ``Case`` and ``Examined``, from ``Engine.examine``; ``Side``.

**Bring your own**: ``Connector`` and ``Journal`` are the ports to hosts and to a store of records.

**Errors**: all are ``FsmError``.
"""

from fsm.engine.adoption import AdoptionRefused
from fsm.engine.cases import Case, Examined
from fsm.engine.checks import Finding
from fsm.engine.context import Progress
from fsm.engine.engine import Engine
from fsm.engine.guard import Guard
from fsm.engine.handle import Handle
from fsm.engine.limits import Limits
from fsm.engine.loop_thread import LetGo
from fsm.engine.plan import Direct, MergeChoice, Request, Side, Verify
from fsm.engine.result import Result
from fsm.engine.sync import SyncEngine, SyncHandle, migrate
from fsm.errors import (
    ActionFailed,
    BadInput,
    FsmError,
    HostError,
    HostUnreachable,
    ImageCorrupt,
    JournalCorrupt,
    NotFound,
    OperationBlocked,
    OutcomeUnknown,
    ReplayDivergence,
    SpecError,
    TransitionRefused,
    VerificationFailed,
)
from fsm.hypervisor.port import Connector
from fsm.hypervisor.values import DomainFacts, Tuning
from fsm.journal.port import DomainBusy, Journal, JournalUnavailable, Leased, LeaseLost
from fsm.journal.records import Header, Phase, Record, Step
from fsm.machine.guard import Verdict, check, permits
from fsm.machine.observation import DomainState
from fsm.machine.operations import Operation

__all__ = [
    "ActionFailed",
    "AdoptionRefused",
    "BadInput",
    "Case",
    "Connector",
    "Direct",
    "DomainBusy",
    "DomainFacts",
    "DomainState",
    "Engine",
    "Examined",
    "Finding",
    "FsmError",
    "Guard",
    "Handle",
    "Header",
    "HostError",
    "HostUnreachable",
    "ImageCorrupt",
    "Journal",
    "JournalCorrupt",
    "JournalUnavailable",
    "LeaseLost",
    "Leased",
    "LetGo",
    "Limits",
    "MergeChoice",
    "NotFound",
    "Operation",
    "OperationBlocked",
    "OutcomeUnknown",
    "Phase",
    "Progress",
    "Record",
    "ReplayDivergence",
    "Request",
    "Result",
    "Side",
    "SpecError",
    "Step",
    "SyncEngine",
    "SyncHandle",
    "TransitionRefused",
    "Tuning",
    "Verdict",
    "VerificationFailed",
    "Verify",
    "check",
    "migrate",
    "permits",
]
