"""Writes pictures in languages for drawing: Mermaid for pages, Graphviz for print."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from fsm.machine.picture import Arrow, Box, Form, Look, Picture
from fsm.machine.spec import Kind

# Fill and line. In black and white the kind's name and the line's form tell the same.
_KINDS = {
    Kind.INITIAL: ("#ffffff", "#334155"),
    Kind.TRANSIENT: ("#e0f2fe", "#0369a1"),
    Kind.STABLE: ("#fef3c7", "#b45309"),
    Kind.FINAL: ("#dcfce7", "#15803d"),
}
_FORMS = {
    Form.FORWARD: "#0f172a",
    Form.FAILURE: "#b91c1c",
    Form.POINT_OF_NO_RETURN: "#7e22ce",
    Form.RETRY: "#1d4ed8",
}
# What stands out has colours of its own, whatever it is.
_LOOKS = {
    Look.FADED: ("#f8fafc", "#94a3b8"),
    Look.ADDED: ("#dcfce7", "#15803d"),
    Look.REMOVED: ("#fee2e2", "#b91c1c"),
    Look.CHANGED: ("#fef3c7", "#b45309"),
    Look.TAKEN: ("#dbeafe", "#1d4ed8"),
    Look.PRESENT: ("#fde047", "#0f172a"),
}


def _box_colours(box: Box) -> tuple[str, str]:
    return _LOOKS.get(box.look) or _KINDS[box.kind]


def _arrow_colour(arrow: Arrow) -> str:
    return _LOOKS[arrow.look][1] if arrow.look in _LOOKS else _FORMS[arrow.form]


# -- Graphviz -------------------------------------------------------------------------------------------


def dot(picture: Picture) -> str:
    """The picture in Graphviz's language, upright on A4."""
    lines = [
        "digraph machine {",
        '  graph [rankdir=TB, size="7.7,11.1", ratio=compress, nodesep=0.05, ranksep=0.2, bgcolor=white];',
        f'  graph [fontname="Helvetica", labelloc=t, label=<{_dot_head(picture)}>];',
        '  node [shape=box, fontname="Helvetica", fontsize=14, margin="0.12,0.06"];',
        '  edge [fontname="Helvetica", fontsize=11, arrowsize=0.8];',
        '  "*" [shape=point, width=0.16, label=""];',
    ]
    lines += [_dot_box(box) for box in picture.boxes]
    lines += [f'  "*" -> "{name}";' for name in picture.initial]
    lines += [_dot_arrow(number, arrow) for number, arrow in enumerate(picture.arrows)]
    return "\n".join([*lines, "}", ""])


def _dot_box(box: Box) -> str:
    fill, line = _box_colours(box)
    small = _small(escape(text) for text in box.lines)
    style = "rounded,filled,dashed" if box.kind is Kind.STABLE else "rounded,filled"
    width = 4 if box.look is Look.PRESENT else 2.5 if box.look not in (Look.PLAIN, Look.FADED) else 1.5
    label = f"<b>{escape(box.name)}</b> ({box.kind}){small and '<br/>' + small}"
    return (
        f'  "{box.name}" [id="state-{box.name}", style="{style}", fillcolor="{fill}", color="{line}", '
        f"penwidth={width}, peripheries={2 if box.kind is Kind.FINAL else 1}, label=<{label}>];"
    )


def _dot_arrow(number: int, arrow: Arrow) -> str:
    colour = _arrow_colour(arrow)
    styles = {
        Form.FORWARD: "solid, penwidth=1.8, weight=8",
        Form.FAILURE: "dashed",
        Form.POINT_OF_NO_RETURN: "bold, penwidth=4, weight=8",
        # Ways back up: they must not pull the ranks round.
        Form.RETRY: "dotted, penwidth=1.8, constraint=false",
    }
    style = styles[arrow.form]
    if arrow.look not in (Look.PLAIN, Look.FADED):
        style += ", penwidth=3"
    words = []
    for text in arrow.texts:
        shown = escape(text.words)
        if arrow.look is Look.REMOVED:
            shown = f"<s>{shown}</s>"
        words.append(f"<b>{shown}</b>" if text.bold else shown)
    # The space keeps the text off the line.
    label = "".join(f'&#160;{line}<br align="left"/>' for line in words)
    return (
        f'  "{arrow.source}" -> "{arrow.dest}" [id="arrow-{number}", color="{colour}", fontcolor="{colour}", '
        f"style={style}, label=<{label}>];"
    )


def _dot_head(picture: Picture) -> str:
    lines = (f"<b>{escape(sign)}</b>: {escape(meaning)}" for sign, meaning in picture.legend)
    title = f'<font point-size="17"><b>{escape(picture.title)}</b></font><br align="left"/>'
    return f"{title}{_small(lines)}"


def _small(lines: Iterable[str]) -> str:
    """Lines in small print, as Graphviz's labels have them; there is no empty one."""
    text = "".join(f'{line}<br align="left"/>' for line in lines)
    return f'<font point-size="11">{text}</font>' if text else ""


# -- Mermaid --------------------------------------------------------------------------------------------


def mermaid(picture: Picture) -> str:
    """The picture as a Mermaid flowchart: only there can edges be told apart by colour and form."""
    lines = ["flowchart TB", *(f"  entry((( ))) --> {name}" for name in picture.initial)]
    styles = []
    for index, arrow in enumerate(picture.arrows, start=len(lines) - 1):
        lines.append(_mermaid_arrow(arrow))
        if arrow.form is not Form.FORWARD or arrow.look is not Look.PLAIN:
            colour = _arrow_colour(arrow)
            styles.append(f"  linkStyle {index} stroke:{colour},color:{colour}")
    lines += [_mermaid_box(box) for box in picture.boxes]
    for kind, (fill, line) in _KINDS.items():
        form = ",stroke-dasharray:6 4" if kind is Kind.STABLE else ",stroke-width:2px"
        lines.append(f"  classDef {kind} fill:{fill},stroke:{line},color:#0f172a{form}")
    for box in picture.boxes:
        if box.look is not Look.PLAIN:
            fill, line = _box_colours(box)
            width = 5 if box.look is Look.PRESENT else 2
            styles.append(f"  style {box.name} fill:{fill},stroke:{line},stroke-width:{width}px")
    return "\n".join([*lines, *styles, ""])


def _mermaid_text(text: str) -> str:
    return escape(text, quote=False).replace('"', "#quot;")


def _mermaid_box(box: Box) -> str:
    body = "<br/>".join(_mermaid_text(line) for line in box.lines)
    label = f'"<b>{box.name}</b> ({box.kind})<br/><small>{body}</small>"'
    shapes = {Kind.FINAL: ("[[", "]]"), Kind.STABLE: ("{{", "}}")}
    left, right = shapes.get(box.kind, ("(", ")"))
    return f"  {box.name}{left}{label}{right}:::{box.kind}"


def _mermaid_arrow(arrow: Arrow) -> str:
    words = (f"<b>{_mermaid_text(t.words)}</b>" if t.bold else _mermaid_text(t.words) for t in arrow.texts)
    signs = {Form.FAILURE: "-.->", Form.POINT_OF_NO_RETURN: "==>", Form.RETRY: "-.->"}
    return f'  {arrow.source} {signs.get(arrow.form, "-->")}|"{"<br/>".join(words)}"| {arrow.dest}'
