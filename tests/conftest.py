"""Fixtures and settings for all tests."""

from __future__ import annotations

import logging

import structlog

# Records are asserted on; printing them all would bury the failures.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
