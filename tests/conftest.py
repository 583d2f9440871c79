"""Fixtures and settings for all tests."""

from __future__ import annotations

import logging

import structlog
from hypothesis import settings

# Records are asserted on; printing them all would bury the failures.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

# No test depends on the machine's speed: each example would be timed otherwise.
settings.register_profile("fsm", deadline=None)
settings.load_profile("fsm")
