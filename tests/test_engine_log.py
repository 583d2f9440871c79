"""Events go to the logger that the embedder gives, and nobody's configuration is touched."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import structlog

from fsm.engine.engine import Engine
from fsm.engine.log import event_log
from fsm.journal.logfile import LogReader
from tests.simulation import simulate


async def test_a_standard_logger_gets_lines_that_replay_reads(tmp_path: Path) -> None:
    simulation, path = await simulate(), tmp_path / "app.log"
    logger = logging.getLogger("app.migrations")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        world = simulation.world
        engine = Engine(simulation.journal, world, clock=world.clock, log=logger)
        result = await engine.migrate(simulation.request())
    finally:
        logger.removeHandler(handler)
        handler.close()
    read = list(LogReader([path]))
    written = simulation.journal.records(result.migration)
    assert [event.sequence for event in read] == [record.sequence for record in written]
    assert " INFO app.migrations {" in path.read_text("utf-8").splitlines()[0]


async def test_a_structlog_logger_keeps_what_is_bound_to_it() -> None:
    simulation, entries = await simulate(), list[dict[str, Any]]()

    def keep(_logger: object, _name: str, event: structlog.typing.EventDict) -> str:
        entries.append(dict(event))
        raise structlog.DropEvent

    bound = structlog.wrap_logger(None, processors=[keep], wrapper_class=structlog.BoundLogger).bind(job=7)
    world = simulation.world
    await Engine(simulation.journal, world, clock=world.clock, log=bound).migrate(simulation.request())
    assert {entry["job"] for entry in entries} == {7}
    assert entries[0]["event"] == "migration-created"


def test_levels_of_the_standard_library_are_kept() -> None:
    stream = io.StringIO()
    logger = logging.Logger("apart", logging.WARNING)
    logger.addHandler(logging.StreamHandler(stream))
    log = event_log(logger)
    log.info("quiet", migration="m")
    log.warning("loud", migration="m")
    assert json.loads(stream.getvalue()) == {"event": "loud", "migration": "m"}


def test_who_configures_nothing_hears_nothing_and_has_nothing_configured(tmp_path: Path) -> None:
    program = """
import logging, sys
import structlog
import fsm
from fsm.hypervisor.simulated import SimulatedWorld
world = SimulatedWorld()
for uri in ("sim://a/system", "sim://b/system"):
    world.add_host(uri)
world.add_domain("sim://a/system", "web")
request = fsm.Request("web", source_uri="sim://a/system", destination_uri="sim://b/system")
callback = lambda record: 1 / 0
assert fsm.migrate(request, sys.argv[1], world, on_record=callback).state == "committed"
assert not structlog.is_configured()
assert logging.root.handlers == [] and logging.root.level == logging.WARNING
"""
    finished = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "j.db")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
