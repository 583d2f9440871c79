"""What differs between two machines, as text for a merge request and as a picture."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from difflib import SequenceMatcher

from attrs import evolve, frozen

from fsm.machine.picture import (
    BOX_WIDTH,
    Arrow,
    Box,
    Form,
    Look,
    Picture,
    Text,
    box_lines,
    condition_texts,
    form_of,
    initial,
    wrap,
)
from fsm.machine.spec import RecoverRow, Row, Spec, State

_SIGNS = {Look.ADDED: "+", Look.REMOVED: "-", Look.CHANGED: "~"}
LEGEND = (
    ("Green, +", "added"),
    ("Red, -, struck through", "removed"),
    ("Amber, ~", "changed; - is how it was, + how it is"),
    ("Grey", "as it was"),
)


@frozen
class StateChange:
    """A state that differs; ``details`` say how, each line with its sign."""

    look: Look
    state: State
    details: tuple[str, ...] = ()


@frozen
class RowChange:
    """A transition that differs; ``row`` is the new one, or the removed one."""

    look: Look
    row: Row
    details: tuple[str, ...] = ()


@frozen
class Difference:
    """Everything that differs between two machines, in the order of the new one."""

    old: Spec
    new: Spec
    states: tuple[StateChange, ...]
    rows: tuple[RowChange, ...]

    @property
    def empty(self) -> bool:
        """Whether both machines do the same."""
        return not self.states and not self.rows


def compare(old: Spec, new: Spec) -> Difference:
    """The difference. The order of transitions and of conditions means nothing; that of recover rows does."""
    return Difference(old, new, tuple(_states(old, new)), tuple(_rows(old.rows, new.rows)))


# -- states ---------------------------------------------------------------------------------------------


def _states(old: Spec, new: Spec) -> Iterable[StateChange]:
    for name, state in new.states.items():
        before = old.states.get(name)
        if before is None:
            yield StateChange(Look.ADDED, state)
        elif details := tuple(_state_details(before, state)):
            yield StateChange(Look.CHANGED, state, details)
    for name, state in old.states.items():
        if name not in new.states:
            yield StateChange(Look.REMOVED, state)


def _state_details(old: State, new: State) -> Iterable[str]:
    facts = (
        ("kind", old.kind, new.kind),
        ("meaning", old.meaning, new.meaning),
        ("activity", old.activity or "none", new.activity or "none"),
        ("timeout_s", old.timeout_s, new.timeout_s),
        ("retry", old.retry, new.retry),
    )
    for what, before, now in facts:
        if before != now:
            yield f"- {what}: {before if before is not None else 'none'}"
            yield f"+ {what}: {now if now is not None else 'none'}"
    yield from (f"- blocks {operation}" for operation in sorted(old.blocks - new.blocks))
    yield from (f"+ blocks {operation}" for operation in sorted(new.blocks - old.blocks))
    yield from _sequence(list(map(_recover_text, old.recover)), list(map(_recover_text, new.recover)))


def _recover_text(row: RecoverRow) -> str:
    return f"on {', '.join(sorted(row.when)) or 'anything else'}: {row.do}"


def _sequence(old: Sequence[str], new: Sequence[str]) -> Iterable[str]:
    for tag, a, b, c, d in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from (f"- {line}" for line in old[a:b])
            yield from (f"+ {line}" for line in new[c:d])


# -- transitions ----------------------------------------------------------------------------------------


def _key(row: Row) -> Hashable:
    return (*_place(row), frozenset(row.conditions), row.actions, row.failure, row.point_of_no_return)


def _place(row: Row) -> tuple[str, str, str]:
    return row.trigger, row.source, row.dest


def _rows(old: Iterable[Row], new: Iterable[Row]) -> Iterable[RowChange]:
    new = list(new)
    kept = {_key(row) for row in new} & {_key(row) for row in old}
    gone = [row for row in old if _key(row) not in kept]
    for row in new:
        if _key(row) in kept:
            continue
        # The same trigger from the same state is the same row, changed; preferably one with the same end.
        same = [before for before in gone if before.trigger == row.trigger and before.source == row.source]
        same.sort(key=lambda before: before.dest != row.dest)
        if same:
            gone.remove(same[0])
            yield RowChange(Look.CHANGED, row, tuple(_row_details(same[0], row)))
        else:
            yield RowChange(Look.ADDED, row)
    yield from (RowChange(Look.REMOVED, row) for row in gone)


def _row_details(old: Row, new: Row) -> Iterable[str]:
    if old.dest != new.dest:
        yield f"- to {old.dest}"
        yield f"+ to {new.dest}"
    yield from (f"- condition {name}" for name in old.conditions if name not in new.conditions)
    yield from (f"+ condition {name}" for name in new.conditions if name not in old.conditions)
    yield from _sequence(
        [f"action {name}" for name in old.actions], [f"action {name}" for name in new.actions]
    )
    for what, before, now in (
        ("failure", old.failure, new.failure),
        ("point of no return", old.point_of_no_return, new.point_of_no_return),
    ):
        if before != now:
            yield f"{'+' if now else '-'} {what}"


# -- as text --------------------------------------------------------------------------------------------


def text(difference: Difference) -> str:
    """The difference in lines, each with ``+``, ``-`` or ``~`` in front, as diff tools colour them."""
    old, new = difference.old, difference.new
    lines = [f"--- {old.file} {old.digest}", f"+++ {new.file} {new.digest}"]
    if difference.empty:
        lines.append("  the machines do the same")
    for one in difference.states:
        lines.append(f"{_SIGNS[one.look]} state {one.state.name} ({one.state.kind})")
        lines += _indented(one.look, one.details or _whole_state(one.state))
    for change in difference.rows:
        row = change.row
        lines.append(f"{_SIGNS[change.look]} transition {row.trigger}: {row.source} -> {row.dest}")
        lines += _indented(change.look, change.details or _whole_row(row))
    return "\n".join(lines) + "\n"


def _indented(look: Look, details: Iterable[str]) -> list[str]:
    if look is Look.CHANGED:
        return [f"{line[0]}   {line[1:]}" for line in details]
    return [f"{_SIGNS[look]}     {line}" for line in details]


def _whole_state(state: State) -> tuple[str, ...]:
    return (
        state.meaning,
        f"activity: {state.activity or 'none'}",
        f"blocks: {', '.join(sorted(state.blocks)) or 'nothing'}",
        *map(_recover_text, state.recover),
    )


def _whole_row(row: Row) -> tuple[str, ...]:
    marks = [
        *(["failure"] if row.failure else []),
        *(["point of no return"] if row.point_of_no_return else []),
    ]
    return (
        f"conditions: {', '.join(row.conditions) or 'none'}",
        f"actions: {', '.join(row.actions) or 'none'}",
        *marks,
    )


# -- as a picture ---------------------------------------------------------------------------------------


def picture(difference: Difference) -> Picture:
    """Both machines in one: what differs stands out, the rest is grey."""
    old, new = difference.old, difference.new
    changes = {change.state.name: change for change in difference.states}
    states = {**old.states, **new.states}
    boxes = tuple(_box(state, changes.get(name)) for name, state in states.items())
    changed = {id(change.row) for change in difference.rows}
    same = [_arrow(new, RowChange(Look.FADED, row)) for row in new.rows if id(row) not in changed]
    others = [_arrow(old if change.look is Look.REMOVED else new, change) for change in difference.rows]
    return Picture(
        title=f"{old.file} {old.digest} -> {new.file} {new.digest}",
        boxes=boxes,
        arrows=(*_joined(same), *others),
        initial=tuple(dict.fromkeys((*initial(new), *initial(old)))),
        legend=LEGEND,
    )


def _box(state: State, change: StateChange | None) -> Box:
    if change is None:
        return Box(state.name, state.kind, (), Look.FADED)
    if change.look is Look.CHANGED:
        lines = [part for line in change.details for part in wrap(line, BOX_WIDTH)]
        return Box(state.name, state.kind, tuple(lines), change.look)
    return Box(state.name, state.kind, (change.look.value.upper(), *box_lines(state)), change.look)


def _arrow(spec: Spec, change: RowChange) -> Arrow:
    row = change.row
    sign = _SIGNS.get(change.look, "")
    texts = [Text(f"{sign} {row.trigger}".strip(), bold=bool(sign))]
    if change.look is Look.CHANGED:
        texts += [Text(part) for line in change.details for part in wrap(line, BOX_WIDTH)]
    elif change.look is not Look.FADED:
        texts += condition_texts(row)
    return Arrow(row.source, row.dest, form_of(spec, row), (row,), tuple(texts), change.look)


def _joined(arrows: Iterable[Arrow]) -> list[Arrow]:
    """Arrows that differ in their texts alone, as one."""
    grouped: dict[tuple[str, str, Form], Arrow] = {}
    for arrow in arrows:
        key = (arrow.source, arrow.dest, arrow.form)
        first = grouped.get(key)
        if first is None:
            grouped[key] = arrow
        else:
            texts = tuple(dict.fromkeys((*first.texts, *arrow.texts)))
            grouped[key] = evolve(first, rows=(*first.rows, *arrow.rows), texts=texts)
    return list(grouped.values())
