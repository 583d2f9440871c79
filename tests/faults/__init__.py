"""Every fault in every state, on the two real hosts of a lab: ``python -m tests.faults``."""
