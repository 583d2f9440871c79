"""What scripts on a host have in common; that they hold their file is tried where they write."""

from __future__ import annotations

import asyncio
import secrets
import shlex
from contextlib import suppress
from pathlib import Path

import pytest

from fsm.errors import HostError
from fsm.hypervisor import shell
from fsm.hypervisor.shell import Shell
from fsm.images.scripts import watched

HERE = Shell("qemu:///system")


async def test_one_command_after_another_until_one_fails() -> None:
    assert await HERE.ask(watched("run echo one\nrun echo two")) == "one\ntwo"
    with pytest.raises(HostError, match="no such thing"):
        await HERE.ask(watched("run sh -c 'echo no such thing >&2; exit 3'\nrun echo behind"))


async def test_what_has_ended_is_not_there_to_be_killed() -> None:
    """Between two commands a script may stand still for long, and the number be another's by then."""
    assert await HERE.ask(watched('run true\n[ "$!" = "$ended" ] && echo none')) == "none"


async def test_a_command_that_was_killed_is_named() -> None:
    with pytest.raises(HostError, match="sh was killed"):
        await HERE.ask(watched("run sh -c 'kill -KILL $$'"))


async def test_what_comes_behind_waits_for_the_command_that_is_ended(tmp_path: Path) -> None:
    told = tmp_path / "told"
    slow = f"trap 'echo command >>{told}; exit' PWR; echo ready; while :; do sleep 0.1; done"
    script = f"leave() {{ echo leave >>{told}; }}\nrun sh -c {shlex.quote(slow)}"
    async with asyncio.timeout(20), HERE.running(watched(script)) as running:
        assert await running.line(10) == "ready"
    assert told.read_text() == "command\nleave\n"


def processes() -> list[str]:
    return [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def left(*words: str) -> list[str]:
    """The processes of just that command."""
    command = b"".join(word.encode() + b"\0" for word in words)
    found = []
    for number in processes():
        with suppress(OSError):
            if Path("/proc", number, "cmdline").read_bytes() == command:
                found.append(number)
    return found


async def test_ended_at_once_it_has_ended_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the moment after a fork the command is still a shell, with the handlers of the one that forked."""
    monkeypatch.setattr(shell, "GRACE_S", 60.0)
    command = ("sleep", f"{200 + secrets.randbelow(1 << 32) / (1 << 32):.9f}")
    script = watched(f"echo ready\nrun {shlex.join(command)}")
    async with asyncio.timeout(60):
        for _ in range(100):
            async with HERE.running(script) as running:
                assert await running.line(10) == "ready"
            assert left(*command) == []


async def test_ended_by_itself_it_leaves_nothing_that_waits_for_its_input() -> None:
    for _ in range(100):
        async with HERE.running(watched('echo "$watch"')) as running:
            watch = await running.line(10)
            assert watch is not None
            await running.end()
            assert watch not in processes()


@pytest.mark.parametrize("name", ["dash", "bash", "bash --posix"])
async def test_told_right_behind_the_fork_it_has_ended_its_command(name: str) -> None:
    command = ("sleep", f"{200 + secrets.randbelow(1 << 32) / (1 << 32):.9f}")
    script = watched(f"run {shlex.join(command)}")
    told_at_once = script.replace('"$@" &', '"$@" & kill -TERM $$;')
    assert told_at_once != script
    way = Shell(HERE.uri, ("sh", "-c", f"exec {name} -s"))
    async with asyncio.timeout(20):
        with pytest.raises(HostError, match="exit status 1"):
            await way.ask(told_at_once)
    assert left(*command) == []
