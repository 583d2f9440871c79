"""What the lab raises."""

from __future__ import annotations

from fsm.errors import FsmError


class LabError(FsmError):
    """Something in the lab did not work; the message names the command and what it printed."""
