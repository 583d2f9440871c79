"""What scripts on a host have in common; that they hold their file is tried where they write."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path

import pytest

from fsm.errors import HostError
from fsm.hypervisor.shell import Shell
from fsm.images.scripts import watched

HERE = Shell("qemu:///system")


async def test_one_command_after_another_until_one_fails() -> None:
    assert await HERE.ask(watched("run echo one\nrun echo two")) == "one\ntwo"
    with pytest.raises(HostError, match="no such thing"):
        await HERE.ask(watched("run sh -c 'echo no such thing >&2; exit 3'\nrun echo behind"))


async def test_what_has_ended_is_not_there_to_be_killed() -> None:
    """Between two commands a script may stand still for long, and the number be another's by then."""
    assert await HERE.ask(watched('run true\necho "[$job]"')) == "[]"


async def test_a_command_that_was_killed_is_named() -> None:
    with pytest.raises(HostError, match="sh was killed"):
        await HERE.ask(watched("run sh -c 'kill -KILL $$'"))


async def test_what_comes_behind_waits_for_the_command_that_is_ended(tmp_path: Path) -> None:
    told = tmp_path / "told"
    slow = f"trap 'echo command >>{told}; exit' TERM; echo ready; while :; do sleep 0.1; done"
    script = f"leave() {{ echo leave >>{told}; }}\nrun sh -c {shlex.quote(slow)}"
    async with asyncio.timeout(20), HERE.running(watched(script)) as running:
        assert await running.line(10) == "ready"
    assert told.read_text() == "command\nleave\n"
