"""The loader: every deviation is an error with file and line, and nothing but that error ever comes out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from fsm.errors import SpecError
from fsm.machine.loader import load, load_default, loads
from fsm.machine.operations import Operation
from fsm.machine.spec import Spec
from tests.machine_helpers import STATES_YAML

SMALL = """\
format: 1
states:
  begin:
    kind: initial
    meaning: It begins.
    activity: preflight
    blocks: &all
      - migrate
      - save
    timeout_s: 60
    retry: {attempts: 3, delay_s: 1, factor: 2, cap_s: 30, jitter: 0.2}
    recover:
      - {when: [source-active], do: go}
      - {when: [], do: wait}
  between:
    kind: stable
    meaning: It waits.
    activity: none
    blocks: *all
    timeout_s: none
    retry: none
    recover: [{when: [], do: wait}]
  end:
    kind: final
    meaning: It has ended.
    blocks: []
transitions:
  - trigger: go
    source: [begin, between]
    dest: end
    conditions: [source-active]
    actions: [release-pools]
    point_of_no_return: true
"""


def line_of(text: str) -> int:
    """The line of SMALL that holds ``text``."""
    return next(number for number, line in enumerate(SMALL.splitlines(), start=1) if text in line)


def test_reads_all_of_it() -> None:
    spec = loads(SMALL, "small.yaml")
    begin, between, end = spec.states.values()
    assert (begin.name, begin.kind, begin.activity, begin.timeout_s) == ("begin", "initial", "preflight", 60)
    assert (begin.retry.attempts, begin.retry.delay_s, begin.retry.cap_s) == (3, 1, 30)
    assert [(row.when, row.do) for row in begin.recover] == [(("source-active",), "go"), ((), "wait")]
    assert (between.activity, between.timeout_s, between.retry.attempts) == (None, None, 0)
    assert (end.kind, end.recover, end.blocks) == ("final", (), frozenset())
    assert [(row.trigger, row.source, row.dest) for row in spec.rows] == [
        ("go", "begin", "end"),
        ("go", "between", "end"),
    ]
    assert all(row.point_of_no_return and not row.failure for row in spec.rows)
    assert (spec.initial, spec.file, len(spec.digest)) == ("begin", "small.yaml", 16)


def test_anchors_stand_for_what_they_name() -> None:
    spec = loads(SMALL)
    assert spec.states["between"].blocks == {Operation.MIGRATE, Operation.SAVE} == spec.states["begin"].blocks


def test_lines_lead_to_the_rows() -> None:
    spec = loads(SMALL)
    assert spec.states["begin"].recover[1].line == line_of("- {when: [], do: wait}")
    assert spec.rows[0].line == line_of("trigger: go")


def test_unlimited_attempts() -> None:
    assert loads(SMALL.replace("attempts: 3", "attempts: unlimited")).states["begin"].retry.attempts is None


def test_digest_names_the_text() -> None:
    assert loads(SMALL).digest == loads(SMALL).digest != loads(SMALL + "# more\n").digest


# Text of SMALL, its replacement, what the message must name. The error is on the line of the text.
DEVIATIONS = [
    ("format: 1", "format: 2", "format 2 is not known"),
    ("format: 1", "format: 1\nspeed: 3", "unknown key 'speed'"),
    ("    meaning: It begins.", "    menaing: It begins.", "unknown key 'menaing'"),
    ("    meaning: It begins.", "    on: It begins.", "'on' of state 'begin' is not read as a string"),
    ("    meaning: It begins.", "    1: It begins.", "key '1'"),
    ("    meaning: It begins.", "    ? [a]\n    : It begins.", "a collection"),
    (
        "    meaning: It begins.",
        "    meaning: [It, begins]",
        "meaning must be a plain text, not a collection",
    ),
    ("    meaning: It begins.", "    meaning:", "meaning must be a plain text"),
    ("    meaning: It begins.", "    meaning: yes", "meaning must be a plain text, not 'yes'"),
    ("    kind: stable", "    kind: lasting", "'lasting' is not known; known: initial, transient"),
    ("    activity: preflight", "    activity: dancing", "activity 'dancing' is not known"),
    ("      - save", "      - safe", "'safe' is not known"),
    ("      - save", "      - migrate", "operation 'migrate' is named twice"),
    ("    timeout_s: 60", "    timeout_s: soon", "timeout_s must be a number"),
    ("    timeout_s: 60", "    timeout_s: -1", "timeout_s must be a number from 0 on"),
    ("    timeout_s: 60", "    timeout_s: .nan", "timeout_s must be a number"),
    ("    timeout_s: 60", "    timeout_s: 1e999", "timeout_s must be a number from 0 on"),
    ("    timeout_s: 60", "    timeout_s: 0", "timeout_s must be above 0; write none"),
    ("attempts: 3", "attempts: 2.5", "attempts must be a whole number"),
    ("attempts: 3", "attempts: -1", "attempts must be a number from 0 on"),
    ("attempts: 3", "tries: 3", "unknown key 'tries'"),
    ("jitter: 0.2", "jitter: 1", "jitter < 1"),
    ("factor: 2", "factor: 0.5", "factor from 1 to 100"),
    ("factor: 2", "factor: 1e9", "factor from 1 to 100"),
    ("delay_s: 1", "delay_s: 0", "0 < delay_s"),
    ("cap_s: 30", "cap_s: 0.5", "delay_s <= cap_s"),
    (", jitter: 0.2", "", "retry lacks jitter"),
    ("    retry: none", "    retry: never", "retry must be a mapping"),
    ("- {when: [source-active], do: go}", "- {when: [source-activ], do: go}", "'source-activ' is not known"),
    ("- {when: [source-active], do: go}", "- {when: source-active, do: go}", "conditions must be a list"),
    ("- {when: [source-active], do: go}", "- {when: [source-active]}", "recover row lacks do"),
    ("- {when: [source-active], do: go}", "- go", "recover row must be a mapping"),
    ("- {when: [source-active], do: go}", "- {when: [], do: go, else: x}", "unknown key 'else'"),
    ("    source: [begin, between]", "    source: [begin, begin]", "source state 'begin' is named twice"),
    ("    source: [begin, between]", "    source: beginning", "state 'beginning' is not described"),
    ("    source: [begin, between]", '    source: "*"', "state '*' is not described"),
    ("    dest: end", "    dest: ende", "state 'ende' is not described"),
    ("    dest: end", "    dest: [end]", "state must be a plain text"),
    ("    conditions: [source-active]", "    conditions: [os.system]", "'os.system' is not known"),
    ("    conditions: [source-active]", "    conditions: [no]", "must be a plain text, not 'no'"),
    ("    actions: [release-pools]", "    actions: [release-polls]", "action 'release-polls' is not known"),
    ("    actions: [release-pools]", "    actions: [release-pools, release-pools]", "is named twice"),
    ("    actions: [release-pools]", "    actions: release-pools", "actions must be a list"),
    ("    point_of_no_return: true", "    point_of_no_return: yes", "must be true or false"),
    ("  - trigger: go", "  - trigger: wait", "'wait' is no trigger"),
    ("  - trigger: go", "  - trigger: Go!", "trigger 'Go!' is no name"),
    ("  - trigger: go", "  - trigger: go\n    trigger: go", "key 'trigger' twice"),
]


@pytest.mark.parametrize(("old", "new", "message"), DEVIATIONS)
def test_deviation_is_named_with_its_line(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        loads(SMALL.replace(old, new, 1), "small.yaml")
    assert message in str(error.value)
    assert error.value.file == "small.yaml"
    first, last = line_of(old.splitlines()[0]), line_of(old.splitlines()[0]) + new.count("\n")
    assert first <= error.value.line <= last
    assert str(error.value).startswith(f"small.yaml:{error.value.line}: ")


@pytest.mark.parametrize("key", ["kind", "meaning", "blocks", "activity", "timeout_s", "retry", "recover"])
def test_no_key_of_a_live_state_may_be_left_out(key: str) -> None:
    head, name, body = SMALL.partition("  between:\n")
    without = re.sub(f"    {key}: .*\n", "", body, count=1)
    with pytest.raises(SpecError, match=f"state 'between' lacks {key}") as error:
        loads(head + name + without)
    assert line_of("  between:") <= error.value.line <= line_of("  end:")


@pytest.mark.parametrize("extra", ["activity: none", "timeout_s: 1", "retry: none", "recover: []"])
def test_final_state_has_nothing_to_do(extra: str) -> None:
    with pytest.raises(SpecError, match=f"final state 'end' can't have {extra.partition(':')[0]}") as error:
        loads(SMALL.replace("    meaning: It has ended.", f"    meaning: It has ended.\n    {extra}"))
    assert error.value.line >= line_of("  end:")


@pytest.mark.parametrize("key", ["format", "states", "transitions"])
def test_no_part_of_the_file_may_be_missing(key: str) -> None:
    with pytest.raises(SpecError, match=f"lacks {key}"):
        loads(_without(key))


def _without(key: str) -> str:
    """SMALL without one of its three top-level parts."""
    kept, keep = [], True
    for line in SMALL.splitlines():
        if not line.startswith(" "):
            keep = not line.startswith(f"{key}:")
        if keep:
            kept.append(line)
    return "\n".join(kept)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("", "is empty", 0),
        ("# nothing\n", "is empty", 0),
        ("just words", "must be a mapping", 1),
        ("- a\n- b", "must be a mapping", 1),
        ("a: [1,\nb: {", "is not YAML", 2),
        ("a: 1\n\tb: 2", "is not YAML", 2),
        ("a: 1\n---\nb: 2", "is not YAML", 2),
        ("a: *nowhere", "is not YAML", 1),
        ("a: 1\nb: \0", "is not YAML", 2),
        (r'"\UFFFFFFFF": 1', "is not YAML", 0),
        ("[" * 5000, "nested too deeply", 0),
        ("format: 1\nstates: {}\ntransitions: []\n<<: {a: 1}", "'<<' of the file is not read as a string", 4),
    ],
)
def test_what_is_no_machine_at_all(text: str, message: str, line: int) -> None:
    with pytest.raises(SpecError) as error:
        loads(text, "x.yaml")
    assert message in str(error.value)
    assert error.value.line == line


def test_a_list_among_what_is_blocked_stands_for_its_items() -> None:
    spec = loads(SMALL.replace("blocks: *all", "blocks: [suspend, *all]"))
    assert spec.states["between"].blocks == {Operation.SUSPEND, Operation.MIGRATE, Operation.SAVE}
    with pytest.raises(SpecError, match="save"):
        loads(SMALL.replace("blocks: *all", "blocks: [save, *all]"))


def test_a_list_that_contains_itself() -> None:
    with pytest.raises(SpecError, match="operation must be a plain text, not a collection"):
        loads(SMALL.replace("blocks: *all", "blocks: &me [*me]"))


@pytest.mark.parametrize("name", ["*", "=", "a b", "A", "-a", "a_b", "a.b", "ä"])
def test_state_names_are_plain(name: str) -> None:
    with pytest.raises(SpecError, match="is no name"):
        loads(SMALL.replace("  end:\n", f'  "{name}":\n').replace("dest: end", f'dest: "{name}"'))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.yaml: can't be read: .*No such file") as error:
        load(tmp_path / "none.yaml")
    assert error.value.file == str(tmp_path / "none.yaml")


def test_directory_and_foreign_encoding(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("format: ü".encode("latin-1"))
    with pytest.raises(SpecError, match="can't be read"):
        load(tmp_path / "latin.yaml")


def test_the_packaged_machine_is_the_one_in_the_repository() -> None:
    """Also where libyaml has read it, which no other description is read by."""
    read = load(STATES_YAML)
    assert load_default() == evolve(read, file=load_default().file)


def loads_or_says_why(text: str) -> None:
    try:
        spec = loads(text, "x.yaml")
    except SpecError as error:
        assert str(error).startswith("x.yaml:")  # noqa: PT017  # no error at all is fine too
    else:
        assert isinstance(spec, Spec)


@given(st.text())
def test_any_text_loads_or_is_refused(text: str) -> None:
    loads_or_says_why(text)


_scraps = st.sampled_from((
    *SMALL.split(), "[", "]", "{", "}", "- ", ": ", "&a ", "*a", "*all", "|", ">", "'", '"', "!!int ", "!x ",
    "? ", "%", "\t", "\n", "\n  ", "---\n", "~", "null", "on", "0x1", "1e400", "\\U99999999", "<<", "\0",
    "\ud800", "\u2028",
))  # fmt: skip


@given(st.integers(0, len(SMALL)), st.integers(0, 40), st.lists(_scraps, max_size=4))
def test_damaged_machine_loads_or_is_refused(start: int, length: int, scraps: list[str]) -> None:
    loads_or_says_why(SMALL[:start] + "".join(scraps) + SMALL[start + length :])


@given(st.permutations(SMALL.splitlines(keepends=True)))
def test_shuffled_machine_loads_or_is_refused(lines: list[str]) -> None:
    loads_or_says_why("".join(lines))
