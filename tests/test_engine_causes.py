"""What an operator is told when a migration has left its way."""

from __future__ import annotations

import pytest

from fsm.engine.causes import of_trigger
from fsm.engine.plan import Request
from fsm.hypervisor.simulated import Moment
from fsm.machine.observation import Disk, Domain, DomainState, Host, Layer, Observation
from tests.simulation import DESTINATION, simulate

REQUEST = Request("web", destination_uri="qemu+tcp://b/system", source_uri="qemu+tcp://a/system")
HERE = Host(reachable=True)
GONE = Host(reachable=False)
WAITING = Host(reachable=True, domain=Domain(DomainState.PAUSED, "starting-up"))


@pytest.mark.parametrize(
    ("trigger", "seen", "words"),
    [
        ("lose-sight", Observation(HERE, GONE), ("destination qemu+tcp://b", "--fenced destination")),
        ("lose-sight", Observation(GONE, HERE), ("source qemu+tcp://a", "--fenced source")),
        ("lose-sight", Observation(HERE, HERE), ("nothing has changed",)),
        ("lose-sight", Observation(HERE, WAITING), ("waits for a migration", "/run/libvirt/qemu")),
        ("find-split-brain", Observation(HERE, HERE), ("both hosts run", "fsm retry m1")),
        ("find-unexpected", Observation(HERE, HERE), ("neither host", "--recorded-xml")),
        ("abort", Observation(HERE, HERE), ("abort was asked for",)),
    ],
)
def test_each_way_into_trouble_has_its_words(trigger: str, seen: Observation, words: tuple[str, ...]) -> None:
    cause = of_trigger(trigger, seen, REQUEST, "m1")
    assert all(word in f"{cause.what}; {cause.remedy}" for word in words)


def test_a_foreign_layer_is_named() -> None:
    disk = Disk("vdb", Layer.FOREIGN, ("/x.qcow2", "/vdb.qcow2"))
    seen = Observation(Host(reachable=True, domain=Domain(DomainState.RUNNING, disks=(disk,))), HERE)
    cause = of_trigger("find-unexpected", seen, REQUEST, "m1")
    assert "vdb" in cause.what
    assert "/x.qcow2 on /vdb.qcow2" in cause.what


async def test_a_full_file_system_is_named_with_what_to_do() -> None:
    simulation = await simulate()
    world = simulation.world

    def fill() -> None:
        simulation.write()
        world.set_free_bytes(DESTINATION, "/var/lib/libvirt/images", 0)

    world.at("start_commit", fill)
    result = await simulation.migrate()
    assert result.state == "stuck"
    assert "0 MiB free" in result.cause
    assert result.remedy.startswith("free space in /var/lib/libvirt/images")


async def test_an_unreachable_destination_is_named_with_both_ways_out() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.power_off(DESTINATION))
    result = await simulation.migrate()
    assert result.state == "stuck"
    assert DESTINATION in result.cause
    assert "--fenced destination" in result.remedy
