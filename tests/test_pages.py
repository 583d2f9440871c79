"""The runner of the documentation's sessions finds what is not as its page says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pages import Names, even, run_page, steps

PAGE = """\
# A page

```console
$ name=web
$ echo "$name" \\
>   "again"
web again
$ cat > file <<'END'
> 10.0.0.1 one
> END
$ sed s/10/20/ file
20.0.0.1 one
$ echo 'reached 20.0.0.1 after 3.0 s'
reached 20.0.0.1 after 4.5 s
$ false
$ echo $?
1
```

```
not a session
```

```console
host-b# seq 5
1
...
5
```
"""


def run(page: str, directory: Path) -> Names:
    (directory / "page.md").write_text(page, "utf-8")
    names = Names()
    run_page(directory / "page.md", {"$": (), "host-b#": ("env",)}, directory, os.environ, names)
    return names


def test_a_page_as_it_should_be(tmp_path: Path) -> None:
    assert [step.prompt for step in steps(PAGE)] == ["$"] * 7 + ["host-b#"]
    assert run(PAGE, tmp_path).real == {"20.0.0.1": "20.0.0.1"}


@pytest.mark.parametrize(
    ("shown", "other"),
    [
        ("web again\n", ""),
        ("web again\n", "web again\nand again\n"),
        ("web again\n", "web\n"),
        ("false\n$ echo $?\n1\n", "false\n"),
        ("false\n$ echo $?\n1\n", "false\n$ echo $?\n0\n"),
        ("...\n5\n", "...\n6\n"),
        ("...\n5\n", "5\n"),
        ("after 4.5 s", "after all"),
        ("after 4.5 s", "in ..."),
        ("reached 20.0.0.1 after 4.5", "reached 20.0.0.2 after 4.5"),
    ],
)
def test_a_page_that_is_not_true(shown: str, other: str, tmp_path: Path) -> None:
    assert shown in PAGE
    with pytest.raises(AssertionError):
        run(PAGE.replace(shown, other), tmp_path)


def test_names_are_bound_once_and_hold_in_commands() -> None:
    names = Names()
    names.compare("lab at 10.213.0.2, id 0123456789ab, ...", "lab at 10.213.9.7, id ba9876543210, ...")
    assert names.command("ping 10.213.0.2 0123456789ab") == "ping 10.213.9.7 ba9876543210"
    names.compare("10.213.0.2", "10.213.9.7")
    with pytest.raises(AssertionError):
        names.compare("10.213.0.2", "10.213.0.2")


def test_dots_stand_for_the_rest_of_a_line() -> None:
    Names().compare("one ...\ntwo", "one and more\ntwo")
    with pytest.raises(AssertionError):
        Names().compare("one ...\ntwo", "one and more\nand more\ntwo")


def test_widths_of_columns_do_not_count() -> None:
    assert even("\n a    b\n ───────\n\n") == even("a b \n ──\n")
    assert even("a b") != even("ab")
