"""Scripts on a host: told from beginning to end, and never left running."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from pathlib import Path

import pytest

from fsm.errors import HostError, HostUnreachable
from fsm.hypervisor import shell as module
from fsm.hypervisor.shell import Shell, default_prefix

HERE = Shell("qemu:///system")
SSH = ("ssh", "-T", "-o", "BatchMode=yes")


async def test_it_tells_what_a_script_prints() -> None:
    assert await HERE.ask("echo one; printf 'two\\rthree'") == "one\ntwo\nthree"


async def test_a_command_in_the_script_cannot_eat_the_rest() -> None:
    # It reads on until the input ends, and that is only when nobody wants the script any more.
    async with HERE.running("cat >/dev/null & echo before; kill $!; wait; echo behind") as running:
        assert [await running.line(10), await running.line(10)] == ["before", "behind"]
        assert await running.line(10) is None


async def test_a_failure_tells_the_last_words() -> None:
    with pytest.raises(HostError, match="qemu:///system: no such thing"):
        await HERE.ask("echo no such thing >&2; exit 3")
    with pytest.raises(HostError, match="exit status 3"):
        await HERE.ask("exit 3")


async def test_a_host_that_says_nothing_counts_as_unreachable() -> None:
    with pytest.raises(HostUnreachable, match="nothing was heard"):
        await HERE.ask("cat", timeout_s=0.05)


async def test_a_way_that_does_not_exist() -> None:
    with pytest.raises(HostError, match="no-such-command sh: No such file"):
        await Shell("qemu+ssh://h/system", ("no-such-command",)).ask("true")


async def test_the_script_is_told_to_stop_and_tidies_up(tmp_path: Path) -> None:
    sign = tmp_path / "tidied"
    async with HERE.running(f"echo ready; cat >/dev/null; echo > {sign}") as running:
        assert await running.line(10) == "ready"
        assert not sign.exists()
    assert sign.exists()


async def test_what_failed_before_it_was_dismissed_is_told() -> None:
    async with HERE.running("echo ready; cat >/dev/null; echo broken before >&2; exit 1") as running:
        assert await running.line(10) == "ready"
        with pytest.raises(HostError, match="broken before"):
            await running.dismiss()
    async with HERE.running("cat >/dev/null") as running:
        await running.dismiss()


async def test_one_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    async with HERE.running("trap '' TERM HUP; echo $$; exec 0</dev/null; exec sleep 1000") as running:
        pid = int(await running.line(10) or 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_another_users_that_does_not_stop_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind sudo: the system does not let it be killed."""

    def killpg(_group: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(module, "GRACE_S", 0.05)
    with monkeypatch.context() as denied:
        denied.setattr(os, "killpg", killpg)
        async with asyncio.timeout(10):  # far from its end
            async with HERE.running("exec 0</dev/null; echo $$; exec sleep 1000") as running:
                pid = int(await running.line(10) or 0)
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)


@pytest.mark.parametrize("end", ["wait", "exit"])
async def test_children_that_hold_its_outputs_keep_nobody_waiting(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with it, or left behind by it: nothing waits for their end, and no pipe stays open."""
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    before = set(os.listdir("/proc/self/fd"))
    async with asyncio.timeout(10):  # far from the child's end
        async with HERE.running(f"exec 0</dev/null; sleep 1000 & echo $!; {end}") as running:
            child = int(await running.line(10) or 0)
    if end == "exit":
        os.kill(child, signal.SIGKILL)
    assert has_ended(child)
    await asyncio.sleep(0)  # the loop closes what it was told to in its next turn
    assert set(os.listdir("/proc/self/fd")) <= before


def has_ended(pid: int) -> bool:
    """Whether it ends at once, also where nobody asks about its end."""
    try:
        end = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ready, _, _ = select.select([end], [], [], 10)
    os.close(end)
    return bool(ready)


async def test_cancelled_it_is_ended_too() -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        async with HERE.running("echo $$; cat >/dev/null") as running:
            started.set_result(int(await running.line(10) or 0))
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    pid = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_more_than_a_pipe_holds_of_both_outputs() -> None:
    script = "yes x | head -c 300000 >&2; yes y | head -c 300000; echo; echo end"
    assert (await HERE.ask(script)).endswith("\nend")


async def test_a_way_that_takes_nothing_counts_as_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that fell silent while SSH connects; a long script does not fit into the pipe to it."""
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    way = Shell("qemu+ssh://h/system", ("sh", "-c", "exec sleep 1000"))
    async with asyncio.timeout(10):  # far from the command's end
        with pytest.raises(HostUnreachable, match="not taken"):
            await way.ask("#" * 1_000_000)


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("qemu:///system", ()),
        ("qemu+ssh://root@alpha/system", ("ssh", "-T", "-o", "BatchMode=yes", "--", "root@alpha")),
        ("qemu+ssh://alpha:2222/system", ("ssh", "-T", "-o", "BatchMode=yes", "-p", "2222", "--", "alpha")),
        ("qemu+ssh://DOM%5Cme@alpha/system", ("ssh", "-T", "-o", "BatchMode=yes", "--", "DOM\\me@alpha")),
        # An alias of SSH's own configuration need not be in lower case.
        ("qemu+ssh://Alpha/system", (*SSH, "--", "Alpha")),
        ("qemu+ssh://me:word@Alpha:22/system", (*SSH, "-p", "22", "--", "me@Alpha")),
        ("qemu+ssh://root@[fe80::A%25eth0]:22/system", (*SSH, "-p", "22", "--", "root@fe80::A%eth0")),
        ("qemu+ssh:///system", None),
        ("qemu+tcp://alpha/system", None),
        ("qemu+tls://alpha/system", None),
    ],
)
def test_the_way_that_a_uri_tells(uri: str, prefix: tuple[str, ...] | None) -> None:
    assert default_prefix(uri) == prefix
