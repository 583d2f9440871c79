"""A simulated hypervisor that keeps real state, for the tests of this package and of those who embed it.

``SimulatedWorld`` is a ``fsm.hypervisor.port.Connector``. Its hosts have files, file systems that get full,
backing chains, internal snapshots inside the images and their metadata at the host, block jobs and
migrations that progress, and guests that write. They refuse what libvirt refuses.

**Time.** Nothing happens by the clock. A job makes one step whenever somebody looks at its domain:
``domain``, ``migration_progress``, ``Watch.changed``, and each turn of a waiting ``migrate``. ``changed``
therefore returns promptly. ``pace=Pace.MANUAL`` leaves all steps to ``world.tick()``. ``world.clock`` counts
simulated seconds and fits where the engine takes a clock, so that delays and timeouts pass at once too.

**Faults.** ``world.fail("pivot")`` makes the next call of a port method fail before it has an effect, or,
with ``when="after"``, lose its answer. ``world.at`` and ``world.at_moment`` have something happen at a call,
or at a moment in the life of a job: ``world.at_moment(uuid, Moment.MEMORY, lambda: world.cut(a, b))``.
``world.calls`` lists all calls. Accidents and operators are methods of the world.
"""

from __future__ import annotations

from fsm.hypervisor.simulated.clock import SimulatedClock
from fsm.hypervisor.simulated.core import Moment, Pace
from fsm.hypervisor.simulated.documents import SimulatedDisk
from fsm.hypervisor.simulated.faults import CallRecord, Failpoint, When
from fsm.hypervisor.simulated.guest import GuestStopped, LostWrite
from fsm.hypervisor.simulated.state import Denied, WorldState, key
from fsm.hypervisor.simulated.world import SimulatedWorld

__all__ = [
    "CallRecord",
    "Denied",
    "Failpoint",
    "GuestStopped",
    "LostWrite",
    "Moment",
    "Pace",
    "SimulatedClock",
    "SimulatedDisk",
    "SimulatedWorld",
    "When",
    "WorldState",
    "key",
]
