"""A libvirtd that was killed right behind QEMU's switch to the overlays does not know of them any more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fsm.errors import OutcomeUnknown
from fsm.hypervisor.simulated.host import SimulatedHost
from fsm.hypervisor.values import Overlay
from tests.simulation import SOURCE, Simulation, check_end, simulate


class Qemu:
    """Says what it uses, which libvirt does not know."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes_to_overlays = True
        qemu = self

        async def create_overlays(host: SimulatedHost, _uuid: str, overlays: Sequence[Overlay]) -> None:
            for overlay in overlays:
                await host.storage.create_sparse(overlay.path, 65536)
            raise OutcomeUnknown("the connection broke", host=host.uri, call="create_overlays")

        async def uses(_host: SimulatedHost, _uuid: str, _path: str) -> bool:
            return qemu.writes_to_overlays

        monkeypatch.setattr(SimulatedHost, "create_overlays", create_overlays)
        monkeypatch.setattr(SimulatedHost, "uses", uses)


def overlays_left(simulation: Simulation) -> list[str]:
    return [path for path in simulation.world.files(SOURCE) if "fsm-" in path]


async def test_overlays_that_qemu_writes_to_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation, qemu = await simulate(), Qemu(monkeypatch)
    result = await simulation.migrate()
    assert result.state == "stuck"
    assert len(overlays_left(simulation)) == 2
    assert "lost track" in result.cause
    assert "qemu-img commit" in result.remedy
    # The guest was shut down and its overlays committed.
    qemu.writes_to_overlays = False
    await simulation.engine.ask(result.migration, "retry")
    result = await (await simulation.engine.resume(result.migration)).wait()
    assert result.state == "rolled-back"
    await check_end(simulation, result)


async def test_overlays_that_qemu_does_not_use_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation, qemu = await simulate(), Qemu(monkeypatch)
    qemu.writes_to_overlays = False
    result = await simulation.migrate()
    assert result.state == "refused"
    assert overlays_left(simulation) == []
