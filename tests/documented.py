"""Which commands the documentation shows.

A block that is marked ``console`` is a session (``tests.pages``). In one without a language each line is a
command, or, where prompts stand in it, each line behind one; its comments stand behind ``#`` or three blanks.
What a page has in backticks is a command when its first word is a program that a reader runs.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
from attrs import frozen

from tests.pages import steps

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_PROGRAMS = ("fsm", "./dev", "virsh", "ss", "python", ".venv/bin/python", "UPDATE_GOLDEN=1")


def sessions(page: Path) -> list[str]:
    """The commands of a page's sessions."""
    return [step.text for step in steps(page.read_text("utf-8"))]


def blocks(page: Path) -> list[str]:
    """The commands of its other blocks, continued lines joined."""
    found = []
    for language, body in _BLOCK.findall(page.read_text("utf-8")):
        if not language:
            lines = [line.strip() for line in body.replace("\\\n", " ").splitlines() if line.strip()]
            prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            found += [re.split(r" {3,}| +# ", line)[0] for line in prompted or lines]
    return found


def inline(page: Path) -> list[str]:
    """The commands in its text. The name of a program or of one of ``virsh``'s commands alone is none."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    found = (" ".join(quoted.split()) for quoted in _INLINE.findall(text))
    return [line for line in dict.fromkeys(found) if _is_command(line.split())]


def _is_command(words: list[str]) -> bool:
    return words[0] in _PROGRAMS and len(words) > (2 if words[0] == "virsh" else 1)


def commands(page: Path) -> list[str]:
    """All of these, each once."""
    return list(dict.fromkeys([*sessions(page), *blocks(page), *inline(page)]))


@frozen
class Form:
    """What a command line is but for its values: the command and the options given to it."""

    command: tuple[str, ...]
    options: frozenset[str]

    def is_part_of(self, other: Form) -> bool:
        """Whether the other one is the same command, with these options and perhaps more."""
        return self.command == other.command and self.options <= other.options


def calls(line: str, program: str = "fsm") -> list[list[str]]:
    """The words behind each call of a program in a command line, placeholders and values as they stand.

    Synopses are taken apart: ``[X]`` is there, ``X...`` is one, and ``a|b`` are two calls.
    """
    found = []
    for part in re.split(r" \| | > |\n", line.replace("\\\n", " ")):
        words = shlex.split(re.sub(r"[\[\]]|\.\.\.", "", part), comments=True)
        if words[:1] == [program]:
            choices = next((word.split("|") for word in words if "|" in word), [""])
            found += [[choice if "|" in word else word for word in words[1:]] for choice in choices]
    return found


def form(words: list[str], program: click.Command) -> Form:
    """Of one call."""
    path, options = [], set()
    for word in words:
        below = subcommands(program)
        if word in below:
            program = below[word]
            path.append(word)
        elif word.startswith("-"):
            options.add(word.partition("=")[0])
    return Form(tuple(path), frozenset(options))


def subcommands(command: click.Command) -> dict[str, click.Command]:
    """Those of a group, by name; none of another command."""
    if not isinstance(command, click.Group):
        return {}
    context = click.Context(command)
    found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return {name: one for name, one in found.items() if one is not None}


def named_options(page: Path) -> set[str]:
    """The long options in what a page has in backticks, without their values."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    return {name for quoted in _INLINE.findall(text) for name in _OPTION.findall(quoted)}


def options(command: click.Command) -> set[str]:
    """Of a command and all below it."""
    own = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    return own.union(*map(options, subcommands(command).values()))


def parse(command: click.Command, name: str, words: list[str], parent: click.Context | None = None) -> None:
    """Raise ``UsageError`` for what the command does not take, but not for a group's name alone."""
    if not words and isinstance(command, click.Group):
        return
    with command.make_context(name, list(words), parent=parent) as context:
        if isinstance(command, click.Group):
            rest = [*context._protected_args, *context.args]
            if not rest:
                return
            found, subcommand, more = command.resolve_command(context, rest)
            assert subcommand is not None
            parse(subcommand, found or "", more, context)
