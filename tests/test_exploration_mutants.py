"""Validation and exploration find faults: every single change of the machine is caught, or listed.

``./dev mutants`` goes through all of them, otherwise a part is gone through, another one for each machine.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from fsm.machine.exploration.mutants import Catcher, Hunt, mutants
from fsm.machine.exploration.search import Search
from fsm.machine.loader import load_default
from tests.machine_helpers import TESTS

SPEC = load_default()
SURVIVORS = TESTS / "testdata" / "survivors.txt"
EVERY = bool(os.environ.get("FSM_ALL_MUTANTS"))
PART = 1 if EVERY else 40
OFFSET = int(SPEC.digest, 16) % PART
CAUGHT = (Catcher.VALIDATION, Catcher.EXPLORATION)


def listed() -> dict[str, str]:
    """The survivors that the file names, with their reasons: a reason stands above those that it is for."""
    reasons: dict[str, str] = {}
    reason = ""
    for line in SURVIVORS.read_text("utf-8").splitlines():
        if line.startswith("# "):
            reason = line[2:]
        elif line:
            reasons[line] = reason
    return reasons


@pytest.mark.timeout(7200 if EVERY else 600)
def test_every_mutant_is_caught_or_listed(searched: Search) -> None:
    hunt = Hunt(searched)
    chosen = list(mutants(SPEC))[OFFSET::PART]
    found = {mutant.name: hunt.caught_by(mutant) for mutant in chosen}
    changes = {name: catcher for name, catcher in found.items() if catcher is not Catcher.SAME}
    if EVERY:
        print(*Counter(found.values()).items(), sep="\n")  # noqa: T201  # what ./dev mutants is for
    known = listed()
    survivors = {name: catcher.value for name, catcher in changes.items() if catcher not in CAUGHT}
    missing = {name: value for name, value in survivors.items() if name not in known}
    assert not missing, "not caught, and not in tests/testdata/survivors.txt"
    stale = {name for name in known if name in found and name not in survivors}
    assert not stale, "caught by now: take them out of tests/testdata/survivors.txt"
    if EVERY:
        assert len(survivors) / len(changes) <= 0.05


def test_the_list_names_mutants_that_exist_and_their_reasons() -> None:
    known = listed()
    names = [mutant.name for mutant in mutants(SPEC)]
    assert len(set(names)) == len(names)
    assert set(known) <= set(names)
    assert all(known.values())
