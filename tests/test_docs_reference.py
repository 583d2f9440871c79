"""The generated pages have everything that they are the reference of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

import fsm
from fsm.cli.exit_codes import MEANINGS, ExitCode
from fsm.journal.events import PUBLIC_DATA, Kind

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", fsm.__all__)
def test_every_public_name_has_its_entry(name: str) -> None:
    entry = re.compile(rf"^### `{name}\b.*`\n\n\S", re.MULTILINE)
    assert len(entry.findall((DOCS / "api.md").read_text("utf-8"))) == 1


def test_nothing_of_this_process_is_on_the_page_of_the_api() -> None:
    assert not re.search(r"0x[0-9a-f]{6}|<function|NOTHING", (DOCS / "api.md").read_text("utf-8"))


def test_every_exit_code_means_something_and_the_readme_says_the_same() -> None:
    assert list(MEANINGS) == list(ExitCode)
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = "".join(f"| {code.value} | {meaning} |\n" for code, meaning in MEANINGS.items())
    assert rows in readme
    assert rows in (DOCS / "exit-codes.md").read_text("utf-8")


def test_every_kind_of_event_and_all_its_public_data_are_told() -> None:
    page = (DOCS / "events.md").read_text("utf-8")
    for name in (*get_args(Kind), *PUBLIC_DATA):
        assert f"| `{name}` | " in page
