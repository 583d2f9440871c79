"""What docs/embedding.md and the docstrings of the public names show is run, and prints what stands there."""

from __future__ import annotations

import ast
import doctest
import re
from contextlib import redirect_stdout
from importlib import import_module
from inspect import getdoc, isclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import fsm

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "embedding.md").read_text("utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
DOCTESTED = ("fsm.engine.sync", "fsm.engine.limits")


def test_the_page_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = BLOCK.findall(PAGE)
    assert len(blocks) == PAGE.count("```python\n") > 5
    for code, expected in blocks:
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(code, "docs/embedding.md", "exec"), names)  # noqa: S102  # the page's own code
        lines = printed.getvalue()
        if expected.startswith("{"):
            assert ast.literal_eval(lines) == ast.literal_eval(expected), code
        else:
            assert lines == expected, code


def test_every_output_on_the_page_belongs_to_a_block() -> None:
    assert PAGE.count("```text\n") == sum(1 for _code, expected in BLOCK.findall(PAGE) if expected)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", PAGE))
def test_its_links_lead_somewhere(target: str) -> None:
    assert (DOCS / target).exists()


@pytest.mark.parametrize("module", DOCTESTED)
def test_docstrings_show_what_happens(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(module), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", fsm.__all__)
def test_every_public_name_says_what_it_is(name: str) -> None:
    public = getattr(fsm, name)
    assert getdoc(public)
    if isclass(public) and public.__module__.startswith("fsm"):
        for member, value in vars(public).items():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert getdoc(value), f"{name}.{member}"


def test_the_public_names_are_sorted_and_told_in_the_docstring_or_are_errors() -> None:
    told = re.findall(r"``(\w+)``", fsm.__doc__ or "")
    others = [name for name in fsm.__all__ if name not in told]
    assert fsm.__all__ == sorted(fsm.__all__)
    assert set(told) <= set(fsm.__all__) | {"docs"}
    assert all(issubclass(getattr(fsm, name), fsm.FsmError) for name in others), others
