"""Live migration of libvirt/QEMU domains that keeps the internal snapshots of their qcow2 images.

The public names; everything else may change without notice.
"""

from fsm.engine.adoption import AdoptionRefused
from fsm.engine.cases import Case, Examined
from fsm.engine.context import Progress
from fsm.engine.engine import Engine
from fsm.engine.guard import Guard
from fsm.engine.handle import Handle
from fsm.engine.plan import MergeChoice, Request, Side, Verify
from fsm.engine.result import Result
from fsm.errors import (
    ActionFailed,
    BadInput,
    FsmError,
    HostError,
    HostUnreachable,
    JournalCorrupt,
    NotFound,
    OperationBlocked,
    OutcomeUnknown,
    ReplayDivergence,
    SpecError,
    TransitionRefused,
)
from fsm.machine.guard import Verdict, check, permits
from fsm.machine.operations import Operation

__all__ = [
    "ActionFailed",
    "AdoptionRefused",
    "BadInput",
    "Case",
    "Engine",
    "Examined",
    "FsmError",
    "Guard",
    "Handle",
    "HostError",
    "HostUnreachable",
    "JournalCorrupt",
    "MergeChoice",
    "NotFound",
    "Operation",
    "OperationBlocked",
    "OutcomeUnknown",
    "Progress",
    "ReplayDivergence",
    "Request",
    "Result",
    "Side",
    "SpecError",
    "TransitionRefused",
    "Verdict",
    "Verify",
    "check",
    "permits",
]
