"""What a limited migration of several disks sends in all, counted on its host's link."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from fsm.engine.bandwidth import MIRROR_BURST_BYTES
from fsm.lab import DiskSpec, GuestSpec, Ring
from tests.faults.scene import memory_moves
from tests.lab_rig import LONG_LAB, Event, Rig

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

MIB = 1 << 20
ROLLED_BACK = 3
LIMIT_MIB_PER_S = 8
# The guest overwrites as much on each disk while it is copied: that is what the migration has to mirror.
RING = Ring(slots=640, stride_kib=64, interval_ms=0)
WEB = GuestSpec(
    name="web",
    disks=(
        DiskSpec(target="vda", size_mib=96, data_mib=32),
        DiskSpec(target="vdb", size_mib=96, data_mib=32),
    ),
    ring=RING,
)


def transferring(event: Event) -> bool:
    return event["event"] == "record" and (event["dest"], event["phase"]) == ("transferring", "outcome")


def migrating(event: Event) -> bool:
    return event["event"] == "record" and (event["name"], event["phase"]) == ("migrate", "intent")


def test_the_sum_of_all_mirrors_keeps_to_the_limit(rig: Rig) -> None:
    source = rig.lab.define_guest(rig.alpha, WEB).host
    link = next(one.link for one in rig.lab._state.hosts if one.name == source.name)
    sent = Path(f"/sys/class/net/{link}/statistics/rx_bytes")
    with rig.migrating(WEB.name, source, "--bandwidth", str(LIMIT_MIB_PER_S)) as running:
        assert running.until(transferring), running.events[-5:]
        source.virsh("suspend", "--domain", WEB.name)  # what it writes now would not be in the count
        assert running.until(migrating), running.events[-5:]
        began_bytes, began_s = int(sent.read_text()), time.monotonic()
        assert running.until(memory_moves), running.events[-5:]
        sent_bytes, took_s = int(sent.read_text()) - began_bytes, time.monotonic() - began_s
        running.send(signal.SIGINT)
        assert running.finish()[0] == ROLLED_BACK
    at_once = len(WEB.disks) * MIRROR_BURST_BYTES
    assert sent_bytes > 2 * at_once, "there was too little to tell"
    assert sent_bytes <= LIMIT_MIB_PER_S * MIB * took_s + at_once
