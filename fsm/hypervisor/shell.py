"""Commands on a host, for what libvirt has no call for.

A script goes to ``sh`` on the other side of a command prefix, such as ``ssh root@host``, by its standard
input. That input stays open as long as the script is wanted, so a script that waits for its end notices when
the engine, or the way to it, is gone: nothing is left running on a host by an engine that was killed.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from attrs import define, field, frozen

from fsm.errors import HostError, HostUnreachable
from fsm.hypervisor.uris import is_local, safe_uri

ANSWER_S = 30.0
"""How long a host may take to begin or to end something short; as long as libvirt's keepalive."""

GRACE_S = 5.0
"""How long a script may take to tidy up when its input ends; then the command that leads to it is killed."""

T = TypeVar("T")

_KEPT_BYTES = 4096
_BUFFERED_BYTES = 1 << 16
_LINE_ENDS = re.compile(rb"[\r\n]")


@frozen
class Shell:
    """Runs scripts on the host that libvirt knows as ``uri``; an empty ``prefix`` means this machine."""

    uri: str
    prefix: tuple[str, ...] = ()

    async def ask(self, script: str, timeout_s: float = ANSWER_S) -> str:
        """What a short script prints. Raises ``HostError`` if it fails, ``HostUnreachable`` if it is late."""
        lines = []
        async with self.running(script) as running:
            while (line := await running.line(timeout_s)) is not None:  # bounded: its own end, or silence
                lines.append(line)
            await running.end(timeout_s)
        return "\n".join(lines)

    @asynccontextmanager
    async def running(self, script: str) -> AsyncIterator[Running]:
        """A script that runs as long as this context, or until its own end."""
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(_BUFFERED_BYTES, loop),
                *self.prefix,
                "sh",
                "-s",
                env=environment,
                start_new_session=True,  # an interrupt at the terminal is for the engine alone
            )
        except OSError as error:
            raise HostError(
                f"{' '.join((*self.prefix, 'sh'))}: {error.strerror}", host=safe_uri(self.uri), call="shell"
            ) from error
        running = Running(self, transport, Process(transport, protocol, loop))
        try:
            await running.begin(script)
            yield running
        finally:
            await running.stop()


@define(eq=False)
class Running:
    """A script under way. Its lines end with a newline or a carriage return."""

    shell: Shell
    _transport: asyncio.SubprocessTransport
    _process: Process
    _pending: bytearray = field(factory=bytearray, init=False)
    _said: bytearray = field(factory=bytearray, init=False)
    _listener: asyncio.Task[None] | None = field(default=None, init=False)

    async def begin(self, script: str) -> None:
        """Hand the script over. Nothing more is ever sent; the end of the input is the sign to stop.

        Raises ``HostUnreachable`` when a script that pipes can't hold is not taken in time.
        """
        self._listener = asyncio.create_task(self._listen())
        # Braces: a shell takes in all of it before it runs any, so no command in it can eat the rest.
        _pipe(self._process.stdin).write(f"{{\n{script}\nexit\n}}\n".encode())
        try:
            async with asyncio.timeout(ANSWER_S):
                await _pipe(self._process.stdin).drain()
        except ConnectionError:
            pass  # told better by its exit status and words
        except TimeoutError as error:
            raise self._unreachable(f"the command was not taken within {ANSWER_S:g} s") from error

    async def line(self, timeout_s: float) -> str | None:
        """Its next line, None behind the last. ``HostUnreachable`` when none came for ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._next_line()
        except TimeoutError as error:
            raise self._unreachable(f"nothing was heard of the command for {timeout_s:g} s") from error

    async def end(self, timeout_s: float = ANSWER_S) -> None:
        """Wait for its own end. Raises ``HostError``, with its last words, when that was a failure."""
        try:
            async with asyncio.timeout(timeout_s):
                status = await self._process.wait()
                if self._listener is not None:
                    await self._listener
        except TimeoutError as error:
            raise self._unreachable(f"the command did not end within {timeout_s:g} s") from error
        if status:
            words = self._said.decode(errors="replace").strip() or f"exit status {status}"
            raise HostError(words, host=safe_uri(self.shell.uri), call="shell")

    async def dismiss(self) -> None:
        """End its input, and wait for its own end, as ``end`` does."""
        _pipe(self._process.stdin).close()
        await self.end(GRACE_S)

    async def stop(self) -> None:
        """End its input, give it time to tidy up, then kill the command that leads to it and its children."""
        _pipe(self._process.stdin).close()
        try:
            async with asyncio.timeout(GRACE_S):
                # What it still says is thrown away: a full pipe would keep it from ending.
                while await _pipe(self._process.stdout).read(_KEPT_BYTES):
                    pass
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            ends = self._kill()
            # Its end is awaited with that of its pipes: a child that outlived it would hold them open.
            self._let_go()
            if ends:
                await self._process.wait()
            if self._listener is not None:
                self._listener.cancel()

    def _kill(self) -> bool:
        """Kill it and its children, if it has not ended; False where it is another user's, as behind sudo."""
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError:
                return False
        return True

    def _let_go(self) -> None:
        """Close our ends of its outputs, whatever is in them; that of its input is closed."""
        for output in (1, 2):
            if (pipe := self._transport.get_pipe_transport(output)) is not None:
                pipe.close()

    async def _next_line(self) -> str | None:
        while (found := _LINE_ENDS.search(self._pending)) is None:  # bounded: by the end of its output
            data = await _pipe(self._process.stdout).read(_KEPT_BYTES)
            if not data:
                rest, self._pending = bytes(self._pending), bytearray()
                return rest.decode(errors="replace") if rest else None
            self._pending += data
        line = bytes(self._pending[: found.start()])
        del self._pending[: found.end()]
        return line.decode(errors="replace")

    async def _listen(self) -> None:
        while data := await _pipe(self._process.stderr).read(_KEPT_BYTES):  # bounded: by its end
            self._said += data
            del self._said[:-_KEPT_BYTES]

    def _unreachable(self, message: str) -> HostUnreachable:
        words = self._said.decode(errors="replace").strip()
        return HostUnreachable(
            f"{message}{f': {words}' if words else ''}", host=safe_uri(self.shell.uri), call="shell"
        )


def default_prefix(uri: str) -> tuple[str, ...] | None:
    """The way to a host as its URI tells: none on this machine, SSH as libvirt uses it. None: it does not."""
    if is_local(uri):
        return ()
    parts = urlsplit(uri)
    if not parts.scheme.endswith("+ssh") or parts.hostname is None:
        return None
    user = f"{unquote(parts.username)}@" if parts.username else ""
    port = ("-p", str(parts.port)) if parts.port else ()
    # ``hostname`` is in lower case, and SSH's own configuration may know it by another name only.
    address = parts.netloc.rpartition("@")[2]
    inner, bracket, _ = address.removeprefix("[").partition("]")
    host = unquote(inner if bracket else address.partition(":")[0])
    return ("ssh", "-T", "-o", "BatchMode=yes", *port, "--", f"{user}{host}")


def _pipe(stream: T | None) -> T:
    assert stream is not None  # noqa: S101  # all three were asked for
    return stream
