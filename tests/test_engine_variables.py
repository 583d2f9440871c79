"""UEFI variables of a domain that is shut off, on simulated hosts: their file moves with the images."""

from __future__ import annotations

import pytest

from fsm.engine.plan import MergeChoice
from fsm.hypervisor import firmware_xml
from fsm.hypervisor.simulated import domains, files, images
from fsm.machine.observation import DomainState
from tests.firmware import CONTENT, NAMED, TEMPLATE, VARIABLES, content, described, firm
from tests.lost_journals import adopt, check_adopted, die_after, lose_journal
from tests.simulation import (
    DESTINATION,
    RENAMED,
    SHARED,
    SOURCE,
    Before,
    Simulation,
    check_end,
)

AUTO = {"merge": MergeChoice.AUTO}


def write(simulation: Simulation, uri: str) -> None:
    with simulation.world.changing() as state:
        files.write(state, state.hosts[uri], VARIABLES, 0, b"VARIABLES")


def start(simulation: Simulation, uri: str) -> None:
    with simulation.world.changing() as state:
        host = state.hosts[uri]
        domains.start_paused(state, host, simulation.uuid)
        domains.resume(state, host, simulation.uuid)


async def refused(simulation: Simulation, **changes: object) -> list[tuple[str, str]]:
    """The reasons against it; nothing was made."""
    result = await simulation.migrate(**AUTO, **changes)
    assert result.state == "refused", result
    await check_end(simulation, result)
    return [(finding.check, finding.message) for finding in result.findings]


@pytest.mark.parametrize("verify", ["table", "full"])
async def test_they_move_and_the_domain_starts_with_them(verify: str) -> None:
    simulation = await firm()
    result = await simulation.migrate(verify=verify, **AUTO)
    assert (result.state, result.cause, result.left_behind) == ("committed", "", ())
    assert [content(simulation, uri) for uri in (SOURCE, DESTINATION)] == [CONTENT, CONTENT]
    await check_end(simulation, result)
    start(simulation, DESTINATION)
    assert content(simulation, DESTINATION) == CONTENT


@pytest.mark.parametrize("there", [CONTENT, b"another's"], ids=["alike", "another"])
async def test_a_file_of_that_name_is_not_overwritten(there: bytes) -> None:
    """Nor taken for its own: who starts with the same variables need not be the same domain."""
    simulation = await firm()
    simulation.world.put_file(DESTINATION, VARIABLES, there)
    simulation.before = Before.of(simulation.world, simulation.uuid)
    ((check, message),) = await refused(simulation)
    assert (check, VARIABLES in message) == ("path-taken", True)
    assert content(simulation, DESTINATION) == there


async def test_one_that_appears_meanwhile_is_left_alone() -> None:
    simulation = await firm()
    world = simulation.world
    world.at("create_sparse", lambda: world.put_file(DESTINATION, VARIABLES, b"another's"), host=DESTINATION)
    result = await simulation.migrate(**AUTO)
    assert result.state == "rolled-back"
    assert content(simulation, DESTINATION) == b"another's"


async def test_of_a_domain_that_was_never_started_there_is_none_to_copy() -> None:
    simulation = await firm(path="")
    result = await simulation.migrate(**AUTO)
    assert result.state == "committed"
    assert content(simulation, DESTINATION) is None
    await check_end(simulation, result)
    start(simulation, DESTINATION)
    assert content(simulation, DESTINATION) == b"template"


async def test_one_that_was_never_started_does_not_get_anothers() -> None:
    simulation = await firm(path="")
    simulation.world.put_file(DESTINATION, VARIABLES, b"another's")
    simulation.before = Before.of(simulation.world, simulation.uuid)
    ((check, _message),) = await refused(simulation)
    assert check == "path-taken"


async def test_a_file_that_is_libvirts_choice_stays_the_domains_under_another_name() -> None:
    simulation = await firm("</os>")
    described(simulation, "<os>", "<os firmware='efi'>")
    result = await simulation.migrate(destination_name=RENAMED, **AUTO)
    assert (result.state, result.cause) == ("committed", "")
    assert content(simulation, DESTINATION) == CONTENT
    xml = await (await simulation.world.connect(DESTINATION)).persistent_xml(simulation.uuid)
    assert f"<name>{RENAMED}</name>" in xml
    assert firmware_xml.variables_file(xml) == VARIABLES


@pytest.mark.parametrize(
    ("nvram", "what"),
    [
        ("<nvram type='network'><source protocol='iscsi' name='v'/></nvram></os>", "type 'network'"),
        ("<nvram type='block'><source dev='/dev/vg/v'/></nvram></os>", "type 'block'"),
        ("<nvram>/dev/vg/v</nvram></os>", "type 'file'"),
        (f"<nvram format='qcow2'>{VARIABLES}</nvram></os>", "no qcow2 image"),
    ],
)
async def test_what_is_not_copied_is_refused_by_name(nvram: str, what: str) -> None:
    simulation = await firm(nvram)
    ((check, message),) = await refused(simulation)
    assert (check, what in message) == ("state-file", True)


async def test_variables_on_a_backing_file_are_refused_by_name() -> None:
    simulation = await firm(f"<nvram format='qcow2'>{VARIABLES}</nvram></os>", "")
    with simulation.world.changing() as state:
        images.create(state, state.hosts[SOURCE], VARIABLES, 1 << 20, (TEMPLATE, "raw"))
    ((check, message),) = await refused(simulation)
    assert (check, VARIABLES in message) == ("state-file", True)


