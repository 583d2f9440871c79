"""Bars out of results: medians, with the lowest and the highest, grouped by image.

What is to be drawn is worked out without matplotlib, which comes with the extra ``bench`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from bench.figures import Metric, Spread, spread, values_of
from bench.results import Kind, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "png")
INSTALL = "./dev bench installs matplotlib where it can, then: ./dev bench show FILE"
_GROUP = 0.86
"""How much of the room of an image its bars take."""
_TALLER = 30.0
"""Images whose bars differ by more than this are shown on a logarithmic scale."""


@frozen
class Series:
    """One contender: a bar for each image, None where it was not measured."""

    contender: str
    bars: tuple[Spread | None, ...]


@frozen
class Panel:
    """One number of all contenders, with all images."""

    title: str
    images: tuple[str, ...]
    series: tuple[Series, ...]

    @property
    def spans_much(self) -> bool:
        """Whether the small bars would not be seen beside the large ones."""
        middles = [bar.median for one in self.series for bar in one.bars if bar and bar.median > 0]
        return bool(middles) and max(middles) > _TALLER * min(middles)


_WANTED: tuple[tuple[str, Kind, Metric], ...] = (
    ("Total time of a migration, s", Kind.MIGRATION, lambda run: run.seconds),
    ("Longest silence of the guest, ms", Kind.MIGRATION, lambda run: run.silence_ms),
    ("Base copy, s", Kind.BASE_COPY, lambda run: run.seconds),
)


def panels(runs: Sequence[Run]) -> tuple[Panel, ...]:
    """What can be drawn of these runs."""
    found = (
        _panel(title, [run for run in runs if run.kind is kind], metric) for title, kind, metric in _WANTED
    )
    return tuple(panel for panel in found if panel.series)


def _panel(title: str, runs: Sequence[Run], metric: Metric) -> Panel:
    images = tuple(dict.fromkeys(run.where.image for run in runs))
    series = []
    for name in dict.fromkeys(run.contender for run in runs):
        of_images = ([run for run in runs if run.where.image == image] for image in images)
        series.append(Series(name, tuple(spread(values_of(some, name, metric)) for some in of_images)))
    return Panel(title, images, tuple(series))


def draw(found: Sequence[Panel], beside: Path) -> list[Path]:
    """One picture in each format, named as ``beside``. Raises ``ImportError`` without matplotlib."""
    from matplotlib.figure import Figure

    if not found:
        return []
    figure = Figure(figsize=(14, 5 * len(found)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True):
        _draw(axes, panel)
    paths = [beside.with_suffix(f".{one}") for one in FORMATS]
    for path in paths:
        figure.savefig(path)
    return paths


def _draw(axes: Axes, panel: Panel) -> None:
    width = _GROUP / len(panel.series)
    for number, one in enumerate(panel.series):
        bars = [(place, bar) for place, bar in enumerate(one.bars) if bar is not None]
        axes.bar(
            [place + (number - (len(panel.series) - 1) / 2) * width for place, _ in bars],
            [bar.median for _, bar in bars],
            width,
            label=one.contender,
            color=f"C{number}",
            yerr=[
                [bar.median - bar.lowest for _, bar in bars],
                [bar.highest - bar.median for _, bar in bars],
            ],
            error_kw={"elinewidth": 0.8, "capsize": 2},
        )
    axes.set_title(panel.title, loc="left")
    axes.set_xticks(range(len(panel.images)), panel.images)
    if panel.spans_much:
        axes.set_yscale("log")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
