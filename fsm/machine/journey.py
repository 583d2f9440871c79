"""The path that one migration took through the machine, as a picture."""

from __future__ import annotations

from attrs import evolve, frozen

from fsm.machine.picture import BOX_WIDTH, Arrow, Box, Look, Picture, Text, arrows, initial, wrap
from fsm.machine.spec import Kind, Spec

# So many of a state's failed tries are told in its box, each in so many lines.
FAILURES_SHOWN, FAILURE_LINES = 2, 4
LEGEND = (
    ("Blue", "the states it was in and the transitions it took, numbered in their order"),
    ("Yellow with a thick border", "where it is now"),
    ("Grey", "where it has not been"),
)


@frozen
class Stay:
    """One stay in a state. Times are texts; ``lasted`` is empty while it lasts."""

    state: str
    entered: str
    lasted: str = ""
    failures: tuple[str, ...] = ()


@frozen
class Taken:
    """A transition taken, or under way: then ``ended`` is false."""

    trigger: str
    source: str
    dest: str
    at: str
    ended: bool = True


@frozen
class Journey:
    """A migration's way so far."""

    migration: str
    begun: str
    stays: tuple[Stay, ...]
    taken: tuple[Taken, ...]

    @property
    def present(self) -> str:
        """The state it is in."""
        return self.stays[-1].state if self.stays else ""


def picture(spec: Spec, journey: Journey) -> Picture:
    """The machine with the path in it. States and rows that ``spec`` does not have are drawn as well."""
    unknown = [stay.state for stay in journey.stays if stay.state not in spec.states]
    kinds = {**{name: state.kind for name, state in spec.states.items()}}
    kinds.update(dict.fromkeys(unknown, Kind.TRANSIENT))
    boxes = tuple(_box(name, kind, journey) for name, kind in kinds.items())
    numbered = list(enumerate(journey.taken, start=1))
    drawn: list[Arrow] = []
    for arrow in arrows(spec):
        triggers = {row.trigger for row in arrow.rows}
        here = [
            (number, taken)
            for number, taken in numbered
            if (taken.source, taken.dest) == (arrow.source, arrow.dest) and taken.trigger in triggers
        ]
        drawn.append(_arrow(arrow, here))
    return Picture(
        title=f"Migration {journey.migration}, begun {journey.begun}: {journey.present}",
        boxes=boxes,
        arrows=tuple(drawn),
        initial=initial(spec),
        legend=LEGEND,
    )


def _box(name: str, kind: Kind, journey: Journey) -> Box:
    stays = [stay for stay in journey.stays if stay.state == name]
    if not stays:
        return Box(name, kind, (), Look.FADED)
    present = name == journey.present
    lines = ["PRESENT STATE"] if present else []
    for stay in stays:
        lines.append(f"from {stay.entered}" + (f", for {stay.lasted}" if stay.lasted else ""))
        if stay.failures:
            count = len(stay.failures)
            lines.append(f"{count} failed {'try' if count == 1 else 'tries'}:")
        for failure in stay.failures[:FAILURES_SHOWN]:
            told = wrap(failure, BOX_WIDTH)
            lines += (
                [*told[: FAILURE_LINES - 1], told[FAILURE_LINES - 1] + " …"]
                if len(told) > FAILURE_LINES
                else told
            )
    return Box(name, kind, tuple(lines), Look.PRESENT if present else Look.TAKEN)


def _arrow(arrow: Arrow, taken: list[tuple[int, Taken]]) -> Arrow:
    if not taken:
        # Their names alone: the eye shall find the path.
        names = tuple(dict.fromkeys(Text(row.trigger) for row in arrow.rows))
        return evolve(arrow, texts=names, look=Look.FADED)
    texts: list[Text] = []
    for number, one in taken:
        texts += [Text(f"{number}. {one.trigger}", bold=True), Text(one.at)]
        if not one.ended:
            texts.append(Text("under way"))
    return evolve(arrow, texts=tuple(texts), look=Look.TAKEN)
