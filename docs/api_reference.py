"""The reference of the public names of ``fsm``: their signatures and their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import attrs

import fsm

_HEAD = """\
# API

Generated from the public names of `fsm` and their docstrings; change those, never this page.
[embedding.md](embedding.md) shows how they are used together. Everything else may change without notice.
"""


def markdown() -> str:
    """The page: functions, classes, enumerations and errors, each in the order of their names."""
    public = {name: getattr(fsm, name) for name in fsm.__all__}
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], "Enumerations": [], "Errors": []}
    for name, value in public.items():
        kinds[_kind(value)].append(_entry(name, value))
    parts = [f"\n## {title}\n\n" + "\n".join(entries) for title, entries in kinds.items()]
    return _HEAD + "".join(parts)


def _kind(value: Any) -> str:
    if not inspect.isclass(value):
        return "Functions"
    if issubclass(value, BaseException):
        return "Errors"
    return "Enumerations" if issubclass(value, Enum) else "Classes"


def _entry(name: str, value: Any) -> str:
    match _kind(value):
        case "Functions":
            lines = [f"### `{name}{_signature(value)}`", "", _text(value)]
        case "Enumerations":
            lines = [f"### `{name}`", "", _text(value), "", _members(value)]
        case _:
            made = not (issubclass(value, BaseException) or getattr(value, "_is_protocol", False))
            shown = _signature(value) if made else ""
            lines = [f"### `{name}{shown}`", "", _text(value), *_methods(value)]
    return "\n".join(lines) + "\n"


def _members(value: Any) -> str:
    return ", ".join(f"`{member.value}`" for member in value)


def _methods(value: Any) -> Iterator[str]:
    """A line for each public method and property that the class itself defines."""
    found = [(name, member) for name, member in vars(value).items() if not name.startswith("_")]
    lines = [line for name, member in found if (line := _method(name, member))]
    if lines:
        yield ""
        yield from lines


def _method(name: str, member: Any) -> str:
    if isinstance(member, property):
        return f"- `{name}`: {_summary(member)}"
    call = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    if not inspect.isfunction(call):
        return ""
    prefix = "async " if inspect.iscoroutinefunction(call) else ""
    return f"- `{prefix}{name}{_signature(call)}`: {_summary(call)}"


def _signature(value: Any) -> str:
    """As it is written, without ``self``, in the same words whatever Python makes of them."""
    parts, keyword = [], False
    signature = inspect.signature(value)
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            parts.append("*")
        keyword = keyword or parameter.kind is parameter.VAR_POSITIONAL
        parts.append(_parameter(parameter))
    returned = signature.return_annotation
    result = "" if inspect.isclass(value) or returned is signature.empty else f" -> {_annotation(returned)}"
    return f"({', '.join(parts)}){result}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not parameter.empty:
        text += f": {_annotation(parameter.annotation)}"
    elif isinstance(parameter.default, Enum):  # of a field with a converter
        text += f": {type(parameter.default).__name__}"
    if parameter.default is not parameter.empty:
        text += f" = {_default(parameter.default)}"
    return text


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _default(value: Any) -> str:
    if value is attrs.NOTHING:
        return "..."
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    return repr(value) if isinstance(value, str | int | float | tuple | type(None)) else "..."


def _text(value: Any) -> str:
    """The docstring, with Markdown's code marks; examples are left to where they are run."""
    told = re.split(r"\n\s*>>>", inspect.getdoc(value) or "")[0]
    return told.replace("``", "`").strip()


def _summary(value: Any) -> str:
    return " ".join(_text(value).partition("\n\n")[0].split())
