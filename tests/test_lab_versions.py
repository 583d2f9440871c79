"""A migration to a host of a newer Debian suite, where that suite's root has been built already."""

from __future__ import annotations

import pytest

from fsm.lab import suite
from fsm.machine.observation import Merge
from tests.lab_rig import LONG_LAB
from tests.versions.cells import Cell, Pair
from tests.versions.run import RIGHT, run

pytestmark = LONG_LAB


def newer() -> str:
    """The suite behind the machine's own that has a root; building one takes minutes."""
    names = suite.SUITES[suite.SUITES.index(suite.native()) + 1 :] if suite.native() in suite.SUITES else ()
    for name in names:
        if suite.is_built(name):
            return name
    pytest.skip(f"no root of a newer suite than {suite.native()} is built; ./dev matrix builds them")


@pytest.mark.parametrize("merge", [Merge.COMMIT, Merge.MIRROR])
def test_nothing_is_lost_on_the_way_to_newer_versions(merge: Merge) -> None:
    row = run(Cell(Pair(suite.native(), newer()), merge))
    assert (row.verdict, row.why, row.ended) == (RIGHT, "", "committed"), row
    source, destination = row.hosts
    assert source.libvirt != destination.libvirt
    assert source.qemu != destination.qemu
