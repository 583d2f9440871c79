"""The ``fsm`` command: thin, each command calls engine, machine or lab and shows what comes back."""

from fsm.cli.app import main

__all__ = ["main"]
