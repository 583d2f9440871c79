"""What was seen of a host and of a disk's chain."""

from __future__ import annotations

import pytest

from fsm.machine.observation import Host, Layer, layer_of
from tests.machine_helpers import running


@pytest.mark.parametrize(
    ("chain", "active", "layer"),
    [
        (("/b",), True, Layer.BASE),
        (("/b", "/golden"), True, Layer.BASE),
        (("/o", "/b"), True, Layer.OVERLAY),
        (("/o", "/b", "/golden"), True, Layer.OVERLAY),
        (("/o",), True, Layer.FOREIGN),
        (("/o",), False, Layer.OVERLAY),
        (("/b",), False, Layer.BASE),
        (("/o", "/x"), False, Layer.FOREIGN),
        (("/o", "/x", "/b"), True, Layer.FOREIGN),
        (("/x", "/o", "/b"), True, Layer.FOREIGN),
        (("/b", "/o"), True, Layer.FOREIGN),
        (("/x",), False, Layer.FOREIGN),
        ((), True, Layer.FOREIGN),
        ((), False, Layer.FOREIGN),
    ],
)
def test_layer_of(chain: tuple[str, ...], active: bool, layer: Layer) -> None:  # noqa: FBT001
    assert layer_of(chain, "/b", "/o", active=active) is layer


@pytest.mark.parametrize(
    "values", [{"reachable": True, "fenced": True}, {"reachable": False, "domain": running().domain}]
)
def test_a_host_that_contradicts_itself_can_not_be_made(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="host"):
        Host(**values)
