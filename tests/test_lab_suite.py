"""Roots of other Debian suites: which there are, where, and how they come to be whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fsm.lab import Lab, LabError, suite

APT = """\
Debian-Security http://mirror/security/
Other http://elsewhere/
Debian http://mirror/debian/
Debian http://second/debian/
"""
NATIVE = "trixie"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is empty, on a machine with a suite of its own."""
    monkeypatch.setenv("FSM_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(suite, "native", lambda: NATIVE)
    return tmp_path / "cache"


class Machine:
    """What the commands of a build do: say what apt knows, and fill a root, or fail half-way."""

    def __init__(self, apt: str = APT, *, fails: bool = False) -> None:
        self.apt, self.fails = apt, fails
        self.built: list[Sequence[str]] = []

    def run(self, argv: Sequence[str], *, timeout: float = 0) -> str:
        if argv[0] == "apt-get":
            return self.apt
        words = list(argv[argv.index("sh", argv.index("sh") + 1) + 1 :])
        root = Path(words[1])
        root.mkdir()
        (root / "half").touch()
        if self.fails:
            raise LabError("debootstrap: no such command")
        self.built.append(words)
        return ""


def test_the_machines_own_suite_is_the_machine() -> None:
    assert suite.root(NATIVE) == "/"
    assert suite.is_built(NATIVE)
    assert suite.build(NATIVE) == "/"


def test_other_suites_are_in_the_cache(cache: Path) -> None:
    assert suite.root("sid") == str(cache / "sid")
    assert not suite.is_built("sid")


@pytest.mark.parametrize("name", ["", "buster", "Sid", "../sid", "/", "sid "])
def test_a_suite_that_nobody_knows_is_an_error_that_names_those_there_are(name: str) -> None:
    with pytest.raises(LabError, match="is no suite of Debian that the lab knows") as caught:
        suite.root(name)
    assert caught.value.remedy == "use one of bookworm, trixie, sid"


def test_a_build_takes_the_mirror_of_the_machine_and_is_done_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    monkeypatch.setattr(suite, "run", machine.run)
    told: list[str] = []
    assert suite.build("sid", told.append) == str(cache / "sid")
    assert suite.build("sid", told.append) == str(cache / "sid")
    assert machine.built == [["sid", str(cache / "sid.new"), "http://mirror/debian/", *suite.PACKAGES]]
    assert told == [f"building {cache / 'sid'}"]
    assert [path.name for path in cache.iterdir()] == ["sid"]


def test_half_a_root_is_none_and_the_next_build_begins_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "run", Machine(fails=True).run)
    with pytest.raises(LabError, match="debootstrap"):
        suite.build("sid")
    assert not suite.is_built("sid")
    (cache / "sid.new" / "old").touch()
    monkeypatch.setattr(suite, "run", Machine().run)
    suite.build("sid")
    assert [path.name for path in (cache / "sid").iterdir()] == ["half"]


def test_no_mirror_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "run", Machine("Debian-Security http://mirror/security/\n").run)
    with pytest.raises(LabError, match="no mirror of Debian") as caught:
        suite.mirror()
    assert caught.value.remedy == "apt-get update"


def test_a_root_of_its_own_has_no_access_control() -> None:
    with pytest.raises(LabError, match="can't have access control"):
        Lab.up(access_control=True, roots=("/", "/other"))
