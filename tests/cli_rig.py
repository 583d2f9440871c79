"""The ``fsm`` command on simulated hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from click.testing import CliRunner, Result

from fsm.cli import drive, main
from fsm.engine.engine import Engine
from fsm.hypervisor.simulated import SimulatedWorld
from fsm.journal.sql import open_journal
from tests.simulation import DESTINATION, SNAPSHOTS, SOURCE

IMAGES = "/var/lib/libvirt/images"


@define
class Cli:
    """The command with a journal of its own, and simulated hosts where a migration needs them."""

    journal: Path
    world: SimulatedWorld

    def __call__(self, *words: str) -> Result:
        """Run the command."""
        return CliRunner().invoke(main, ["--journal", str(self.journal), *words])

    def migrate(self, *words: str, domain: str = "web") -> Result:
        """Migrate from the one simulated host to the other."""
        return self("migrate", domain, "--from", SOURCE, "--to", DESTINATION, *words)


@pytest.fixture
def world() -> SimulatedWorld:
    world = SimulatedWorld()
    world.add_host(SOURCE)
    world.add_host(DESTINATION)
    world.add_pool(SOURCE, IMAGES)
    world.add_domain(SOURCE, "web", disks=("vda", "vdb"), snapshots=SNAPSHOTS)
    return world


@pytest.fixture
def cli(tmp_path: Path, world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> Cli:
    def open_engine(context: Any) -> Engine:
        return Engine(open_journal(context.obj["journal"]), world, clock=world.clock)

    monkeypatch.setattr(drive, "open_engine", open_engine)
    return Cli(tmp_path / "journal.db", world)


def lines_of(result: Result) -> list[dict[str, Any]]:
    """The JSON objects that a command has printed."""
    return [json.loads(line) for line in result.stdout.splitlines()]
