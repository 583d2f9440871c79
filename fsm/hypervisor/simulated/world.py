"""The simulated world: what tests make, hand to an engine as its ``Connector``, and shake."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from attrs import define

from fsm.errors import BadInput
from fsm.hypervisor.port import DataChannel, Host
from fsm.hypervisor.simulated import snapshots
from fsm.hypervisor.simulated.builder import Builder
from fsm.hypervisor.simulated.events import Events
from fsm.hypervisor.simulated.host import SimulatedHost
from fsm.hypervisor.simulated.storage import SimulatedChannel
from fsm.hypervisor.values import Overlay


@define(eq=False)
class SimulatedWorld(Builder, Events):
    """Hosts, guests and the network between them.

        world = SimulatedWorld()
        world.add_host("sim://a/system")
        world.add_host("sim://b/system")
        uuid = world.add_domain("sim://a/system", "web", disks=("vda", "vdb"), snapshots={"s1": None})
        host = await world.connect("sim://a/system")

    ``state`` is everything that can be told apart: copy it with ``copy.deepcopy``, make another world of the
    copy with ``SimulatedWorld(state=...)``. Use one world in one event loop; channels may be used in threads.
    """

    def check(self, uri: str) -> None:
        """See ``fsm.hypervisor.port.Connector``."""
        _check(uri)

    async def connect(self, uri: str) -> Host:
        """See ``fsm.hypervisor.port.Connector``."""
        _check(uri)
        await asyncio.sleep(0)
        self.perform(uri, "connect", (), lambda _state, _host: None)
        await asyncio.sleep(0)
        return SimulatedHost(uri, self)

    async def save_snapshot(self, uri: str, overlay: Overlay, name: str, path: str) -> None:
        """See ``fsm.images.rescue``: these images keep their content in a place of their own."""
        await asyncio.sleep(0)
        self.perform(
            uri,
            "save_snapshot",
            (overlay, name, path),
            lambda state, host: snapshots.save(state, host, overlay, name, path),
        )

    def open_channel(self, uri: str) -> DataChannel:
        """See ``fsm.hypervisor.port.Connector``."""
        _check(uri)
        self.perform(uri, "open_channel", (), lambda _state, _host: None)
        return SimulatedChannel(uri, self)


def _check(uri: str) -> None:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise BadInput(f"{uri!r} is no usable libvirt URI: {error}") from error
    if not parts.scheme or not parts.path:
        raise BadInput(f"{uri!r} is no usable libvirt URI", remedy="see https://libvirt.org/uri.html")
