"""The bridge, the veth pairs and the addresses of a lab.

Labs take their networks from 10.213.0.0/16, a /29 each: one address for the root namespace, one for each
host.
"""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Collection, Iterable
from pathlib import Path

from fsm.lab.errors import LabError
from fsm.lab.process import run, wait_until
from fsm.lab.state import HostState, LabState

RANGE = ipaddress.IPv4Network("10.213.0.0/16")
PREFIX = 29
_SIZE = 2 ** (32 - PREFIX)


def choose_subnet(used: Iterable[str]) -> tuple[str, str, str, str]:
    """Pick a free /29 and three addresses in it, free of everything in ``used`` (networks or addresses).

    The pick is random: labs of another base directory do not share our lock, and are not likely to pick the
    same.
    """
    first_address = int(RANGE.network_address)
    free = set(range(RANGE.num_addresses // _SIZE))
    for network in (ipaddress.ip_network(text, strict=False) for text in used):
        if isinstance(network, ipaddress.IPv4Network) and network.overlaps(RANGE):
            begin = max(int(network.network_address) - first_address, 0)
            end = min(int(network.broadcast_address) - first_address, RANGE.num_addresses - 1)
            free -= set(range(begin // _SIZE, end // _SIZE + 1))
    if free:
        number = random.choice(list(free))  # noqa: S311 - nothing secret
        chosen = ipaddress.IPv4Network((first_address + number * _SIZE, PREFIX))
        root, first, second = (str(chosen[index]) for index in (1, 2, 3))
        return str(chosen), root, first, second
    raise LabError(f"no free network in {RANGE}", remedy="take down labs that are not needed: fsm lab down")


def used_networks() -> list[str]:
    """Every address and every route that this machine has; the default route is no network."""
    addresses = json.loads(run(["ip", "-j", "-4", "address", "show"]))
    routes = json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"]))
    found = [f"{entry['local']}/{entry['prefixlen']}" for link in addresses for entry in link["addr_info"]]
    return found + [route["dst"] for route in routes if route["dst"] != "default"]


def create_bridge(state: LabState) -> None:
    """Make the bridge with the root namespace's address, which also claims the network."""
    run(["ip", "link", "add", "name", state.bridge, "type", "bridge"])
    run(["ip", "address", "add", f"{state.address}/{PREFIX}", "dev", state.bridge])
    run(["ip", "link", "set", "dev", state.bridge, "up"])


def connect_host(state: LabState, host: HostState, holder: int) -> None:
    """Lead a veth pair from the bridge into the host's network namespace."""
    peer = ["peer", "name", "eth0", "netns", str(holder)]
    run(["ip", "link", "add", "name", host.link, "type", "veth", *peer])
    run(["ip", "link", "set", "dev", host.link, "master", state.bridge, "up"])
    inside = ["nsenter", "--target", str(holder), "--net", "--", "ip"]
    run([*inside, "link", "set", "dev", "lo", "up"])
    run([*inside, "address", "add", f"{host.address}/{PREFIX}", "dev", "eth0"])
    run([*inside, "link", "set", "dev", "eth0", "up"])


def set_isolated(hosts: Collection[HostState], *, isolated: bool) -> None:
    """Isolated ports reach the bridge itself but not each other: packets are dropped without a reset."""
    for host in hosts:
        run(["bridge", "link", "set", "dev", host.link, "isolated", "on" if isolated else "off"])


def set_link(host: HostState, *, up: bool) -> None:
    """Take one host off the network, or put it back."""
    run(["ip", "link", "set", "dev", host.link, "up" if up else "down"])


def link_up(host: HostState) -> bool:
    """Whether the host's link exists and is administratively up."""
    return "UP" in _flags(host.link)


def isolated(host: HostState) -> bool:
    """Whether the host's port on the bridge is isolated."""
    path = Path(f"/sys/class/net/{host.link}/brport/isolated")
    return path.exists() and path.read_text(encoding="ascii").strip() == "1"


def _flags(link: str) -> list[str]:
    if not exists(link):
        return []
    flags: list[str] = json.loads(run(["ip", "-j", "link", "show", "dev", link]))[0]["flags"]
    return flags


def exists(link: str) -> bool:
    """Whether the root namespace has an interface of that name."""
    return Path(f"/sys/class/net/{link}").exists()


def delete_links(state: LabState) -> None:
    """Remove what exists of the lab's interfaces; a veth takes its peer along."""
    for link in (*(host.link for host in state.hosts), state.bridge):
        _delete(link)


def _delete(link: str) -> None:
    if not exists(link):
        return
    try:
        run(["ip", "link", "delete", "dev", link])
    except LabError:
        # The kernel removes the veth of a network namespace that has ended, in its own time.
        wait_until(lambda: not exists(link), timeout=5, what=f"the removal of {link}")
