"""The machine as boxes and arrows, before anybody writes them in a language for drawing.

``transitions`` can draw machines too, but not this one so that it can be read at a glance: it joins all rows
between two states into one line of text with one style, so failures can't be told from the rest, and its
boxes have no place for what a state blocks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from enum import StrEnum

from attrs import frozen

from fsm.machine.operations import Operation
from fsm.machine.spec import Kind, Row, Spec, State

BOX_WIDTH = 44
EDGE_WIDTH = 22


class Form(StrEnum):
    """What an arrow means for the migration."""

    FORWARD = "forward"
    FAILURE = "failure"
    POINT_OF_NO_RETURN = "point of no return"
    RETRY = "retry"  # out of a stable state


class Look(StrEnum):
    """How a box or an arrow stands out."""

    PLAIN = "plain"
    FADED = "faded"
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    TAKEN = "taken"
    PRESENT = "present"


@frozen
class Box:
    """A state."""

    name: str
    kind: Kind
    lines: tuple[str, ...]
    look: Look = Look.PLAIN


@frozen
class Text:
    """A few words at an arrow."""

    words: str
    bold: bool = False


@frozen
class Arrow:
    """All rows between two states that are drawn alike."""

    source: str
    dest: str
    form: Form
    rows: tuple[Row, ...]
    texts: tuple[Text, ...]
    look: Look = Look.PLAIN


@frozen
class Picture:
    """What is drawn, in this order. ``legend`` explains signs: each a sign and its meaning."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    initial: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]


LEGEND = (
    ("Solid arrow", "the way to success, or back to where the domain was"),
    ("Thick purple arrow", "the point of no return: behind it the migration only goes forward"),
    ("Dashed red arrow", "a way of failing"),
    ("Dotted blue arrow", "another try"),
    ("Double border", "final: the migration has ended"),
    ("Dashed border", "stable: it may last, until somebody helps"),
    ("[…]", "conditions, which must all hold; block-* stands for all operations that begin so"),
)


def machine(spec: Spec) -> Picture:
    """The whole machine."""
    return Picture(
        title="Live migration of a domain: its states, and what may follow what",
        boxes=tuple(Box(state.name, state.kind, box_lines(state)) for state in spec.states.values()),
        arrows=tuple(arrows(spec)),
        initial=initial(spec),
        legend=LEGEND,
    )


def initial(spec: Spec) -> tuple[str, ...]:
    """The states where a migration begins; a valid machine has one."""
    return tuple(state.name for state in spec.states.values() if state.kind is Kind.INITIAL)


def form_of(spec: Spec, row: Row) -> Form:
    """What a row means for the migration."""
    if row.point_of_no_return:
        return Form.POINT_OF_NO_RETURN
    if row.failure:
        return Form.FAILURE
    return Form.RETRY if spec.states[row.source].kind is Kind.STABLE else Form.FORWARD


def arrows(spec: Spec) -> list[Arrow]:
    """The rows, those between two states that mean the same joined into one arrow; in the file's order."""
    grouped: dict[tuple[str, str, Form], list[Row]] = {}
    for row in spec.rows:
        grouped.setdefault((row.source, row.dest, form_of(spec, row)), []).append(row)
    return [Arrow(*key, tuple(rows), _row_texts(key[2], rows)) for key, rows in grouped.items()]


def _row_texts(form: Form, rows: Iterable[Row]) -> tuple[Text, ...]:
    texts = [Text("POINT OF NO RETURN", bold=True)] if form is Form.POINT_OF_NO_RETURN else []
    for row in rows:
        texts += [Text(row.trigger, bold=True), *condition_texts(row)]
    return tuple(texts)


def condition_texts(row: Row) -> list[Text]:
    """A row's conditions in brackets."""
    return (
        [Text(line) for line in wrap(f"[{', '.join(row.conditions)}]", EDGE_WIDTH)] if row.conditions else []
    )


def box_lines(state: State) -> tuple[str, ...]:
    """What a state means, does and blocks."""
    lines = wrap(state.meaning, BOX_WIDTH)
    if state.kind is not Kind.FINAL:
        lines.append(f"activity: {state.activity or 'none'}")
    names = ", ".join(blocked(state.blocks)) or "nothing"
    count = f" {len(state.blocks)} operations" if len(state.blocks) > 1 else ""
    return (*lines, *wrap(f"blocks{count}: {names}", BOX_WIDTH))


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


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters; names stay whole."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
