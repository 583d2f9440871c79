"""The engine on simulated hosts: the whole path, and one failure at every call of the port."""

from __future__ import annotations

import asyncio

import pytest

from fsm.errors import BadInput, HostUnreachable
from fsm.hypervisor.simulated import Moment
from fsm.hypervisor.values import Tuning, Wiring
from tests.simulation import DESTINATION, SOURCE, check_end, numbered_calls, simulate

THE_PATH = ["planned", "snapshotted", "transferring", "committing-dest", "committed"]


async def test_a_domain_with_snapshots_migrates() -> None:
    simulation = await simulate()
    result = await simulation.migrate()
    assert (result.state, result.cause) == ("committed", "")
    assert simulation.path == THE_PATH
    assert simulation.written > 10
    await check_end(simulation, result)


async def test_every_intent_has_its_outcome_and_stands_before_it() -> None:
    simulation = await simulate()
    result = await simulation.migrate()
    records = simulation.journal.records(result.migration)
    begun: list[tuple[str, str]] = []
    for record in records:
        if record.phase == "intent":
            begun.append((record.step, record.name))
        elif record.step != "action":
            assert begun.pop() == (record.step, record.name)
    assert begun == []


async def test_the_journal_has_what_a_host_is_about_to_lose() -> None:
    """The snapshots' metadata is durable before the call that drops it."""
    simulation = await simulate()
    seen: list[bool] = []

    def look() -> None:
        (header,) = simulation.engine.migrations()
        saved = [r for r in simulation.journal.records(header.migration) if r.name == "save-bases"]
        seen.append([s["name"] for s in saved[0].data["bases"]["snapshots"]] == ["s1", "s2", "s3"])

    simulation.world.at("forget_snapshots", look)
    await simulation.migrate()
    assert seen == [True]


async def test_abort_while_copying_rolls_back() -> None:
    simulation = await simulate()
    handle = None

    def abort() -> None:
        assert handle is not None
        handle.abort()

    simulation.world.at("make_durable", lambda: asyncio.get_running_loop().call_soon(abort))
    handle = await simulation.start()
    result = await handle.wait()
    assert result.state == "rolled-back"
    assert result.cause == "an abort was asked for"
    await check_end(simulation, result)


async def test_abort_while_memory_moves_rolls_back() -> None:
    simulation = await simulate()
    handle = await simulation.start()
    simulation.world.at_moment(simulation.uuid, Moment.MEMORY, handle.abort)
    result = await handle.wait()
    assert result.state == "rolled-back"
    await check_end(simulation, result)


async def test_abort_behind_the_point_of_no_return_goes_on() -> None:
    simulation = await simulate()
    handle = await simulation.start()
    simulation.world.at_moment(simulation.uuid, Moment.COMMIT, handle.abort)
    result = await handle.wait()
    assert result.state == "committed"
    await check_end(simulation, result)


@pytest.mark.parametrize("moment", [Moment.MIRROR, Moment.MEMORY])
async def test_qemu_killed_at_the_destination_rolls_back(moment: Moment) -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, moment, lambda: world.kill_qemu(DESTINATION, uuid))
    result = await simulation.migrate()
    assert result.state == "rolled-back"
    assert result.cause
    await check_end(simulation, result)


async def test_no_space_for_the_commit_is_stuck_and_tried_again_by_policy() -> None:
    simulation = await simulate()
    world = simulation.world
    images = "/var/lib/libvirt/images"

    def fill() -> None:
        simulation.write()
        world.set_free_bytes(DESTINATION, images, 0)
        # The operator frees space while the migration waits in stuck.
        world.clock.after(40, lambda: world.set_free_bytes(DESTINATION, images, 1 << 40))

    world.at("start_commit", fill)
    result = await simulation.migrate()
    assert result.state == "committed"
    assert simulation.path[-3:] == ["stuck", "committing-dest", "committed"]
    await check_end(simulation, result)


async def test_a_guest_that_powers_off_while_copying_is_rolled_back_shut_off() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.power_off_guest(uuid))
    result = await simulation.migrate()
    assert result.state == "rolled-back"
    assert world.active_at(uuid) == []
    await check_end(simulation, result)


