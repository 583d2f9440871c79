"""``fsm guard polkit`` away from any host: what it prints, and how it fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fsm.cli import polkit as command
from fsm.machine.loader import load_default
from fsm.machine.permissions import refused_permissions
from tests.cli_rig import Cli, cli, world

__all__ = ["cli", "world"]  # fixtures


def test_the_rule_names_every_permission_and_the_exempt(cli: Cli) -> None:
    result = cli("guard", "polkit", "--exempt", "stack", "--exempt", 'o"hara\\')
    assert result.exit_code == 0
    spec = load_default()
    (refused,) = re.findall(r"var refused = \[(.*?)\];", result.stdout, re.DOTALL)
    assert re.findall(r'"(.*)"', refused) == list(refused_permissions(spec))
    assert 'var exempt = ["stack", "o\\"hara\\\\"];' in result.stdout
    assert spec.digest in result.stdout.splitlines()[0]
    assert "@" not in result.stdout


def test_another_machine_makes_another_rule(cli: Cli, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "states.yaml").read_text("utf-8")
    changed = tmp_path / "states.yaml"
    changed.write_text(text.replace("      - undefine\n", ""), "utf-8")
    result = cli("--states", str(changed), "guard", "polkit")
    assert result.exit_code == 0
    assert '"domain.delete"' in cli("guard", "polkit").stdout
    assert '"domain.delete"' not in result.stdout


def test_what_cannot_be_installed_says_why(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SIGNS", str(tmp_path / "no" / "signs"))
    monkeypatch.setattr(command, "RULES", tmp_path)
    result = cli("guard", "polkit", "--install")
    assert result.exit_code == 1
    assert "the rule was not installed" in result.stderr
    assert "root" in result.stderr
    assert list(tmp_path.iterdir()) == []
