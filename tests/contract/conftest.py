"""Every contract test runs once for each binding of the port."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from fsm.lab import Lab
from tests.contract.contract_rig import Rig
from tests.contract.lab_rig import LabRig
from tests.contract.simulated_rig import SimulatedRig

_numbers = itertools.count()


@pytest.fixture(scope="session")
def two_real_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for all contract tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSM_LAB_DIR", str(tmp_path_factory.mktemp("labs")))
        with Lab.up(guest=False) as lab:
            yield lab


@pytest.fixture(params=["simulated", pytest.param("lab", marks=pytest.mark.lab)])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """Two hosts of either kind, with nothing on them."""
    if request.param == "simulated":
        yield SimulatedRig()
        return
    real = LabRig(request.getfixturevalue("two_real_hosts"), next(_numbers))
    yield real
    await real.close()
