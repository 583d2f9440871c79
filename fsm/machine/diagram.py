"""The machine as a picture, from its description alone: Mermaid for pages, Graphviz for print.

``transitions`` can draw machines too, but not this one so that it can be read at a glance: it joins all rows
between two states into one line of text with one style, so failures can't be told from the rest; its Mermaid
is a state diagram, whose edges take no style at all; and its boxes have no place for what a state blocks. So
the two texts are written here directly; drawing is left to Mermaid and Graphviz.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from html import escape

from attrs import frozen

from fsm.machine.operations import Operation
from fsm.machine.spec import Kind, Row, Spec, State

_BOX_WIDTH = 36
_EDGE_WIDTH = 22
# Fill and line colours; a print in black and white has the kind's name and the line's form.
_COLOURS = {
    Kind.INITIAL: ("#ffffff", "#334155"),
    Kind.TRANSIENT: ("#e0f2fe", "#0369a1"),
    Kind.STABLE: ("#fef3c7", "#b45309"),
    Kind.FINAL: ("#dcfce7", "#15803d"),
}
_FAILURE = "#b91c1c"
_POINT_OF_NO_RETURN = "#7e22ce"
_PLAIN = "#334155"
_LEGEND = (
    ("Dashed red edge:", "a way of failing"),
    ("Thick edge:", "the point of no return; from there the migration only goes forward"),
    ("[…]", "conditions, all of which must hold"),
    ("Double border:", "final, the migration has ended"),
    ("Dashed border:", "stable, may last"),
)


@frozen
class Edge:
    """All rows between two states that are drawn alike."""

    source: str
    dest: str
    failure: bool
    point_of_no_return: bool
    rows: tuple[Row, ...]


def edges(spec: Spec) -> tuple[Edge, ...]:
    """The edges of the picture, in the order of the file."""
    grouped: dict[tuple[str, str, bool, bool], list[Row]] = {}
    for row in spec.rows:
        grouped.setdefault((row.source, row.dest, row.failure, row.point_of_no_return), []).append(row)
    return tuple(Edge(*key, tuple(rows)) for key, rows in grouped.items())


def blocked(operations: Iterable[Operation]) -> tuple[str, ...]:
    """Operation names in the order of ``Operation``; a family blocked as a whole becomes ``block-*``."""
    wanted = frozenset(operations)
    families: dict[str, list[Operation]] = {}
    for operation in Operation:
        families.setdefault(operation.partition("-")[0], []).append(operation)
    names: list[str] = []
    for family, members in families.items():
        if len(members) > 1 and wanted.issuperset(members):
            names.append(f"{family}-*")
        else:
            names.extend(str(member) for member in members if member in wanted)
    return tuple(names)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _conditions(row: Row) -> list[str]:
    return _wrap(f"[{', '.join(row.conditions)}]", _EDGE_WIDTH) if row.conditions else []


def _box_lines(state: State) -> list[str]:
    lines = _wrap(state.meaning, _BOX_WIDTH)
    if state.kind is not Kind.FINAL:
        lines.append(f"activity: {state.activity or 'none'}")
    names = ", ".join(blocked(state.blocks)) or "nothing"
    count = f" {len(state.blocks)} operations" if len(state.blocks) > 1 else ""
    return lines + _wrap(f"blocks{count}: {names}", _BOX_WIDTH)


# -- Graphviz -------------------------------------------------------------------------------------------


def dot(spec: Spec) -> str:
    """The machine in Graphviz's language, upright on A4."""
    lines = [
        "digraph machine {",
        '  graph [rankdir=TB, size="7.7,11.1", ratio=compress, nodesep=0.1, ranksep=0.45];',
        f'  graph [fontname="Helvetica", labelloc=b, label=<{_dot_legend()}>];',
        '  node [shape=box, fontname="Helvetica", fontsize=13, margin="0.12,0.06"];',
        '  edge [fontname="Helvetica", fontsize=10, arrowsize=0.8];',
        '  "*" [shape=point, width=0.16, label=""];',
    ]
    lines += [_dot_box(state) for state in spec.states.values()]
    lines += [f'  "*" -> "{name}";' for name in _initial(spec)]
    lines += [_dot_edge(spec, edge) for edge in edges(spec)]
    return "\n".join([*lines, "}", ""])


