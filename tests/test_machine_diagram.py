"""Diagrams and the reference page: complete, told apart, in step with states.yaml."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fsm.journal.events import json_schema
from fsm.machine.conditions import CONDITIONS
from fsm.machine.diagram import dot, mermaid
from fsm.machine.loader import load_default
from fsm.machine.operations import HARM, Operation
from fsm.machine.picture import Form, arrows, blocked, machine
from fsm.machine.reference import markdown
from fsm.machine.spec import Kind
from fsm.machine.vocabulary import ACTIONS, ACTIVITIES
from tests.machine_helpers import TESTS, changed

SPEC = load_default()
PICTURE = machine(SPEC)
DOCS = TESTS.parent / "docs"


def test_arrows_hold_every_row_once() -> None:
    drawn = [row for arrow in arrows(SPEC) for row in arrow.rows]
    assert sorted(drawn, key=SPEC.rows.index) == list(SPEC.rows)
    for arrow in arrows(SPEC):
        for row in arrow.rows:
            assert (row.source, row.dest) == (arrow.source, arrow.dest)
            assert row.failure is (arrow.form is Form.FAILURE)
            assert row.point_of_no_return is (arrow.form is Form.POINT_OF_NO_RETURN)
            assert (SPEC.states[row.source].kind is Kind.STABLE) is (arrow.form is Form.RETRY)


@pytest.mark.parametrize("draw", [dot, mermaid])
def test_every_state_and_condition_is_in_the_picture(draw) -> None:
    text = draw(PICTURE)
    for state in SPEC.states.values():
        assert f"<b>{state.name}</b> ({state.kind})" in text
        assert state.activity is None or state.activity in text
    for row in SPEC.rows:
        assert f"<b>{row.trigger}</b>" in text
        for name in row.conditions:
            assert name in text
    assert "POINT OF NO RETURN" in text


def test_dot_tells_edges_and_states_apart() -> None:
    lines = dot(PICTURE).splitlines()
    for number, arrow in enumerate(PICTURE.arrows):
        (line,) = [text for text in lines if f'[id="arrow-{number}"' in text]
        assert line.startswith(f'  "{arrow.source}" -> "{arrow.dest}" ')
        assert all(f"<b>{row.trigger}</b>" in line for row in arrow.rows)
        assert ("style=dashed" in line) is (arrow.form is Form.FAILURE)
        assert ("style=dotted" in line) is (arrow.form is Form.RETRY)
        assert ("POINT OF NO RETURN" in line) is (arrow.form is Form.POINT_OF_NO_RETURN)
    assert len({line.split("style=")[1].split(",")[0] for line in lines if "arrow-" in line}) == 4
    for state in SPEC.states.values():
        (line,) = [text for text in lines if text.startswith(f'  "{state.name}" [')]
        assert ("peripheries=2" in line) is (state.kind is Kind.FINAL)
        assert ("filled,dashed" in line) is (state.kind is Kind.STABLE)


def test_mermaid_tells_edges_and_states_apart() -> None:
    text = mermaid(PICTURE)
    links = [line for line in text.splitlines() if re.search(r" (-->|==>|-\.->)", line)]
    assert len(links) == 1 + len(PICTURE.arrows)
    for index, arrow in enumerate(PICTURE.arrows, start=1):
        sign = {Form.FORWARD: "-->", Form.POINT_OF_NO_RETURN: "==>"}.get(arrow.form, "-.->")
        assert links[index].startswith(f"  {arrow.source} {sign}|")
        assert links[index].endswith(f"| {arrow.dest}")
        assert (f"linkStyle {index} " in text) is (arrow.form is not Form.FORWARD)
    for state in SPEC.states.values():
        assert re.search(rf"^  {state.name}[(\[{{].*:::{state.kind}$", text, re.MULTILINE)


def test_texts_can_not_break_the_syntax() -> None:
    def edit(data: dict) -> None:
        data["states"]["stuck"]["meaning"] = 'A "quoted" <b> & more; ]] }} --> x'

    spec = changed(edit)
    (line,) = [text for text in mermaid(machine(spec)).splitlines() if text.startswith("  stuck{{")]
    assert line.count('"') == 2
    assert "&lt;b&gt; &amp;" in line
    (line,) = [text for text in dot(machine(spec)).splitlines() if text.startswith('  "stuck" [')]
    assert "&lt;b&gt; &amp;" in line


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_takes_it() -> None:
    done = subprocess.run(
        ["dot", "-Tplain"], input=dot(PICTURE), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    nodes = {line.split()[1].strip('"') for line in done.stdout.splitlines() if line.startswith("node ")}
    assert nodes == {*SPEC.states, "*"}
    scale, width, height = (float(word) for word in done.stdout.split()[1:4])
    assert width * scale <= 8.27, "wider than A4"
    assert height * scale <= 11.69, "higher than A4"
    assert 10 * scale >= 5.5, "too small to be read in print"


@pytest.mark.parametrize(
    ("operations", "names"),
    [
        ([], ()),
        ([Operation.MIGRATE], ("migrate",)),
        ([o for o in Operation if o.startswith("volume-")], ("volume-*",)),
        ([Operation.VOLUME_WIPE, Operation.VOLUME_DELETE], ("volume-delete", "volume-wipe")),
        ([Operation.SAVE, *(o for o in Operation if o.startswith("checkpoint-"))], ("checkpoint-*", "save")),
    ],
)
def test_short_form_of_blocked_operations(operations: list[Operation], names: tuple[str, ...]) -> None:
    assert blocked(operations) == names


def test_reference_explains_every_name() -> None:
    text = markdown(SPEC)
    explained = {
        **{name: condition.meaning for name, condition in CONDITIONS.items()},
        **ACTIONS,
        **ACTIVITIES,
    }
    for name, meaning in explained.items():
        assert f"| `{name}` | {meaning} |" in text
    for state in SPEC.states.values():
        assert f"| `{state.name}` | {state.kind} | {state.meaning} |" in text
    for operation, harm in HARM.items():
        assert re.search(rf"^\| `{operation}` \|.*\| {re.escape(harm)} \|$", text, re.MULTILINE)
    assert text.count("\n| `") >= len(SPEC.rows) + len(SPEC.states) + len(explained)


def test_reference_matrix_says_what_is_blocked() -> None:
    rows = markdown(SPEC).split("## Blocked operations")[1].splitlines()
    head = next(row for row in rows if row.startswith("| Operation"))
    states = re.findall("`([^`]+)`", head)
    for operation in Operation:
        (cells,) = [row.split(" | ")[1:-1] for row in rows if row.startswith(f"| `{operation}` ")] or [
            ["-"] * len(states)
        ]
        shown = {state for state, cell in zip(states, cells, strict=True) if cell == "blocked"}
        assert shown == {name for name, state in SPEC.states.items() if operation in state.blocks}


@pytest.mark.parametrize("make", ["dot(machine(spec))", "mermaid(machine(spec))", "markdown(spec)"])
def test_same_machine_same_text(make: str) -> None:
    code = "from fsm.machine.diagram import *; from fsm.machine.reference import *;"
    code += "from fsm.machine.loader import load_default; from fsm.machine.picture import machine;"
    code += f"spec = load_default(); print({make}, end='')"
    names = {"dot": dot, "mermaid": mermaid, "machine": machine, "markdown": markdown, "spec": SPEC}
    wanted = eval(make, names)  # noqa: S307  # one of the three texts above
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS.parent), "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout == wanted


def test_generated_files_are_renewed_and_checked(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for script in DOCS.glob("*.py"):
        shutil.copy(script, tmp_path / "docs")
    shutil.copy(TESTS.parent / "states.yaml", tmp_path)

    def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "docs" / "generate.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    stale = generate("--check")
    assert stale.returncode == 1
    assert "machine.md is stale; renew it with: .venv/bin/python docs/generate.py" in stale.stderr
    assert not (tmp_path / "docs" / "machine.md").exists()
    assert generate().returncode == 0
    assert generate("--check").returncode == 0
    assert (tmp_path / "docs" / "machine.md").read_text("utf-8") == markdown(SPEC)
    assert (tmp_path / "docs" / "machine.mmd").read_text("utf-8") == mermaid(PICTURE)
    assert json.loads((tmp_path / "docs" / "event.schema.json").read_text("utf-8")) == json.loads(
        json.dumps(json_schema())
    )
    (tmp_path / "docs" / "machine.dot").write_text("digraph {}")
    stale = generate("--check")
    assert (stale.returncode, stale.stderr.count("is stale")) == (1, 1)
    assert generate("--chekc").returncode == 2
