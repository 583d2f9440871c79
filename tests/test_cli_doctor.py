"""``fsm doctor`` on simulated hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsm.engine import preparation
from fsm.hypervisor.simulated import SimulatedWorld
from tests.cli_rig import Cli, cli, lines_of, world
from tests.simulation import DESTINATION, SOURCE

__all__ = ["cli", "world"]

OK, UNEXPECTED, BAD_INPUT, ROLLED_BACK, STUCK, OTHER = 0, 1, 2, 3, 4, 5
HOSTS = ("--host", SOURCE, "--host", DESTINATION)


def _strand(cli: Cli, world: SimulatedWorld) -> None:
    """A migration that waits on its overlay: its commit fails, in whatever way it is tried."""
    world.fail("make_durable", times=None)
    world.fail("start_commit", times=None)
    assert cli.migrate().exit_code == STUCK
    world.faults.clear()


def test_nothing_to_tell(cli: Cli) -> None:
    result = cli("doctor", *HOSTS)
    assert result.exit_code == OK
    for words in (SOURCE, DESTINATION, "libvirt 9.0.0", "QEMU 7.2.0", "net.ipv4.tcp_retries2", "should be 5"):
        assert words in result.stdout
    assert "what to do" not in result.stdout


def test_hosts_are_named_by_the_user(cli: Cli) -> None:
    assert cli("doctor").exit_code == BAD_INPUT
    assert cli("doctor", "--host", "nonsense").exit_code == BAD_INPUT


def test_what_waits_is_explained_and_resumed(cli: Cli, world: SimulatedWorld) -> None:
    _strand(cli, world)
    result = cli("doctor", *HOSTS)
    assert result.exit_code == STUCK
    assert "domain web: " in result.stdout
    assert "what to do: fsm resume " in result.stdout
    adopted = cli("doctor", *HOSTS, "--adopt")
    assert adopted.exit_code == ROLLED_BACK, adopted.output
    assert "stuck -> rolling-back-source (retry)" in adopted.stdout
    assert cli("doctor", *HOSTS).exit_code == OK


@pytest.mark.parametrize("as_json", [False, True], ids=["lines", "json"])
def test_without_its_journal_it_is_adopted(cli: Cli, world: SimulatedWorld, as_json: bool) -> None:  # noqa: FBT001  # pytest's
    _strand(cli, world)
    cli.journal.unlink()
    words = ["--json"] if as_json else []
    found = cli("doctor", *HOSTS, *words)
    assert found.exit_code == STUCK
    assert "--adopt" in found.stdout
    adopted = cli("doctor", *HOSTS, "--adopt", *words)
    assert adopted.exit_code == ROLLED_BACK, adopted.output
    if as_json:
        host, domain, *_ = lines_of(adopted)
        assert (host["event"], host["host"]) == ("host", SOURCE)
        assert (domain["event"], domain["kind"], domain["waits"]) == ("domain", "lost", True)
        assert (lines_of(adopted)[-1]["event"], lines_of(adopted)[-1]["state"]) == ("result", "rolled-back")
    else:
        assert "planned -> stuck (adopt)" in adopted.stdout
    assert cli("doctor", *HOSTS).exit_code == OK
    (listed,) = lines_of(cli("list", "--json"))
    assert (listed["domain"], listed["state"]) == ("web", "rolled-back")


def test_what_is_not_adopted_still_waits(cli: Cli, world: SimulatedWorld) -> None:
    _strand(cli, world)
    stranger = Cli(cli.journal.with_name("other.db"), world)
    result = stranger("doctor", *HOSTS, "--adopt")
    assert result.exit_code == STUCK
    assert f"is not adopted: its journal {cli.journal} is there" in result.stdout
    assert f"fsm --journal {cli.journal} resume" in result.stdout


def test_a_host_that_is_not_there(cli: Cli, world: SimulatedWorld) -> None:
    world.power_off(DESTINATION)
    result = cli("doctor", *HOSTS)
    assert result.exit_code == UNEXPECTED
    assert f"{DESTINATION}: not reached" in result.stdout
    # What waits counts more.
    world.power_on(DESTINATION)
    _strand(cli, world)
    world.power_off(DESTINATION)
    assert cli("doctor", *HOSTS).exit_code == STUCK


def test_what_a_host_lacks(
    cli: Cli, world: SimulatedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tcp_retries2").write_text("15\n")
    monkeypatch.setattr(preparation, "SYSCTL", tmp_path / "tcp_retries2")
    monkeypatch.setattr(preparation, "is_local", lambda uri: uri == SOURCE)
    result = cli("doctor", *HOSTS)
    assert result.exit_code == OTHER
    assert "net.ipv4.tcp_retries2 is 15" in result.stdout
    assert "sysctl net.ipv4.tcp_retries2=5" in result.stdout
    migrated = cli.migrate()
    assert migrated.exit_code == OK
    assert "note: sim://alpha/system: net.ipv4.tcp_retries2 is 15" in migrated.stdout


def test_layers_of_others_do_not_wait(cli: Cli, world: SimulatedWorld) -> None:
    uuid = next(iter(world.state.hosts[SOURCE].domains))
    world.add_layer(SOURCE, uuid, "vda", "/var/lib/libvirt/images/a.backup")
    result = cli("doctor", *HOSTS)
    assert result.exit_code == OTHER
    assert "none of its snapshots explains" in result.stdout