async def test_an_operators_pause_stays() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at("make_durable", lambda: world.pause(SOURCE, uuid))
    result = await simulation.migrate()
    assert result.state == "committed"
    assert world.running_at(uuid) == []
    assert world.active_at(uuid) == [DESTINATION]
    await check_end(simulation, result)


async def test_the_destination_is_gone_for_good() -> None:
    simulation = await simulate()
    world, uuid = simulation.world, simulation.uuid
    world.at_moment(uuid, Moment.MEMORY, lambda: world.power_off(DESTINATION))
    result = await simulation.migrate()
    assert result.state == "stuck", "nothing is committed while the other side is unknown"
    assert not [call for call in world.calls if call.name == "start_commit"]
    assert world.running_at(uuid) == [SOURCE]
    await check_end(simulation, result)
    world.power_on(DESTINATION)
    resumed = await (await simulation.engine.resume(result.migration)).wait()
    assert resumed.state == "rolled-back"
    await check_end(simulation, resumed)


async def test_two_migrations_of_one_domain() -> None:
    simulation = await simulate()
    first = await simulation.start()
    results = [await (await simulation.engine.start(simulation.request())).wait(), await first.wait()]
    assert sorted(result.state for result in results) == ["committed", "refused"]


async def test_bad_requests_touch_nothing() -> None:
    simulation = await simulate()
    for changes in (
        {"domain": ""},
        {"source_uri": "nonsense"},
        {"connections": 0},
        {"bandwidth_mib_per_s": -1},
        {"timeout_s": -1},
        {"tuning": Tuning(max_downtime_ms=-1)},
        {"tuning": Tuning(max_downtime_ms=2_000_001)},
        {"tuning": Tuning(parallel_connections=2)},
        {"tuning": Tuning(parallel=True, parallel_connections=256)},
        {"tuning": Tuning(parallel=True, compress=True)},
        {"tuning": Tuning(comp_methods=("mt",))},
        {"tuning": Tuning(compress=True, comp_methods=("zstd",))},
        {"tuning": Tuning(auto_converge_initial=20)},
        {"tuning": Tuning(auto_converge=True, auto_converge_increment=100)},
        {"tuning": Tuning(compress=True, comp_methods=("mt",), comp_mt_level=10)},
        {"tuning": Tuning(compress=True, comp_methods=("mt",), comp_xbzrle_cache=1 << 20)},
        {"wiring": Wiring(tls_destination="beta")},
        {"wiring": Wiring(disks_port=65536)},
        {"wiring": Wiring(disks_port=1, disks_uri="tcp://beta:1")},
    ):
        with pytest.raises(BadInput):
            await simulation.migrate(**changes)
    assert simulation.world.calls == []
    assert simulation.engine.migrations() == []


async def _calls_of_a_good_migration() -> list[tuple[str, str, int]]:
    """Every call of the port that a migration makes: name, host, and how many came before of that kind."""
    simulation = await simulate()
    await simulation.migrate()
    return [number for _, number in numbered_calls(simulation)]


CALLS = asyncio.run(_calls_of_a_good_migration())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "host", "nth"), CALLS)
async def test_one_failing_call_loses_nothing(name: str, host: str, nth: int, when: str) -> None:
    """A call fails without effect, or its answer gets lost: the migration ends right all the same."""
    simulation = await simulate()
    simulation.world.fail(name, host=host, nth=nth, when=when)
    result = await simulation.migrate()
    assert result.state in ("committed", "rolled-back", "refused"), result
    await check_end(simulation, result)


@pytest.mark.parametrize(("name", "host", "nth"), CALLS)
async def test_a_host_that_goes_away_for_a_while_loses_nothing(name: str, host: str, nth: int) -> None:
    """From some call on, the host does not answer; some calls later it is back."""
    simulation = await simulate()
    error = lambda: HostUnreachable("gone", host=host, call=name)  # noqa: E731
    simulation.world.fail(name, host=host, nth=nth, times=4, error=error)
    result = await simulation.migrate()
    assert result.state in ("committed", "rolled-back", "refused"), result
    await check_end(simulation, result)


async def test_a_finding_names_its_host_once() -> None:
    simulation = await simulate()
    simulation.world.fail("identity", host=DESTINATION, times=None)
    result = await simulation.migrate()
    assert result.state == "refused"
    assert result.cause.count(DESTINATION) == len(result.findings)
