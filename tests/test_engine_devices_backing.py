"""Images on block devices that stand on a template, on simulated hosts."""

from __future__ import annotations

import pytest

from fsm.engine.plan import MergeChoice
from fsm.hypervisor.simulated import Moment, SimulatedDisk, files
from fsm.machine.observation import DomainState
from tests.lost_journals import HOSTS, die_after, lose_journal, settle, waiting
from tests.simulated_devices import (
    MERGES,
    MIB,
    NAMED,
    PLAIN,
    SIZE_BYTES,
    TEMPLATE_CONTENT,
    VOLUMES,
    Told,
    changed_devices,
    on_devices,
)
from tests.simulation import DESTINATION, IMAGES, SOURCE, Simulation, check_end

pytest_plugins = ["tests.device_fixtures"]

TEMPLATE = f"{IMAGES}/template.raw"


def on_template(told: Told, *, there: bool = False, **domain: object) -> Simulation:
    """A domain on devices, which stand on a template; ``there``: the destination has that as well."""
    simulation = on_devices(told, template=TEMPLATE, **domain)  # type: ignore[arg-type]
    if there:
        simulation.world.put_file(DESTINATION, TEMPLATE, TEMPLATE_CONTENT, size_bytes=8 * MIB)
        simulation.before.files[DESTINATION] = simulation.world.files(DESTINATION)
    return simulation


async def expect_on_template(simulation: Simulation) -> None:
    """The domain stands on it at the destination."""
    facts = await (await simulation.world.connect(DESTINATION)).domain(simulation.uuid)
    assert facts is not None
    wanted = [(path, TEMPLATE) for path in VOLUMES.values()]
    if facts.state is DomainState.SHUT_OFF:
        wanted = [chain[:1] for chain in wanted]  # type: ignore[misc]
    assert [disk.chain for disk in facts.disks] == wanted
    with simulation.world.changing() as state:
        found = files.existing(state, state.hosts[DESTINATION], TEMPLATE)
        assert files.read(found, 5 * MIB, 5) == b"block"


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUT_OFF])
@pytest.mark.parametrize("merge", MERGES)
async def test_it_stays_on_its_template(
    told: Told,
    merge: MergeChoice,
    state: DomainState,
    there: bool,  # noqa: FBT001
) -> None:
    """Which is there already, or is copied along."""
    simulation = on_template(told, there=there, state=state)
    result = await simulation.migrate(**{**PLAIN, "merge": merge})
    assert (result.state, result.cause) == ("committed", "")
    await expect_on_template(simulation)
    made = [call.arguments[0] for call in simulation.world.calls if call.name == "create_sparse"]
    assert (TEMPLATE in made) is not there
    await check_end(simulation, result)


async def test_it_is_not_flattened_onto_a_device(told: Told) -> None:
    simulation = on_template(told)
    simulation.world.state.hosts[DESTINATION].hypervisor_version = (10, 0, 0)
    result = await simulation.migrate(flatten=("vda",), **PLAIN)
    assert result.state == "refused"
    (finding,) = result.findings
    assert (finding.check, "it arrives on a block device" in finding.message) == ("flatten", True)


@pytest.mark.parametrize("there", [True, False])
async def test_one_that_both_hosts_share_stays_on_its_template(told: Told, there: bool) -> None:  # noqa: FBT001
    simulation = on_template(told, there=there, shared=True, cache="none")
    result = await simulation.migrate(**{**PLAIN, "disk_map": (), "merge": MergeChoice.AUTO})
    assert (result.state, result.cause) == ("committed", "")
    await expect_on_template(simulation)
    await check_end(simulation, result)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("moment", Moment)
async def test_whatever_fails_nothing_is_lost(told: Told, moment: Moment, there: bool) -> None:  # noqa: FBT001
    """What was brought along goes again, what was there stays."""
    simulation = on_template(told, there=there)
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate(**PLAIN)
    await check_end(simulation, result)
    assert changed_devices(simulation) == []


@pytest.mark.parametrize("count", range(4, 36, 4))
async def test_a_lost_journal_loses_nothing(told: Told, count: int) -> None:
    simulation = on_template(told, there=True)
    await die_after(simulation, count, **PLAIN)
    engine = await lose_journal(simulation)
    await settle(simulation)
    examined = await engine.examine(HOSTS)
    for case in waiting(examined):
        result = await (await engine.adopt(case, examined)).wait()
        assert result.state in ("committed", "rolled-back"), result
        await check_end(simulation, result)
    assert changed_devices(simulation) == []


@pytest.mark.parametrize(("path", "does"), [("/dev/vg/clone", "stands"), ("/dev/sdx", "may stand")])
async def test_what_a_domain_on_a_device_stands_on_by_now_is_not_removed(
    told: Told, path: str, does: str
) -> None:
    """Of one that is shut off the image alone tells; in ``/dev`` itself nobody looks into it."""
    simulation = on_template(told)
    world, uuid = simulation.world, simulation.uuid
    world.add_device(DESTINATION, path, SIZE_BYTES)

    def clone() -> None:
        disk = SimulatedDisk("vda", path, backing=(TEMPLATE, "raw"))
        world.add_domain(DESTINATION, "clone", [disk], state=DomainState.SHUT_OFF)
        world.kill_qemu(DESTINATION, uuid)

    world.at_moment(uuid, Moment.MEMORY, clone)
    result = await simulation.migrate(**{**PLAIN, "merge": MergeChoice.COMMIT})
    assert result.state == "rolled-back"
    assert TEMPLATE in world.files(DESTINATION)
    assert f"{DESTINATION}: {TEMPLATE}, on which domain clone {does}" in result.left_behind
    assert "/dev" not in [call.arguments[0] for call in world.calls if call.arguments]


async def test_a_template_that_is_a_device_is_refused(told: Told) -> None:
    simulation = on_devices(told)
    world = simulation.world
    for path in ("/dev/vg/other", "/dev/vg/template"):
        world.add_device(SOURCE, path, SIZE_BYTES)
    disk = SimulatedDisk("vda", "/dev/vg/other", backing=("/dev/vg/template", "raw"))
    world.add_domain(SOURCE, "other", [disk])
    result = await simulation.migrate(**{**PLAIN, "domain": "other", "disk_map": (NAMED[0],)})
    assert (result.state, {one.check for one in result.findings}) == ("refused", {"backing-file"})
    assert "/dev/vg/template" in result.findings[0].message


@pytest.mark.parametrize("uri", [SOURCE, DESTINATION])
async def test_nor_is_a_link_to_a_device_taken_for_a_file(told: Told, uri: str) -> None:
    simulation = on_template(told, there=True)
    told.changes[uri, TEMPLATE] = {}
    result = await simulation.migrate(**PLAIN)
    assert (result.state, {one.check for one in result.findings}) == ("refused", {"backing-file"})
    assert "which is a block device" in result.findings[0].message
