"""A sweep as figures: edges against faithfulness and metric, and the overlap matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from discovery.show.drawing import save_figure
from discovery.sweeps.points import Mean, Point

# Okabe and Ito's colours, distinguishable without red-green vision
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#404040")
MARKERS = "osD^vPX"
READABLE = 30  # runs whose names fit beside a matrix
LONGEST = 44  # letters of a run's name


def draw_front(folder: Path, points: Sequence[Point], title: str) -> Path:
    """pareto.png and .svg: one panel for faithfulness and one a metric.

    A filled marker is on the front; bars are intervals over seeds.
    """
    metrics = list(dict.fromkeys(p.metric for p in points))
    series = list(dict.fromkeys(p.series for p in points))
    size = (4.9 * (1 + len(metrics)), 4.6)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    first, *others = figure.subplots(1, 1 + len(metrics), squeeze=False)[0]
    for level in (0.0, 1.0):
        first.axhline(level, color="#bbbbbb", linewidth=0.8, zorder=0)
    for number, name in enumerate(series):
        mine = [p for p in points if p.series == name]
        _draw_series(first, number, name, [(p, p.faithfulness) for p in mine])
        for axes, metric in zip(others, metrics, strict=True):
            _draw_series(axes, number, name, [(p, p.value) for p in mine if p.metric == metric])
    for axes, label in zip((first, *others), ("faithfulness", *metrics), strict=True):
        if min(p.edges.mean for p in points) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xscale("symlog", linthresh=1)
        axes.set(xlabel="edges", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    first.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save_figure(figure, folder, "pareto", "svg")
    return save_figure(figure, folder, "pareto", "png")


def _draw_series(
    axes: Axes, number: int, name: str, places: Sequence[tuple[Point, Mean | None]]
) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    known = [(p, y) for p, y in places if y is not None]
    x, y = [p.edges.mean for p, _ in known], [y.mean for _, y in known]
    axes.plot(x, y, color=colour, linewidth=1.1, alpha=0.6, zorder=1)
    for point, value in known:
        axes.errorbar(
            point.edges.mean, value.mean, xerr=_reach(point.edges), yerr=_reach(value),
            fmt=marker, color=colour, markersize=5.5, linewidth=0.9, capsize=2, zorder=2,
            markerfacecolor=colour if point.front else "white",
        )  # fmt: skip
    axes.plot([], [], color=colour, marker=marker, markersize=5.5, linewidth=1.1, label=name)


def _reach(mean: Mean) -> NDArray[np.float64] | None:
    if mean.low is None or mean.high is None:
        return None
    return np.array([[mean.mean - mean.low], [mean.high - mean.mean]])


def draw_overlap(folder: Path, names: Sequence[str], values: NDArray[np.float64]) -> Path:
    """overlap.png: Jaccard indices [runs, runs], grey where two runs have different graphs."""
    side = min(12.0, 3.2 + 0.32 * len(names))
    figure = Figure(figsize=(side + 1.5, side), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("#dddddd")
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(image, ax=axes, label="edges in both / edges in any (Jaccard)", shrink=0.8)
    if len(names) <= READABLE:
        short = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
        axes.set_xticks(range(len(names)), short, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), short, fontsize=7)
    return save_figure(figure, folder, "overlap", "png")
