"""A domain that has another name at the destination, on simulated hosts."""

from __future__ import annotations

import pytest

from fsm.engine.plan import MergeChoice
from fsm.errors import BadInput
from fsm.hypervisor.simulated import Moment
from fsm.machine.observation import DomainState
from tests.simulation import DESTINATION, IMAGES, RENAMED, SOURCE, check_end, simulate

OTHER_UUID = "8a3e1d64-02c4-4f37-9a2e-1b5d7c9e0f11"
WAYS = [
    pytest.param(DomainState.RUNNING, MergeChoice.COMMIT, id="commit"),
    pytest.param(DomainState.RUNNING, MergeChoice.MIRROR, id="mirror"),
    pytest.param(DomainState.SHUT_OFF, MergeChoice.AUTO, id="shut-off"),
]


@pytest.mark.parametrize(("state", "merge"), WAYS)
async def test_a_domain_has_another_name_there(state: DomainState, merge: MergeChoice) -> None:
    simulation = await simulate(state=state)
    # Its own name is another's there, who stays what he is.
    other = simulation.world.add_domain(DESTINATION, "web", disks=(), uuid=OTHER_UUID)
    result = await simulation.migrate(merge=merge, destination_name=RENAMED)
    assert (result.state, result.cause, result.domain) == ("committed", "", "web")
    assert simulation.planned.get("destination_name") == RENAMED
    destination = await simulation.world.connect(DESTINATION)
    assert [await destination.resolve(name) for name in (RENAMED, "web")] == [simulation.uuid, other]
    await check_end(simulation, result)
    if state is DomainState.RUNNING:
        for name in ("s1", "s2", "s3"):
            simulation.world.revert(DESTINATION, simulation.uuid, name)


@pytest.mark.parametrize("moment", [Moment.MIRROR, Moment.MEMORY])
async def test_a_failed_one_keeps_its_name(moment: Moment) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(destination_name=RENAMED)
    assert result.state == "rolled-back"
    await check_end(simulation, result)
    assert await (await world.connect(SOURCE)).resolve("web") == uuid


async def test_a_name_that_somebody_has_is_refused() -> None:
    simulation = await simulate()
    simulation.world.add_domain(DESTINATION, RENAMED, disks=(), uuid=OTHER_UUID)
    result = await simulation.migrate(destination_name=RENAMED)
    assert [(one.check, RENAMED in one.message) for one in result.findings] == [("domain-exists", True)]


async def test_the_name_that_it_has_is_no_other() -> None:
    simulation = await simulate()
    result = await simulation.migrate(destination_name="web")
    assert (result.state, simulation.planned.get("destination_name")) == ("committed", None)


@pytest.mark.parametrize("name", ["a/b", "a\nb", " ", "\0"])
async def test_what_is_no_name_is_bad_input(name: str) -> None:
    simulation = await simulate()
    with pytest.raises(BadInput, match="--dname"):
        await simulation.start(destination_name=name)


async def test_the_guard_knows_it_by_both_names() -> None:
    simulation = await simulate()
    world = simulation.world
    world.at("start_commit", lambda: world.set_free_bytes(DESTINATION, IMAGES, 0), host=DESTINATION)
    result = await simulation.migrate(destination_name=RENAMED)
    assert result.state == "stuck"
    verdicts = {
        name: simulation.engine.guard.permits(name, "snapshot-create-internal").permitted
        for name in ("web", RENAMED, "other", "")
    }
    assert verdicts == {"web": False, RENAMED: False, "other": True, "": True}