def _initial(spec: Spec) -> list[str]:
    return [state.name for state in spec.states.values() if state.kind is Kind.INITIAL]


def _dot_box(state: State) -> str:
    fill, line = _COLOURS[state.kind]
    head = f"<b>{escape(state.name)}</b> ({state.kind})"
    small = "".join(escape(text) + '<br align="left"/>' for text in _box_lines(state))
    style = "rounded,filled,dashed" if state.kind is Kind.STABLE else "rounded,filled"
    label = f'{head}<br/><font point-size="10">{small}</font>'
    return (
        f'  "{state.name}" [style="{style}", fillcolor="{fill}", color="{line}", penwidth=1.5, '
        f"peripheries={2 if state.kind is Kind.FINAL else 1}, label=<{label}>];"
    )


def _dot_edge(spec: Spec, edge: Edge) -> str:
    text = []
    for row in edge.rows:
        text += [f"<b>{escape(row.trigger)}</b>", *map(escape, _conditions(row))]
    colour, style = _PLAIN, "solid, penwidth=1.4, weight=8"
    if edge.failure:
        colour, style = _FAILURE, "dashed"
    if edge.point_of_no_return:
        colour, style = _POINT_OF_NO_RETURN, "bold, penwidth=4, weight=8"
        text = ["<b><u>POINT OF NO RETURN</u></b>", *text]
    if spec.states[edge.source].kind is Kind.STABLE:
        # Ways back up: they must not pull the ranks round.
        style = "solid, constraint=false"
    # The space keeps the text off the line.
    label = "".join(f'&#160;{line}<br align="left"/>' for line in text)
    return (
        f'  "{edge.source}" -> "{edge.dest}" [color="{colour}", fontcolor="{colour}", style={style}, '
        f"label=<{label}>];"
    )


def _dot_legend() -> str:
    lines = (f'<b>{escape(sign)}</b> {escape(meaning)}<br align="left"/>' for sign, meaning in _LEGEND)
    return '<font point-size="10">' + "".join(lines) + "</font>"


# -- Mermaid --------------------------------------------------------------------------------------------


def mermaid(spec: Spec) -> str:
    """The machine as a Mermaid flowchart: only there can edges be told apart by colour and form."""
    lines = ["flowchart TB", *(f"  entry((( ))) --> {name}" for name in _initial(spec))]
    styles = []
    for index, edge in enumerate(edges(spec), start=len(lines) - 1):
        lines.append(_mermaid_edge(edge))
        colour = _FAILURE if edge.failure else _POINT_OF_NO_RETURN if edge.point_of_no_return else ""
        if colour:
            styles.append(f"  linkStyle {index} stroke:{colour},color:{colour}")
    lines += [_mermaid_box(state) for state in spec.states.values()]
    for kind, (fill, line) in _COLOURS.items():
        form = ",stroke-dasharray:6 4" if kind is Kind.STABLE else ",stroke-width:2px"
        lines.append(f"  classDef {kind} fill:{fill},stroke:{line},color:#0f172a{form}")
    return "\n".join([*lines, *styles, ""])


def _mermaid_text(text: str) -> str:
    return escape(text, quote=False).replace('"', "#quot;")


def _mermaid_box(state: State) -> str:
    body = "<br/>".join(_mermaid_text(line) for line in _box_lines(state))
    label = f'"<b>{state.name}</b> ({state.kind})<br/><small>{body}</small>"'
    shapes = {Kind.FINAL: ("[[", "]]"), Kind.STABLE: ("{{", "}}")}
    left, right = shapes.get(state.kind, ("(", ")"))
    return f"  {state.name}{left}{label}{right}:::{state.kind}"


def _mermaid_edge(edge: Edge) -> str:
    rows = ("<br/>".join([f"<b>{row.trigger}</b>", *_conditions(row)]) for row in edge.rows)
    text = "<br/>".join(rows)
    arrow = "-.->" if edge.failure else "-->"
    if edge.point_of_no_return:
        arrow, text = "==>", f"<b>POINT OF NO RETURN</b><br/>{text}"
    return f'  {edge.source} {arrow}|"{text}"| {edge.dest}'
