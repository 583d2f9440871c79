"""Fixtures and settings for all tests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from fsm.machine.exploration.engine import Machine
from fsm.machine.exploration.search import Search
from fsm.machine.loader import load_default

# Records are asserted on; printing them all would bury the failures.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

# No test depends on the machine's speed: each example would be timed otherwise.
settings.register_profile("fsm", deadline=None)
settings.load_profile("fsm")


@pytest.fixture(scope="session")
def searched() -> Search:
    """Everything that can be reached under the shipped machine; no invariant is violated there."""
    search = Search(Machine(load_default()))
    assert search.run() is None
    return search


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    """Whatever the test has begun in other threads has ended with it."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
