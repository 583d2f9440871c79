"""Runs the sessions that a page of the documentation shows, and compares their output with the page.

A session is a block that is marked ``console``. A line that begins with a prompt is a command and is run as
it stands, in a shell of its own for each prompt: ``$ `` and ``HOST# ``; lines that begin with ``> `` continue
it. The lines up to the next prompt are what it prints, standard error included; three dots stand for any
lines, or for the rest of one. A command has to succeed unless the next one is ``echo $?``.

What differs from run to run (addresses, ids, keys) is compared by being the same everywhere on the page: its
first appearance in an output binds it, and from then on it stands for what was really printed, in commands
as well. Times and other measured numbers may be any.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import define, field, frozen

SESSION_TIMEOUT_S = 240
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^(?P<prompt>\$|[a-z-]+#) (?P<text>.*)$")
_CONTINUED = "> "

_BOUND = {
    "key": r"AAAA[A-Za-z0-9+/=]{60,}",
    "fingerprint": r"SHA256:[A-Za-z0-9+/]{40,}",
    "address": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    "uuid": r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
    "bridge": r"\bfsm-[0-9a-f]{6}\b",
    "migration": r"\b(?=[0-9a-f]*\d)(?=[0-9]*[a-f])[0-9a-f]{12}\b",
}
_LOOSE = {
    "digest": r"\b[0-9a-f]{16}\b",
    "moment": r"\b(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(?:\.\d+)?",
    "seconds": r"\b\d+\.\d s\b",
    "process": r"\blibvirtd \d+",
    "counted": r"\b\d+ (?:records|decisions|states|transitions)\b",
    "line": r"\bstates\.yaml:\d+",
    "version": r"\b(?:libvirt|QEMU) \d+\.\d+\.\d+",
    "prefix": r"/29\b",
}
_TOKEN = re.compile("|".join(f"(?P<{kind}>{one})" for kind, one in {**_BOUND, **_LOOSE}.items()))


@frozen
class Step:
    """One command of a page, and what it prints there."""

    prompt: str
    text: str
    printed: str


def steps(page: str) -> list[Step]:
    """All commands of a page's sessions, in order."""
    return [step for block in _BLOCK.findall(page) for step in _steps(iter(block.splitlines()))]


def _steps(lines: Iterator[str]) -> Iterator[Step]:
    prompt, text, printed = "", "", list[str]()
    for line in lines:
        if found := _PROMPT.match(line):
            if prompt:
                yield Step(prompt, text, "\n".join(printed))
            prompt, text, printed = found["prompt"], found["text"], []
        elif line.startswith(_CONTINUED) and not printed:
            text += "\n" + line.removeprefix(_CONTINUED)
        else:
            assert prompt, f"an output without a command: {line}"
            printed.append(line)
    if prompt:
        yield Step(prompt, text, "\n".join(printed))


def even(text: str) -> str:
    """Without what a column's width changes: runs of blanks and of rules, and empty lines at either end."""
    lines = (re.sub(r"([ ─-])\1+", r"\1", line).strip() for line in text.splitlines())
    return "\n".join(lines).strip("\n")


@define
class Names:
    """What the page calls things, and what they are in this run."""

    real: dict[str, str] = field(factory=dict)

    def command(self, text: str) -> str:
        """A command with the names of this run."""
        for shown, real in sorted(self.real.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(shown, real)
        return text

    def compare(self, shown: str, printed: str) -> None:
        """Raise ``AssertionError`` for an output that is not the page's; bind what is new in it."""
        new: dict[str, str] = {}
        parts = []
        for number, part in enumerate(self._parts(even(shown))):
            if not isinstance(part, tuple):
                parts.append(part)
            elif part[1] in new:
                parts.append(f"(?P={new[part[1]]})")
            else:
                new[part[1]] = f"t{number}"
                parts.append(f"(?P<t{number}>{_BOUND[part[0]]})")
        found = re.fullmatch("".join(parts), even(printed))
        assert found, f"the page shows\n{shown}\nand this was printed\n{printed}\nby {self.real}"
        self.real.update({one: found[group] for one, group in new.items()})
        assert len(set(self.real.values())) == len(self.real), f"two names for one thing: {self.real}"

    def _parts(self, shown: str) -> Iterator[str | tuple[str, str]]:
        """Pieces of a pattern; a pair of kind and token is one that is to be bound."""
        for line in shown.splitlines(keepends=True):
            if line.strip() == "...":
                yield r"(?:.*\n)*?.*" if line == "..." else r"(?:.*\n)*?"
                continue
            at = 0
            for found in _TOKEN.finditer(line):
                yield self._literally(line[at : found.start()])
                at, kind = found.end(), str(found.lastgroup)
                if kind in _LOOSE:
                    yield _LOOSE[kind]
                elif found[0] in self.real:
                    yield re.escape(self.real[found[0]])
                else:
                    yield kind, found[0]
            rest = line[at:].removesuffix("\n").removesuffix(" ...")
            yield self._literally(rest)
            yield self._literally(line[at + len(rest) :]).replace(re.escape(" ..."), " .*")

    def _literally(self, text: str) -> str:
        return re.escape(self.command(text))


@define
class Shell:
    """A bash that keeps its variables from command to command."""

    process: subprocess.Popen[str]
    code: int = 0

    def run(self, text: str) -> str:
        """Run a command to its end and give what it has printed; its exit code is in ``code``."""
        mark = secrets.token_hex(8)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # Without an input of their own, commands would read the ones behind them.
        self.process.stdin.write(f"{{ (exit {self.code})\n{text}\n}} </dev/null\necho {mark} $?\n")
        self.process.stdin.flush()
        printed = []
        for line in self.process.stdout:
            before, found, code = line.partition(mark)
            if found:
                self.code = int(code)
                return "".join([*printed, before])
            printed.append(line)
        raise AssertionError(f"the shell ended in {text}: {''.join(printed)}")


@contextmanager
def shell(prefix: Sequence[str], directory: Path, environment: Mapping[str, str]) -> Iterator[Shell]:
    """A shell, with words in front that may lead to another host; it is killed when a page takes too long."""
    with subprocess.Popen(
        [*prefix, "bash", "--norc", "--noprofile", "-o", "pipefail"],
        cwd=directory,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        timer = threading.Timer(SESSION_TIMEOUT_S, process.kill)
        timer.start()
        try:
            yield Shell(process)
        finally:
            timer.cancel()
            process.kill()


def run_page(
    page: Path,
    prompts: Mapping[str, Sequence[str]],
    directory: Path,
    environment: Mapping[str, str],
    names: Names,
) -> None:
    """Run all sessions of a page. ``prompts`` has for each prompt the words that lead to its shell."""
    todo = steps(page.read_text("utf-8"))
    assert todo
    with ExitStack() as stack:
        shells = {
            prompt: stack.enter_context(shell(prefix, directory, environment))
            for prompt, prefix in prompts.items()
        }
        for step, after in zip(todo, [*todo[1:], None], strict=True):
            at = shells[step.prompt]
            printed = at.run(names.command(step.text))
            names.compare(step.printed, printed)
            asked = after is not None and after.text == "echo $?"
            assert at.code == 0 or asked, f"{step.text} ended with {at.code}: {printed}"
