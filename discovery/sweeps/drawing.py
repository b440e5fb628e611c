"""A sweep as figures: edges against faithfulness and metric, and the overlap matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from discovery.show.drawing import save_figure
from discovery.sweeps.points import Mean, Point

# Okabe and Ito's colours, distinguishable without red-green vision
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#404040")
MARKERS = "osD^vPX"
ASIDE = ((-6, 6), (6, -12))  # points from a marker to its threshold, of every other series
READABLE = 30  # runs whose names fit beside a matrix
NUMBERED = 12  # runs whose indices fit into its cells
LONGEST = 44  # letters of a run's name
DECADE = 10.0  # largest over smallest value, from which an axis is logarithmic
POSSIBLE: Mapping[str, tuple[float, float]] = {  # what a metric's mean can be
    "kl": (0.0, math.inf), "nll": (0.0, math.inf), "prob_diff": (-1.0, 1.0),
}  # fmt: skip
SHARES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)  # ticks of faithfulness near 1


def draw_front(folder: Path, points: Sequence[Point], title: str) -> Path:
    """pareto.png and .svg: one panel for faithfulness and one a metric.

    A filled marker is on the front; bars are intervals over seeds, as far as values can lie there;
    each series is named at its largest circuit, each point by its threshold.
    """
    metrics = list(dict.fromkeys(p.metric for p in points))
    series = list(dict.fromkeys(p.series for p in points))
    size = (5.6 * (1 + len(metrics)), 4.8)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    first, *others = figure.subplots(1, 1 + len(metrics), squeeze=False)[0]
    panels: list[tuple[Axes, str, Callable[[Point], Mean | None]]] = [
        (first, "faithfulness", lambda p: p.faithfulness),
        *((axes, m, lambda p, m=m: p.value if p.metric == m else None)
          for axes, m in zip(others, metrics, strict=True)),
    ]  # fmt: skip
    for axes, name, value in panels:
        for number, own in enumerate(series):
            mine = [(p, y) for p in points if p.series == own and (y := value(p)) is not None]
            _draw_series(axes, number, own, mine, POSSIBLE.get(name, (-math.inf, math.inf)))
        _scale(axes, name, points, [y.mean for p in points if (y := value(p)) is not None])
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    save_figure(figure, folder, "pareto", "svg")
    return save_figure(figure, folder, "pareto", "png")


def _scale(axes: Axes, name: str, points: Sequence[Point], values: Sequence[float]) -> None:
    """Logarithmic axes where values span decades; of faithfulness what is missing to 1 does."""
    if min(p.edges.mean for p in points) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xscale("symlog", linthresh=1)
    if name == "faithfulness":
        if near_one(values):
            axes.set_yscale("function", functions=(_missing, _present))
            axes.yaxis.set_major_locator(
                FixedLocator([s for s in SHARES if s >= min(values) - 0.2])
            )
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            for level in (0.0, 1.0):
                axes.axhline(level, color="#bbbbbb", linewidth=0.8, zorder=0)
    elif values and min(values) > 0 and max(values) > DECADE * min(values):
        axes.set_yscale("log")
    axes.set(xlabel="edges", ylabel=name)
    axes.margins(x=0.16, y=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def near_one(shares: Sequence[float]) -> bool:
    """Whether what is missing to 1 spans a decade, all shares being above 0 and below 1."""
    missing = [1 - share for share in shares]
    return bool(missing) and 0 < min(missing) < max(missing) < 1 and (
        max(missing) > DECADE * min(missing)
    )  # fmt: skip


def _missing(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.log10(np.maximum(1 - np.asarray(share, dtype=float), 1e-9))


def _present(decades: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - 10.0 ** -np.asarray(decades, dtype=float)


def _draw_series(
    axes: Axes, number: int, name: str, known: Sequence[tuple[Point, Mean]],
    possible: tuple[float, float],
) -> None:  # fmt: skip
    if not known:
        return
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    x, y = [p.edges.mean for p, _ in known], [y.mean for _, y in known]
    axes.plot(x, y, color=colour, linewidth=1.1, alpha=0.6, zorder=1)
    for point, value in known:
        axes.errorbar(
            point.edges.mean, value.mean, xerr=reach(point.edges, (0.0, math.inf)),
            yerr=reach(value, possible), fmt=marker, color=colour, markersize=5.5, linewidth=0.9,
            capsize=2, zorder=2, markerfacecolor=colour if point.front else "white",
        )  # fmt: skip
        if point.threshold is not None:
            axes.annotate(
                f"{point.threshold:g}", (point.edges.mean, value.mean), ASIDE[number % 2],
                textcoords="offset points", ha="right" if ASIDE[number % 2][0] < 0 else "left",
                fontsize=7, color=colour,
            )  # fmt: skip
    last = max(known, key=lambda one: one[0].edges.mean)
    axes.annotate(name, (last[0].edges.mean, last[1].mean), (7, 5), textcoords="offset points",
                  fontsize=9, color=colour, weight="bold")  # fmt: skip


def reach(mean: Mean, possible: tuple[float, float]) -> NDArray[np.float64] | None:
    """[[below], [above]]: how far the interval reaches, cut where no value can lie."""
    if mean.low is None or mean.high is None:
        return None
    low, high = max(mean.low, possible[0]), min(mean.high, possible[1])
    return np.array([[max(mean.mean - low, 0.0)], [max(high - mean.mean, 0.0)]])


def draw_overlap(folder: Path, names: Sequence[str], values: NDArray[np.float64]) -> Path:
    """overlap.png: Jaccard indices [runs, runs], grey where two runs have different graphs."""
    side = min(12.0, 3.2 + 0.32 * len(names))
    figure = Figure(figsize=(side + 1.5, side), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("#dddddd")
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(image, ax=axes, label="edges in both / edges in any (Jaccard)", shrink=0.8)
    if len(names) <= NUMBERED:
        for (i, j), value in np.ndenumerate(values):
            if not math.isnan(value):
                ink = "black" if value > 0.6 else "white"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    if len(names) <= READABLE:
        short = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
        axes.set_xticks(range(len(names)), short, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), short, fontsize=7)
    return save_figure(figure, folder, "overlap", "png")
