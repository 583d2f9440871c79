"""What can strike a migration at any moment, on simulated hosts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from fsm.engine.space import MARGIN_LEAST_BYTES
from fsm.hypervisor.simulated import Denied, SimulatedWorld
from tests.lives import Life
from tests.simulation import DESTINATION, IMAGES, SOURCE, Simulation

# Shorter than it takes a host to find its peer dead, and longer.
SHORT_CUT_S, LONG_CUT_S = 0.3, 60.0
SHORT_S = 5.0

Strike = Callable[[SimulatedWorld, str], None]


def _after(seconds: float, do: Strike, undo: Strike) -> Strike:
    """``do`` now, ``undo`` after so many seconds; before that only if the operator comes first."""

    def strike(world: SimulatedWorld, uuid: str) -> None:
        do(world, uuid)
        world.clock.after(seconds, lambda: undo(world, uuid))

    return strike


def _at(host: str, method: str) -> Strike:
    """A method of the world that takes a host."""
    return lambda world, _uuid: getattr(world, method)(host)


def _to(host: str, method: str) -> Strike:
    """A method of the world that takes a host and a domain; nothing happens where there is no such domain."""

    def strike(world: SimulatedWorld, uuid: str) -> None:
        with suppress(Denied):
            getattr(world, method)(host, uuid)

    return strike


def _everywhere(method: str) -> Strike:
    """An operator does that to the domain at whichever host it has a process."""

    def strike(world: SimulatedWorld, uuid: str) -> None:
        for host in world.active_at(uuid):
            _to(host, method)(world, uuid)

    return strike


def _fill(host: str, free_bytes: int = 0) -> Strike:
    return lambda world, _uuid: world.set_free_bytes(host, IMAGES, free_bytes)


def _guest(method: str) -> Strike:
    return lambda world, uuid: getattr(world, method)(uuid)


def _cut(world: SimulatedWorld, _uuid: str) -> None:
    world.cut(SOURCE, DESTINATION)


def _mend(world: SimulatedWorld, _uuid: str) -> None:
    world.mend(SOURCE, DESTINATION)


def _both_out_of_reach(world: SimulatedWorld, _uuid: str) -> None:
    world.disconnect(SOURCE)
    world.disconnect(DESTINATION)


def _on_hosts() -> dict[str, Strike]:
    found: dict[str, Strike] = {}
    for name, host in (("source", SOURCE), ("destination", DESTINATION)):
        stop, start = _at(host, "stop_libvirtd"), _at(host, "start_libvirtd")
        out, back = _at(host, "disconnect"), _at(host, "reconnect")
        off, on = _at(host, "power_off"), _at(host, "power_on")
        found |= {
            f"{name} libvirtd killed, up again in 5 s": _after(SHORT_S, stop, start),
            f"{name} libvirtd killed, up again at once": _at(host, "restart_libvirtd"),
            f"{name} libvirtd killed, down until the operator comes": stop,
            f"{name} QEMU killed": _to(host, "kill_qemu"),
            f"{name} out of reach for 5 s": _after(SHORT_S, out, back),
            f"{name} out of reach for 60 s": _after(LONG_CUT_S, out, back),
            f"{name} out of reach until the operator comes": out,
            f"{name} without power for 60 s": _after(LONG_CUT_S, off, on),
            f"{name} full for 5 s": _after(SHORT_S, _fill(host), _fill(host, 1 << 40)),
            f"{name} full until the operator comes": _fill(host),
            f"{name} nearly full until the operator comes": _fill(host, MARGIN_LEAST_BYTES // 2),
        }
    return found


ACCIDENTS: dict[str, Strike] = {
    **_on_hosts(),
    "destination libvirtd killed, leaves a ghost": _to(DESTINATION, "leave_ghost"),
    "network cut for a moment": _after(SHORT_CUT_S, _cut, _mend),
    "network cut for 60 s": _after(LONG_CUT_S, _cut, _mend),
    "network cut until the operator comes": _cut,
    "both hosts out of reach until the operator comes": _both_out_of_reach,
    "guest powers off": _guest("power_off_guest"),
    "guest reboots": _guest("reboot_guest"),
    "guest panics": _guest("crash_guest"),
    "operator pauses the domain": _everywhere("pause"),
    "operator destroys the domain": _everywhere("destroy"),
    "operator aborts libvirt's job": _everywhere("abort_job"),
}

Happening = Callable[[Simulation, Life], None]


def _happen(strike: Strike, simulation: Simulation, _life: Life) -> None:
    strike(simulation.world, simulation.uuid)


FAULTS: dict[str, Happening] = {
    **{name: partial(_happen, strike) for name, strike in ACCIDENTS.items()},
    "fsm abort": lambda _simulation, life: life.abort(),
    "journal's disk full": lambda _simulation, life: life.fill_journal(),
}