async def test_a_directory_that_is_missing_is_named() -> None:
    simulation = await firm("<nvram>/srv/nvram/web.fd</nvram></os>", "")
    simulation.world.add_directory(SOURCE, "/srv/nvram")
    simulation.world.put_file(SOURCE, "/srv/nvram/web.fd", CONTENT)
    ((check, message),) = await refused(simulation)
    assert (check, "/srv/nvram" in message) == ("directory-missing", True)


@pytest.mark.parametrize("call", ["create_sparse", "make_durable", "forget_snapshots"])
async def test_variables_that_change_meanwhile_take_the_migration_back(call: str) -> None:
    simulation = await firm()
    host = SOURCE if call == "forget_snapshots" else DESTINATION
    simulation.world.at(call, lambda: write(simulation, SOURCE), host=host)
    result = await simulation.migrate(**AUTO)
    assert result.state == "rolled-back"
    assert VARIABLES in result.cause
    await check_end(simulation, result)


async def test_a_copy_that_is_another_is_noticed() -> None:
    """A raw file has no table that could be compared."""
    simulation = await firm()

    def write_once_copied() -> None:
        if content(simulation, DESTINATION) == CONTENT:
            write(simulation, DESTINATION)

    for nth in range(1, 60):
        simulation.world.at("stat", write_once_copied, host=DESTINATION, nth=nth)
    result = await simulation.migrate(**AUTO)
    assert result.state == "rolled-back", result
    assert VARIABLES in result.cause
    await check_end(simulation, result)


async def test_a_file_that_both_hosts_see_is_left_where_it_is() -> None:
    path = f"{SHARED}/web.fd"
    simulation = await firm(f"<nvram>{path}</nvram></os>", path)
    result = await simulation.migrate(**AUTO)
    assert (result.state, result.cause) == ("committed", "")
    changes = [call for call in simulation.world.calls if call.name in ("create_sparse", "remove", "writer")]
    assert path not in {str(call.arguments[0]) for call in changes}
    await check_end(simulation, result)


async def test_a_rollback_leaves_what_another_domain_uses_by_now() -> None:
    simulation = await firm()
    world = simulation.world

    def meddle() -> None:
        uuid = world.add_domain(DESTINATION, "other", state=DomainState.SHUT_OFF)
        with world.changing() as state:
            record = state.hosts[DESTINATION].domains[uuid]
            record.definition = (record.definition or "").replace("</os>", NAMED)
        start(simulation, SOURCE)

    world.at("forget_snapshots", meddle, host=SOURCE)
    result = await simulation.migrate(**AUTO)
    assert result.state == "rolled-back"
    assert content(simulation, DESTINATION) == CONTENT
    (left,) = result.left_behind
    assert f"{VARIABLES}, on which domain other stands" in left


@pytest.mark.parametrize("path", [VARIABLES, ""], ids=["there", "never-started"])
@pytest.mark.parametrize("count", range(1, 40, 2))
async def test_a_journal_lost_after_any_record_leaves_no_copy_unseen(count: int, path: str) -> None:
    """A marker's word is not enough to remove it."""
    simulation = await firm(path=path)
    await die_after(simulation, count)
    result = await adopt(await lose_journal(simulation))
    assert content(simulation, SOURCE) == (CONTENT if path else None)
    if result is not None and result.state == "committed":
        assert content(simulation, DESTINATION) == (CONTENT if path else None)
    elif result is not None and (copied := content(simulation, DESTINATION)) is not None:
        assert copied in (CONTENT, bytes(len(CONTENT)))
        told = f"{DESTINATION}: {VARIABLES}, which may be a copy of this migration or not"
        assert result.left_behind == (told,)
        simulation.before.files[DESTINATION].append(VARIABLES)
        simulation.before.files[DESTINATION].sort()
    await check_adopted(simulation, result)


async def test_raw_ones_stay_at_the_source_and_are_told() -> None:
    """Nobody has flushed the copy."""
    simulation = await firm()
    result = await simulation.migrate(delete_source=True, **AUTO)
    assert result.state == "committed"
    assert content(simulation, SOURCE) == CONTENT
    (left,) = result.left_behind
    assert left.startswith(f"{SOURCE}: {VARIABLES} (")
    assert "stable storage" in left


@pytest.mark.parametrize("used", [False, True])
async def test_what_has_reached_stable_storage_goes_for_those_who_ask_for_it(*, used: bool) -> None:
    simulation = await firm(f"<nvram format='qcow2'>{VARIABLES}</nvram></os>", "")
    world = simulation.world
    with world.changing() as state:
        images.create(state, state.hosts[SOURCE], VARIABLES, 1 << 20)
    if used:
        uuid = world.add_domain(SOURCE, "other", state=DomainState.SHUT_OFF)
        with world.changing() as state:
            record = state.hosts[SOURCE].domains[uuid]
            record.definition = (record.definition or "").replace("</os>", NAMED)
    result = await simulation.migrate(delete_source=True, **AUTO)
    assert result.state == "committed"
    assert content(simulation, DESTINATION) is not None
    assert (content(simulation, SOURCE) is not None) == used
    assert ["domain other uses it" in left for left in result.left_behind] == [True] * used
    await check_end(simulation, result)
