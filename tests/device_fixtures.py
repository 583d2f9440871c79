"""Shells that tell of simulated hosts' devices."""

from __future__ import annotations

import pytest

from fsm.engine import copying, devices, direct, shared_devices
from tests.simulated_devices import Told, copied


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What shells tell."""
    told = Told()
    monkeypatch.setattr(devices, "device_at", told.device_at)
    monkeypatch.setattr(devices, "numbers", told.numbers)
    monkeypatch.setattr(devices, "holds_data", told.holds_data)
    monkeypatch.setattr(devices, "named", told.named)
    monkeypatch.setattr(devices, "digest", told.digest)
    monkeypatch.setattr(shared_devices, "hardware_of", told.hardware_of)
    monkeypatch.setattr(direct, "findings", told.findings)
    monkeypatch.setattr(copying, "copy_directly", copied)
    return told
