"""A file of the first of two hosts, the place of its copy on the other, and a link that counts as slow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm.images import pace
from fsm.lab import Lab
from tests.nbd_copies import PATH, RUNS, SIZE_BYTES


@pytest.fixture
def files(lab: Lab) -> Iterator[tuple[Path, Path]]:
    """The original, sparse, and a hole where its copy goes."""
    original, copied = (host.path(PATH) for host in lab.hosts)
    for path in (original, copied):
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(SIZE_BYTES)
    with original.open("r+b") as file:
        for offset, length in RUNS:
            file.seek(offset)
            file.write(os.urandom(length))
    yield original, copied
    for path in (original, copied):
        path.unlink(missing_ok=True)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the link does counts as slow, after a few bytes."""
    monkeypatch.setattr(pace, "LOOK_S", 0.0)
    monkeypatch.setattr(pace, "FAST_MIB_PER_S", 1 << 40)
    monkeypatch.setattr(pace, "NEAR_LIMIT", 1 << 40)
