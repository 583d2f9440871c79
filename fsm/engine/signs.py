"""The signs of a migration on a host, by which the host's polkit rule knows what to refuse."""

from __future__ import annotations

from fsm.engine.plan import Plan
from fsm.hypervisor import polkit
from fsm.hypervisor.port import Host
from fsm.hypervisor.values import PoolState


async def put_up(host: Host, plan: Plan) -> None:
    """See that the signs stand, before the overlay does. Nothing on a host that has no rule."""
    if await _has_rule(host):
        for path in _paths(plan):
            if await host.storage.stat(path) is None:
                await host.storage.create_sparse(path, 0)


async def take_down(host: Host, plan: Plan) -> None:
    """See that the signs are gone, after the overlay is."""
    if await _has_rule(host):
        for path in _paths(plan):
            await host.storage.remove(path)


async def _has_rule(host: Host) -> bool:
    return await host.storage.pool_state(polkit.SIGNS) is not PoolState.NONE


def _paths(plan: Plan) -> tuple[str, ...]:
    files = [path for overlay in plan.overlays for path in overlay.files]
    return polkit.sign_paths(plan.domain_uuid, files)
